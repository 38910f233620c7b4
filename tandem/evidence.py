"""What the model gets to read of the retrieved passages.

A large model takes whole passages. A small one answers better from the best few sentences, each still standing under
the passage it came from, so that citations resolve as before; and better still if it is asked about the best of them
alone before it gets the others too (`training/LOG.md`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tandem.cross_encoder import CrossEncoder, context_of
from tandem.embedder import Vectors
from tandem.schemas import Passage
from tandem.sentences import Unit, in_blocks, join_units, units
from tandem.settings import RetrievalSettings
from tandem.sparse import SparseEncoder

Scores = npt.NDArray[np.floating[Any]]

# What the best keyword match adds to a sentence's cosine, and how much its passage's own cosine counts. Chosen on the
# style examples: where the passage is found, the best four sentences hold the answer to 84 % of the questions, and to
# 80 % when ranks of cosine and keywords are fused instead (`training/LOG.md`).
LEXICAL = 0.2
PASSAGE = 0.5


class Embeds(Protocol):
    """What turns texts into vectors of length 1: the embedder, or one that remembers what it embedded."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """float32, shape (len(texts), dimension)."""
        ...


class Scored(NamedTuple):
    """A sentence, its passage, and how good a match it is."""

    passage: Passage
    unit: Unit
    score: float


@dataclass(frozen=True)
class Look:
    """What a model may be asked about alone.

    Attributes:
        passage: One of the evidence's, with one sentence as its quote.
        score: How good a match that is.
        odds: The cross-encoder's log-odds that it answers; None without one.
    """

    passage: Passage
    score: float
    odds: float | None = None


@dataclass(frozen=True)
class Evidence:
    """What a question is answered from.

    Attributes:
        passages: Numbered from 1; `quote` is all that is chosen of each.
        alone: The best sentences, best first, if the model is asked about one of them alone before it is asked about
            all.
    """

    passages: tuple[Passage, ...] = ()
    alone: tuple[Look, ...] = ()

    @property
    def odds(self) -> float | None:
        """How likely one of the best sentences answers, by the cross-encoder, in log-odds; None if it was not asked."""
        return max((look.odds for look in self.alone if look.odds is not None), default=None)

    def led_by(self, look: Look) -> "Evidence":
        """The same with the look's passage first, so that what is alone in a prompt is number 1 here too."""
        first = [passage for passage in self.passages if passage.n == look.passage.n]
        others = [passage for passage in self.passages if passage.n != look.passage.n]
        numbered = enumerate([*first, *others], start=1)
        return replace(self, passages=tuple(passage.model_copy(update={"n": n}) for n, passage in numbered))


