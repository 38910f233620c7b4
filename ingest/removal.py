"""Takes documents away: text, vectors, and what was made from them."""

import json
from collections.abc import Collection, Iterator, Sequence

from sqlalchemy import Text, cast, delete, func, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from ingest.report import DeletionReport, Removed
from ingest.writer import BATCH, batched
from tandem.database import Database
from tandem.errors import NotFound
from tandem.generations import Generations
from tandem.tables import (
    AnswerRow,
    ChunkRow,
    DocumentRow,
    EmbeddingRow,
    FeedbackRow,
    StyleCandidateRow,
    TrainingRunRow,
    VersionRow,
)

_NEEDLES = 50
MODEL_CACHE = (
    "The model server's prefix cache cannot be looked into from here. It holds no text but attention states of recent "
    "prompts, is not reachable by a search, and gives them up as new prompts come, or at once when it is restarted."
)


class Remover:
    """Deletes documents so that they stop answering at once, and nothing of them stays behind.

    Args:
        database: Decides; a document without a published version answers nothing.
        generations: Lose the points afterwards, one that is being built included.
    """

    def __init__(self, database: Database, generations: Generations) -> None:
        self._database = database
        self._generations = generations

    def remove(self, document_id: str) -> DeletionReport:
        """Deletes one document, then looks into each store whether anything of it is left.

        Raises:
            NotFound: There is no such document.
        """
        with self._database.session() as session:
            if session.get(DocumentRow, document_id) is None:
                raise NotFound(
                    f"There is no document {document_id!r}. `tandem documents list` shows those there are.", param="id"
                )
            version_ids = _version_ids(session, [document_id])
            keys = _keys(session, [document_id])
            answers = _answers_about(session, {document_id})
            adapters = _adapters_taught(session, _candidates_about(session, {document_id}, answers))
        removed = self.remove_all([document_id])
        dropped = self._drop_embeddings(keys)
        shared = len(keys) - len(self._unused(keys))
        return DeletionReport(
            document_id=document_id,
            **removed.model_dump() | {"embeddings": dropped, "embeddings_shared": shared},
            adapters=adapters,
            notes=(MODEL_CACHE,),
            remaining=self._probe(document_id, version_ids, keys, answers),
        )

    def remove_all(self, document_ids: Sequence[str]) -> Removed:
        """Deletes documents, those that are there: first they stop answering, then they go.

        Returns:
            What was removed, but for embeddings: those go when no chunk of any document uses them.
        """
        removed = Removed()
        for batch in batched(document_ids, BATCH):
            removed += self.held(batch)
            self.withdraw(batch)
            self.erase(batch)
        return removed

    def held(self, document_ids: Sequence[str]) -> Removed:
        """What the stores hold of some documents; embeddings are not counted."""
        with self._database.session() as session:
            version_ids = _version_ids(session, document_ids)
            chunks = _count(session, ChunkRow.version_id, version_ids)
            answers = _answers_about(session, set(document_ids))
            feedback = _count(session, FeedbackRow.answer_id, answers)
            candidates = _candidates_about(session, set(document_ids), answers)
        return Removed(
            versions=len(version_ids),
            chunks=chunks,
            points=self._points(version_ids),
            answers=len(answers),
            feedback=feedback,
            style_candidates=len(candidates),
        )

    def withdraw(self, document_ids: Sequence[str]) -> None:
        """The moment of truth: from here on the documents answer nothing, and a crash is finished by the next run."""
        with self._database.session() as session:
            session.execute(
                update(VersionRow)
                .where(VersionRow.document_id.in_(document_ids))
                .values(state="retired", indexed=False)
            )

    def erase(self, document_ids: Sequence[str]) -> None:
        """Deletes vectors, receipts that quote the documents, style candidates made from them, and their rows."""
        for index in self._generations.indexes():
            index.delete_documents(document_ids)
        with self._database.session() as session:
            answers = _answers_about(session, set(document_ids))
            candidates = _candidates_about(session, set(document_ids), answers)
            for batch in batched(answers, BATCH):
                session.execute(delete(AnswerRow).where(AnswerRow.id.in_(batch)))
            for batch in batched(candidates, BATCH):
                session.execute(delete(StyleCandidateRow).where(StyleCandidateRow.id.in_(batch)))
            session.execute(delete(DocumentRow).where(DocumentRow.id.in_(document_ids)))

    def _drop_embeddings(self, keys: set[str]) -> int:
        dropped = 0
        for batch in batched(self._unused(keys), BATCH):
            with self._database.session() as session:
                dropped += _count(session, EmbeddingRow.key, batch)
                session.execute(delete(EmbeddingRow).where(EmbeddingRow.key.in_(batch)))
        return dropped

    def _unused(self, keys: set[str]) -> list[str]:
        """Those that no chunk has any more."""
        unused: list[str] = []
        for batch in batched(sorted(keys), BATCH):
            with self._database.session() as session:
                used = set(session.scalars(select(ChunkRow.key).where(ChunkRow.key.in_(batch))))
            unused.extend(key for key in batch if key not in used)
        return unused

    def _points(self, version_ids: Sequence[str]) -> int:
        return sum(index.count(id) for index in self._generations.indexes() for id in version_ids)

    def _probe(
        self, document_id: str, version_ids: Sequence[str], keys: set[str], answers: Sequence[str]
    ) -> dict[str, int]:
        unused = self._unused(keys)
        with self._database.session() as session:
            return {
                "versions": _count(session, VersionRow.document_id, [document_id]),
                "chunks": _count(session, ChunkRow.version_id, version_ids),
                "points": self._points(version_ids),
                "embeddings": _count(session, EmbeddingRow.key, unused),
                "answers": len(_answers_about(session, {document_id})) + _count(session, AnswerRow.id, answers),
                "feedback": _count(session, FeedbackRow.answer_id, answers),
                "style_candidates": len(_candidates_about(session, {document_id})),
            }


