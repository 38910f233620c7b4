"""Question -> passages that this person may read on that day.

`authorised_search` is the one way from a question to stored text. The index suggests chunks, narrowed by group and
date; the database then decides on each of them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import defer

from tandem.database import Database
from tandem.errors import IndexUnavailable
from tandem.generations import Generations
from tandem.schemas import Passage, Principal
from tandem.settings import RetrievalSettings
from tandem.sparse import SparseEncoder
from tandem.tables import ChunkRow, DocumentRow, VersionRow
from tandem.vectors import Hit, Scope

# Searches for one question, when documents change while it is answered.
_ATTEMPTS = 3


@dataclass(frozen=True)
class AuthorisedChunk:
    """A chunk that was found, with what the database says of it (all but the version's text)."""

    chunk: ChunkRow
    version: VersionRow
    score: float
    similarity: float


class Retriever:
    """Finds the passages for a question. Synchronous and safe to call from several threads."""

    def __init__(
        self, database: Database, generations: Generations, sparse: SparseEncoder, settings: RetrievalSettings
    ) -> None:
        self._database = database
        self._generations = generations
        self._sparse = sparse
        self._settings = settings

    def retrieve(self, question: str, principal: Principal, as_of: date, top_k: int | None = None) -> list[Passage]:
        """Finds the best passages, at most `per_document` chunks of one document, neighbouring chunks merged.

        Args:
            question: A question that stands by itself.
            principal: Who asks; without groups, and not an admin, nothing is found.
            as_of: The day whose documents are asked for.
            top_k: Passages at most; None takes the setting.

        Returns:
            Best first, numbered from 1; `quote` is the whole text.

        Raises:
            IndexUnavailable, DatabaseUnavailable: There is then no answer, rather than an unchecked one.
        """
        limit = top_k or self._settings.top_k
        chunks = self.authorised_search(question, principal, as_of, candidates=max(self._settings.candidates, limit))
        chosen: list[AuthorisedChunk] = []
        taken: Counter[str] = Counter()
        for found in chunks:
            if taken[found.version.document_id] >= self._settings.per_document:
                continue
            if len(_merge_neighbours([*chosen, found])) > limit:
                break
            taken[found.version.document_id] += 1
            chosen.append(found)
        return [_passage(n, run) for n, run in enumerate(_merge_neighbours(chosen), start=1)]

    def authorised_search(
        self, question: str, principal: Principal, as_of: date, *, candidates: int
    ) -> list[AuthorisedChunk]:
        """The choke point: the only search of the index, every hit checked in the database.

        Args:
            question: The question.
            principal: Who asks.
            as_of: The day that a version's live interval must hold.
            candidates: Chunks at most.

        Returns:
            The chunks, best first, that exist, are published, in force on that day and readable by the principal.
        """
        if not question.strip() or not (principal.admin or principal.groups):
            return []
        sparse = self._sparse.encode_query(question)
        scope, generation = self._scope(principal, as_of), self._generations.live()
        checked: list[AuthorisedChunk] = []
        for attempt in range(1, _ATTEMPTS + 1):
            if generation is None:  # nothing was ever ingested
                return []
            try:
                dense = generation.embedder.embed([question])[0]
                hits = generation.index.query(dense, sparse, scope, candidates=candidates)
            except IndexUnavailable:
                # The collection may just have been replaced by the next generation's.
                if attempt == _ATTEMPTS or self._generations.live() is generation:
                    raise
                hits = []
            checked = self._checked(hits, principal, as_of)
            if hits and len(checked) == len(hits):
                break
            # A version, or the whole generation, may have been replaced since the scope was read; its successor is
            # then found at a second look.
            before = (scope, generation)
            scope, generation = self._scope(principal, as_of), self._generations.live()
            if (scope, generation) == before:
                break
        return checked[:candidates]

    def _scope(self, principal: Principal, as_of: date) -> Scope:
        """Between a commit and the index following it, the database's word stands in for the index's payload."""
        statement = select(
            VersionRow.id, VersionRow.groups, and_(VersionRow.state == "published", _in_force(as_of))
        ).where(VersionRow.indexed.is_(False), VersionRow.state != "staged")
        with self._database.session() as session:
            unsettled = session.execute(statement).all()
        admitted = frozenset(id for id, groups, live in unsettled if live and _may_read(principal, groups))
        return Scope(
            as_of=as_of,
            groups=None if principal.admin else principal.groups,
            admitted=admitted,
            excluded=frozenset(id for id, _, _ in unsettled) - admitted,
        )

    def _checked(self, hits: Sequence[Hit], principal: Principal, as_of: date) -> list[AuthorisedChunk]:
        # One statement, so that all hits are judged by one state of the database.
        statement = (
            select(ChunkRow, VersionRow)
            .options(defer(VersionRow.text, raiseload=True))
            .join(VersionRow, ChunkRow.version_id == VersionRow.id)
            .join(DocumentRow, VersionRow.document_id == DocumentRow.id)
            .where(ChunkRow.id.in_([hit.chunk_id for hit in hits]), VersionRow.state == "published", _in_force(as_of))
        )
        with self._database.session() as session:
            rows = {chunk.id: (chunk, version) for chunk, version in session.execute(statement)}
        checked = [
            AuthorisedChunk(*rows[hit.chunk_id], score=hit.score, similarity=hit.similarity)
            for hit in hits
            if hit.chunk_id in rows and _may_read(principal, rows[hit.chunk_id][1].groups)
        ]
        return sorted(checked, key=_place)


def _place(found: AuthorisedChunk) -> tuple[float, float, str, int]:
    """Equals by what their reader sees of them: ids tell of versions that the reader may never have seen."""
    return -found.score, -found.similarity, found.version.document_id, found.chunk.ordinal


def _in_force(day: date) -> ColumnElement[bool]:
    return and_(
        or_(VersionRow.live_from.is_(None), VersionRow.live_from <= day),
        or_(VersionRow.live_until.is_(None), VersionRow.live_until > day),
    )


def _may_read(principal: Principal, groups: Sequence[str] | None) -> bool:
    return principal.admin or not principal.groups.isdisjoint(groups or ())


def _merge_neighbours(chunks: Sequence[AuthorisedChunk]) -> list[list[AuthorisedChunk]]:
    """Joins chunks that follow each other in one version under one heading; the runs by their best chunk's rank."""
    rank = {found.chunk.id: place for place, found in enumerate(chunks)}
    runs: list[list[AuthorisedChunk]] = []
    for found in sorted(chunks, key=lambda found: (found.version.id, found.chunk.ordinal)):
        last = runs[-1][-1] if runs else None
        if (
            last is not None
            and last.version.id == found.version.id
            and last.chunk.ordinal + 1 == found.chunk.ordinal
            and last.chunk.heading == found.chunk.heading
        ):
            runs[-1].append(found)
        else:
            runs.append([found])
    return sorted(runs, key=lambda run: min(rank[found.chunk.id] for found in run))


def _passage(n: int, run: Sequence[AuthorisedChunk]) -> Passage:
    chunk, version = run[0].chunk, run[0].version
    text = "\n".join(found.chunk.text for found in run)
    return Passage(
        n=n,
        document_id=version.document_id,
        version_id=version.id,
        chunk_id=chunk.id,
        title=version.title or version.document_id,
        version=version.label,
        effective_from=version.effective_from,
        heading=chunk.heading,
        page=chunk.page,
        quote=text,
        text=text,
        url=version.source_url,
        score=max(found.score for found in run),
        similarity=max(found.similarity for found in run),
    )
