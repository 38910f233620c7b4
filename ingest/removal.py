"""Takes documents away: text, vectors, and what was made from them."""

import json
from collections.abc import Iterator, Sequence

from sqlalchemy import Text, cast, delete, func, select, update
from sqlalchemy.orm import Session

from ingest.report import DeletionReport
from ingest.writer import BATCH, batched
from tandem.database import Database
from tandem.errors import NotFound
from tandem.generations import Generations
from tandem.tables import AnswerRow, ChunkRow, DocumentRow, EmbeddingRow, StyleCandidateRow, VersionRow


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
            version_ids = list(session.scalars(select(VersionRow.id).where(VersionRow.document_id == document_id)))
            held = session.scalars(
                select(ChunkRow.key)
                .join(VersionRow, ChunkRow.version_id == VersionRow.id)
                .where(VersionRow.document_id == document_id)
            ).all()
            answers = len(list(_answers_about(session, document_id)))
            candidates = len(list(_candidates_about(session, document_id)))
        points = self._points(version_ids)
        self.remove_all([document_id])
        embeddings = self._drop_embeddings(set(held))
        return DeletionReport(
            document_id=document_id,
            versions=len(version_ids),
            chunks=len(held),
            points=points,
            embeddings=embeddings,
            answers=answers,
            style_candidates=candidates,
            remaining=self._probe(document_id, version_ids),
        )

    def remove_all(self, document_ids: Sequence[str]) -> None:
        """Deletes documents, those that are there: first they stop answering, then they go."""
        for batch in batched(document_ids, BATCH):
            self.withdraw(batch)
            self.erase(batch)

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
            for document_id in document_ids:
                answers = list(_answers_about(session, document_id))
                candidates = list(_candidates_about(session, document_id))
                session.execute(delete(AnswerRow).where(AnswerRow.id.in_(answers)))
                session.execute(delete(StyleCandidateRow).where(StyleCandidateRow.id.in_(candidates)))
            session.execute(delete(DocumentRow).where(DocumentRow.id.in_(document_ids)))

    def _drop_embeddings(self, keys: set[str]) -> int:
        dropped = 0
        for batch in batched(sorted(keys), BATCH):
            with self._database.session() as session:
                used = set(session.scalars(select(ChunkRow.key).where(ChunkRow.key.in_(batch))))
                gone = [key for key in batch if key not in used]
                held = session.scalar(select(func.count()).where(EmbeddingRow.key.in_(gone))) or 0
                session.execute(delete(EmbeddingRow).where(EmbeddingRow.key.in_(gone)))
                dropped += held
        return dropped

    def _points(self, version_ids: Sequence[str]) -> int:
        return sum(index.count(id) for index in self._generations.indexes() for id in version_ids)

    def _probe(self, document_id: str, version_ids: Sequence[str]) -> dict[str, int]:
        with self._database.session() as session:
            versions = session.scalar(select(func.count()).where(VersionRow.document_id == document_id)) or 0
            chunks = sum(
                session.scalar(select(func.count()).where(ChunkRow.version_id.in_(batch))) or 0
                for batch in batched(version_ids, BATCH)
            )
            answers = len(list(_answers_about(session, document_id)))
            candidates = len(list(_candidates_about(session, document_id)))
        return {
            "versions": versions,
            "chunks": chunks,
            "points": self._points(version_ids),
            "answers": answers,
            "style_candidates": candidates,
        }


def _answers_about(session: Session, document_id: str) -> Iterator[str]:
    """Answers whose receipt holds a passage of the document, cited or not."""
    # The database narrows by text, which both SQLite and PostgreSQL can; the receipt itself then decides.
    needle = json.dumps(document_id)[1:-1].rsplit("/", 1)[-1]
    found = session.execute(
        select(AnswerRow.id, AnswerRow.receipt).where(cast(AnswerRow.receipt, Text).contains(needle, autoescape=True))
    )
    for id, receipt in found:
        quoted = [*receipt.get("passages", ()), *receipt.get("citations", ())]
        if any(passage.get("document_id") == document_id for passage in quoted):
            yield id


def _candidates_about(session: Session, document_id: str) -> Iterator[str]:
    for id, document_ids in session.execute(select(StyleCandidateRow.id, StyleCandidateRow.document_ids)):
        if document_id in document_ids:
            yield id
