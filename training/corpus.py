"""The sources of all examples as a corpus that is searched as the service searches its index.

What an adapter learns to answer from has to look like what it gets in service: the best sentences of the best passages,
picked by the same code, with the near misses and gaps that come of it.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tandem.embedder import Embedder, Vectors
from tandem.evidence import EvidenceSelector, by_passage
from tandem.fusion import Ranked, fuse
from tandem.schemas import Passage
from tandem.sentences import units
from tandem.settings import RetrievalSettings, Settings
from tandem.sparse import SparseEncoder, SparseVector
from tandem.weights import embedder_name, model_dir
from training.examples import Group


@dataclass(frozen=True)
class Shown:
    """What is shown of one passage.

    Attributes:
        group: The group that the passage is of.
        source: Its place among the group's sources.
        units: Places of its units, in the order in which they are shown.
    """

    group: int
    source: int
    units: tuple[int, ...]


class RememberingEmbedder:
    """Embeds each text once: the same sentences are candidates for many questions."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._known: dict[str, Vectors] = {}

    def embed(self, texts: Sequence[str]) -> Vectors:
        """As `Embedder.embed`: float32, shape (len(texts), dimension)."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._embedder.embed(new), strict=True))
        return np.stack([self._known[text] for text in texts])


class Corpus:
    """Searches the sources of groups of examples.

    Args:
        groups: Each source of theirs is a passage of its own.
        embedder: The service's.
        sparse: The service's.
        settings: How many passages and sentences are given.
    """

    def __init__(
        self, groups: Sequence[Group], embedder: Embedder, sparse: SparseEncoder, settings: RetrievalSettings
    ) -> None:
        self._groups = list(groups)
        self._embedder = RememberingEmbedder(embedder)
        self._sparse = sparse
        self._settings = settings
        self._selector = EvidenceSelector(self._embedder, sparse, settings)
        self._passages = [
            [
                Passage(
                    n=1,
                    document_id=str(index),
                    version_id="",
                    chunk_id=f"{index}:{n}",
                    title=source.title,
                    heading=source.heading,
                    quote=source.text,
                    text=source.text,
                )
                for n, source in enumerate(group.sources)
            ]
            for index, group in enumerate(self._groups)
        ]
        self._embed_all()
        self._encode = lru_cache(maxsize=None)(sparse.encode_document)

    def _embed_all(self) -> None:
        """Embeds whatever will be asked for, in large batches, which take a fraction of the time of many small ones."""
        passages = [passage for row in self._passages for passage in row]
        sentences = [f"{unit.lead} {unit.text}".strip() for passage in passages for unit in units(passage.text)]
        questions = [example.question for group in self._groups for example in group.examples]
        texts = [*map(_text, passages), *sentences, *questions]
        if texts:
            self._embedder.embed(texts)

    def shelves(self, rng: random.Random) -> list[list[int]]:
        """Divides the groups into corpora in which no topic comes twice: of two on one topic, both could answer.

        Returns:
            Group numbers, those without sources left out.
        """
        by_topic: dict[str, list[int]] = defaultdict(list)
        for index, group in enumerate(self._groups):
            if group.sources:
                by_topic[group.topic].append(index)
        shelves: list[list[int]] = [[] for _ in range(max(map(len, by_topic.values()), default=0))]
        for members in by_topic.values():
            places = rng.sample(range(len(shelves)), len(members))
            for member, place in zip(members, places, strict=True):
                shelves[place].append(member)
        return [shelf for shelf in shelves if shelf]

    def evidence(self, question: str, shelf: Sequence[int]) -> list[Shown]:
        """What the service would give its model for a question, were `shelf` its corpus.

        Returns:
            The passages in the order in which they are shown.
        """
        passages = self._search(question, shelf)
        if self._settings.evidence == "passages":
            kept = self._selector.select(question, passages).passages
            chosen = {passage.chunk_id: units(passage.text) for passage in kept}
        else:
            chosen = by_passage(self._selector.rank(question, passages))
        texts = {passage.chunk_id: units(passage.text) for passage in passages}
        found = []
        for chunk_id, shown in chosen.items():
            group, source = (int(part) for part in chunk_id.split(":"))
            if places := [texts[chunk_id].index(unit) for unit in shown]:
                found.append(Shown(group, source, tuple(places)))
        return found

    @property
    def best_alone(self) -> bool:
        """Whether the service asks its model about one of the best units alone first."""
        return self._settings.evidence == "sentences" and self._settings.best_alone

    def looks(self, question: str, shelf: Sequence[int]) -> list[tuple[Shown, float]]:
        """The units that the service may ask its model about alone, best first, each with its score."""
        found = []
        for passage, unit, score in self._selector.rank(question, self._search(question, shelf)):
            group, source = (int(part) for part in passage.chunk_id.split(":"))
            found.append((Shown(group, source, (units(passage.text).index(unit),)), score))
        return found[: self._settings.compared]

    def best(self, question: str, shelf: Sequence[int]) -> Shown | None:
        """The best unit alone; None where nothing is found."""
        return next((shown for shown, _ in self.looks(question, shelf)), None)

    def _search(self, question: str, shelf: Sequence[int]) -> list[Passage]:
        pool = {passage.chunk_id: passage for index in shelf for passage in self._passages[index]}
        vectors = self._embedder.embed([question, *map(_text, pool.values())])
        near = dict(zip(pool, vectors[1:] @ vectors[0], strict=True))
        query = self._sparse.encode_query(question)
        lexical = {id: query.dot(self._document(passage)) for id, passage in pool.items()}
        rankings = []
        for scores in (near, {id: score for id, score in lexical.items() if score > 0}):
            best = sorted(scores, key=lambda id: -scores[id])[: self._settings.candidates]
            rankings.append([Ranked(id, float(scores[id]), float(near[id])) for id in best])
        found = fuse(rankings, self._settings.top_k)
        return [pool[point.id].model_copy(update={"similarity": point.similarity}) for point in found]

    def _document(self, passage: Passage) -> SparseVector:
        return self._encode(f"{passage.title} {passage.heading} {passage.text}")


def open_corpus(groups: Sequence[Group], settings: Settings) -> Corpus:
    """The corpus of some groups, searched with the embedding model of the settings.

    Raises:
        ModelUnavailable: That model was not prepared.
    """
    embedder = Embedder(model_dir(settings, embedder_name(settings)), settings.embedding)
    return Corpus(groups, embedder, SparseEncoder(), settings.retrieval)


def _text(passage: Passage) -> str:
    return f"{passage.heading}\n{passage.text}" if passage.heading else passage.text