def _version_ids(session: Session, document_ids: Sequence[str]) -> list[str]:
    return list(session.scalars(select(VersionRow.id).where(VersionRow.document_id.in_(document_ids))))


def _keys(session: Session, document_ids: Sequence[str]) -> set[str]:
    statement = select(ChunkRow.key).join(VersionRow, ChunkRow.version_id == VersionRow.id)
    return set(session.scalars(statement.where(VersionRow.document_id.in_(document_ids))))


def _count(session: Session, column: InstrumentedAttribute[str], values: Sequence[str]) -> int:
    """Rows whose column has one of the values."""
    return sum(session.scalar(select(func.count()).where(column.in_(batch))) or 0 for batch in batched(values, BATCH))


def _answers_about(session: Session, document_ids: set[str]) -> list[str]:
    """Answers whose receipt holds a passage of the documents, cited or not, and those that were asked in the same
    conversation afterwards: their receipts repeat what was answered before.
    """
    # The database narrows by text, which both SQLite and PostgreSQL can; the receipt itself then decides.
    needles = [json.dumps(id)[1:-1].rsplit("/", 1)[-1] for id in document_ids]
    quoting: dict[str, str] = {}
    people: set[str] = set()
    for some in batched(needles, _NEEDLES):
        receipt = cast(AnswerRow.receipt, Text)
        rows = session.execute(
            select(AnswerRow.id, AnswerRow.user, AnswerRow.text, AnswerRow.receipt).where(
                or_(*(receipt.contains(needle, autoescape=True) for needle in some))
            )
        )
        for id, user, text, content in rows:
            quoted = [*content.get("passages", ()), *content.get("citations", ())]
            if any(passage.get("document_id") in document_ids for passage in quoted):
                quoting[id] = text.strip()
                people.add(user)
    return [*quoting, *_carried_on(session, people, set(quoting.values()) - {""}, quoting.keys())]


def _carried_on(session: Session, people: set[str], texts: set[str], known: Collection[str]) -> Iterator[str]:
    if not texts:
        return
    for some in batched(people, BATCH):
        for id, receipt in session.execute(select(AnswerRow.id, AnswerRow.receipt).where(AnswerRow.user.in_(some))):
            turns = (receipt.get("ask") or {}).get("messages") or ()
            if id not in known and any(str(turn.get("content", "")).strip() in texts for turn in turns):
                yield id


def _candidates_about(session: Session, document_ids: set[str], answers: Collection[str] = ()) -> list[str]:
    """Style candidates whose sources quote the documents, or that were made of answers which repeat their text."""
    gone = set(answers)
    rows = session.execute(select(StyleCandidateRow.id, StyleCandidateRow.document_ids, StyleCandidateRow.answer_id))
    return [id for id, quoted, answer in rows if not document_ids.isdisjoint(quoted) or answer in gone]


def _adapters_taught(session: Session, candidate_ids: Sequence[str]) -> tuple[str, ...]:
    """Adapters whose training run was given one of the examples; the run keeps their ids, not their text."""
    wanted = set(candidate_ids)
    rows = session.execute(
        select(TrainingRunRow.adapter, TrainingRunRow.detail).where(TrainingRunRow.adapter.is_not(None))
    )
    return tuple(sorted({name for name, detail in rows if not wanted.isdisjoint((detail or {}).get("candidates", ()))}))
