"""Brings index and database together again after a crash, a lost index folder, a restored backup."""

from collections.abc import Sequence

from sqlalchemy import delete, func, or_, select, update

from ingest.publish import Publisher
from ingest.removal import Remover
from ingest.writer import batched
from tandem.database import Database
from tandem.generations import Generation, Generations
from tandem.tables import ChunkRow, DocumentRow, IngestRunRow, VersionRow


class Repair:
    """Finishes what was committed, throws away what was not. Does nothing when all is well.

    Args:
        database: The authority.
        generations: Whose live one is made to follow it.
        live: The live generation.
        publisher: Settles and rewrites versions.
        remover: Finishes deletions.
    """

    def __init__(
        self,
        database: Database,
        generations: Generations,
        live: Generation,
        publisher: Publisher,
        remover: Remover,
    ) -> None:
        self._database = database
        self._generations = generations
        self._live = live
        self._index = live.index
        self._publisher = publisher
        self._remover = remover

    def run(self) -> None:
        """Repairs everything. The caller holds the ingest lock."""
        self._generations.tidy()
        self._drop_staged()
        self._finish_deletions()
        self._restore_points()
        self._settle()
        self._close_runs()

    def _drop_staged(self) -> None:
        with self._database.session() as session:
            staged = session.scalars(select(VersionRow.id).where(VersionRow.state == "staged")).all()
        for version_id in staged:
            self._index.delete_version(version_id)
        for batch in batched(staged, 500):
            with self._database.session() as session:
                session.execute(delete(VersionRow).where(VersionRow.id.in_(batch)))

    def _finish_deletions(self) -> None:
        published = select(VersionRow.document_id).where(VersionRow.state == "published")
        with self._database.session() as session:
            dead = session.scalars(select(DocumentRow.id).where(DocumentRow.id.not_in(published))).all()
        self._remover.remove_all(dead)

    def _restore_points(self) -> None:
        counts = self._index.version_counts()
        with self._database.session() as session:
            known = set(session.scalars(select(VersionRow.id).where(VersionRow.state != "staged")))
            expected = session.execute(
                select(ChunkRow.version_id, func.count())
                .join(VersionRow, ChunkRow.version_id == VersionRow.id)
                .where(VersionRow.state == "published", ChunkRow.generation_id == self._live.id)
                .group_by(ChunkRow.version_id)
            ).all()
        for version_id in counts.keys() - known:
            self._index.delete_version(version_id)
        for row in self._published([id for id, number in expected if counts.get(id, 0) != number]):
            with self._database.session() as session:
                session.execute(update(VersionRow).where(VersionRow.id == row.id).values(indexed=False))
            self._publisher.rewrite(row)

    def _settle(self) -> None:
        with self._database.session() as session:
            rows = session.scalars(
                select(VersionRow)
                .where(
                    VersionRow.indexed.is_(False), or_(VersionRow.state == "published", VersionRow.state == "retired")
                )
                .order_by(VersionRow.seq.desc())
            ).all()
        self._publisher.settle(rows)

    def _close_runs(self) -> None:
        # Nobody else holds the lock, so a run that says it is running died.
        with self._database.session() as session:
            session.execute(update(IngestRunRow).where(IngestRunRow.state == "running").values(state="failed"))

    def _published(self, version_ids: Sequence[str]) -> list[VersionRow]:
        rows: list[VersionRow] = []
        for batch in batched(version_ids, 500):
            with self._database.session() as session:
                rows.extend(
                    session.scalars(select(VersionRow).where(VersionRow.id.in_(batch), VersionRow.state == "published"))
                )
        return rows