class EvidenceSelector:
    """Chooses the quotes of a prompt."""

    def __init__(
        self,
        embedder: Embeds,
        sparse: SparseEncoder,
        settings: RetrievalSettings,
        cross_encoder: CrossEncoder | None = None,
    ) -> None:
        self._cross_encoder = cross_encoder
        self._embedder = embedder
        self._sparse = sparse
        self._settings = settings
        self._encode = lru_cache(maxsize=16_384)(sparse.encode_document)  # a sentence is a candidate for many questions

    def select(self, question: str, passages: Sequence[Passage]) -> Evidence:
        """Cuts the passages down to what the model is asked about.

        Args:
            question: The question as it was searched with.
            passages: Retrieved passages, best first.

        Returns:
            Whole passages in their given order, those cut to sentences by their best one; those without a chosen
            sentence are gone.
        """
        if self._settings.evidence == "passages":
            return Evidence(tuple(self._whole(passages)))
        ranked = self.rank(question, passages)
        by_id = {passage.chunk_id: passage for passage, _, _ in ranked}
        kept = tuple(
            by_id[chunk_id].model_copy(update={"n": n, "quote": join_units(chosen)})
            for n, (chunk_id, chosen) in enumerate(by_passage(ranked).items(), start=1)
        )
        if not self._settings.best_alone or len(ranked) < 2:
            return Evidence(kept)
        number = {passage.chunk_id: passage.n for passage in kept}
        alone = tuple(
            Look(passage.model_copy(update={"n": number[passage.chunk_id], "quote": join_units([unit])}), score)
            for passage, unit, score in ranked[: self._settings.compared]
        )
        return Evidence(kept, self._judged(question, alone))

    def _judged(self, question: str, looks: tuple[Look, ...]) -> tuple[Look, ...]:
        if self._cross_encoder is None:
            return looks
        contexts = [context_of(look.passage.title, look.passage.heading, look.passage.quote) for look in looks]
        told = self._cross_encoder.odds(question, contexts)
        return tuple(replace(look, odds=odds) for look, odds in zip(looks, told, strict=True))

    def _whole(self, passages: Sequence[Passage]) -> list[Passage]:
        left = self._settings.budget_words
        kept: list[Passage] = []
        for passage in passages:
            words = passage.text.split()
            if kept and len(words) > left:
                break
            # A first passage longer than the budget is cut at a word; a later one is left out whole.
            quote = passage.text if len(words) <= left else " ".join(words[:left])
            left -= len(words)
            kept.append(passage.model_copy(update={"n": len(kept) + 1, "quote": quote}))
        return kept

    def rank(self, question: str, passages: Sequence[Passage]) -> list[Scored]:
        """The best units of some passages, best first."""
        pool = [(passage, unit) for passage in passages for unit in units(passage.text)]
        if not pool:
            return []
        texts = [f"{unit.lead} {unit.text}".strip() for _, unit in pool]
        vectors = self._embedder.embed([question, *texts])
        query = self._sparse.encode_query(question)
        context = [f"{passage.title} {passage.heading} {text}" for (passage, _), text in zip(pool, texts, strict=True)]
        lexical = np.array([query.dot(self._encode(text)) for text in context])
        passage_similarity = np.array([passage.similarity for passage, _ in pool])
        share = _share_of_best(lexical)
        score = vectors[1:] @ vectors[0] + LEXICAL * share + PASSAGE * passage_similarity
        left = self._settings.budget_words
        taken: list[int] = []
        seen: set[tuple[str, Unit]] = set()  # a passage may say a thing twice
        for index in _ranked(score, share, self._settings.sentences):
            words = len(texts[index].split())
            key = (pool[index][0].chunk_id, pool[index][1])
            if len(taken) == self._settings.sentences:
                break
            if key not in seen and (not taken or words <= left):
                taken.append(index)
                seen.add(key)
                left -= words
        return [Scored(*pool[index], float(score[index])) for index in taken]


def by_passage(ranked: Sequence[Scored]) -> dict[str, list[Unit]]:
    """Ranked units by chunk id, as they are shown together.

    Order is what tells a small model where to look: the passage with the best unit comes first, and in it that unit.
    Rows of one table and items of one list stay together, as the text has them.
    """
    chosen: dict[str, list[Unit]] = {}
    for passage, unit, _ in ranked:
        chosen.setdefault(passage.chunk_id, []).append(unit)
    texts = {passage.chunk_id: units(passage.text) for passage, _, _ in ranked}
    return {
        chunk_id: [
            texts[chunk_id][place]
            for place in in_blocks([texts[chunk_id].index(unit) for unit in some], texts[chunk_id].__getitem__)
        ]
        for chunk_id, some in chosen.items()
    }


def _ranked(score: Scores, lexical: Scores, count: int) -> list[int]:
    """All by score, but the best keyword match comes among the first `count`, if there are several.

    A line like "Effective date: 1 May" is near to hardly any question, and just what a formal question asks for.
    """
    order = [int(index) for index in np.argsort(-score, kind="stable")]
    best = max(order, key=lambda index: lexical[index])
    if lexical[best] > 0:
        place = order.index(best)
        order.insert(min(place, max(1, count - 1)), order.pop(place))
    return order


def _share_of_best(scores: Scores) -> Scores:
    best = scores.max()
    return scores / best if best > 0 else scores
