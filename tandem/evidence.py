"""What the model gets to read of the retrieved passages.

A large model takes whole passages. A small one answers better from the best few sentences, each still standing under
the passage it came from, so that citations resolve as before.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tandem.embedder import Embedder
from tandem.schemas import Passage
from tandem.sentences import Unit, join_units, units
from tandem.settings import RetrievalSettings
from tandem.sparse import SparseEncoder

Scores = npt.NDArray[np.floating[Any]]

RRF_K = 20  # few candidates: a small constant keeps the first ranks apart


class EvidenceSelector:
    """Chooses the quotes of a prompt."""

    def __init__(self, embedder: Embedder, sparse: SparseEncoder, settings: RetrievalSettings) -> None:
        self._embedder = embedder
        self._sparse = sparse
        self._settings = settings

    def select(self, question: str, passages: Sequence[Passage]) -> list[Passage]:
        """Cuts the passages down to what goes into the prompt.

        Args:
            question: The question as it was searched with.
            passages: Retrieved passages, best first.

        Returns:
            Passages with their `quote` set, in their given order, renumbered from 1. Those without a chosen sentence
            are gone.
        """
        if self._settings.evidence == "passages":
            return self._whole(passages)
        chosen = self._best_units(question, passages)
        kept = [passage for passage in passages if passage.chunk_id in chosen]
        return [
            passage.model_copy(update={"n": n, "quote": join_units(chosen[passage.chunk_id])})
            for n, passage in enumerate(kept, start=1)
        ]

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

    def _best_units(self, question: str, passages: Sequence[Passage]) -> dict[str, list[Unit]]:
        """The best units by chunk id, each list in the order of the passage."""
        pool = [(passage, unit) for passage in passages for unit in units(passage.text)]
        if not pool:
            return {}
        texts = [f"{unit.lead} {unit.text}".strip() for _, unit in pool]
        vectors = self._embedder.embed([question, *texts])
        dense = vectors[1:] @ vectors[0]
        query = self._sparse.encode_query(question)
        context = [f"{passage.title} {passage.heading} {text}" for (passage, _), text in zip(pool, texts, strict=True)]
        lexical = np.array([query.dot(self._sparse.encode_document(text)) for text in context])
        fused = _reciprocal_rank(dense) + _reciprocal_rank(lexical)
        left = self._settings.budget_words
        taken: list[int] = []
        for index in np.argsort(-fused, kind="stable"):
            words = len(texts[index].split())
            if len(taken) == self._settings.sentences:
                break
            if not taken or words <= left:
                taken.append(int(index))
                left -= words
        chosen: dict[str, list[Unit]] = {}
        for index in sorted(taken):
            passage, unit = pool[index]
            chosen.setdefault(passage.chunk_id, []).append(unit)
        return chosen


def _reciprocal_rank(scores: Scores) -> Scores:
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return 1.0 / (RRF_K + ranks)
