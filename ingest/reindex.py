"""Another embedding model or another way of splitting: a second collection beside the live one, which then takes over.

Built a slice of versions at a time, each under the ingest lock, so that ingests go on in between; what they publish or
delete is caught up with, since a slice is always "what the new generation still lacks". At the end, under the lock,
every version is compared with the database and shown to whom it says; then one commit makes the new generation live.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from sqlalchemy import delete, exists, func, select
from sqlalchemy.orm import undefer

from ingest.blocks import unpack
from ingest.progress import OnProgress
from ingest.publish import chunk_values
from ingest.report import Progress, ReindexReport
from ingest.splitter import sizes, split
from ingest.writer import Writer
from tandem.database import Database
from tandem.errors import IndexUnavailable
from tandem.generations import Generation, Generations, Recipe
from tandem.tables import ChunkRow, VersionRow

_SLICE = 32
# The lock is open for this long between two slices, longer than an ingest that waits sleeps between two looks at it.
_PAUSE = 0.3


class Reindex:
    """Builds one generation.

    Args:
        database: The authority, and the text of every version.
        generations: The live one and the one being built.
        recipe: Of the generation to build.
        turn: Takes the ingest lock and repairs what a crash left.
        on_progress: Called after each slice.
    """

    def __init__(
        self,
        database: Database,
        generations: Generations,
        recipe: Recipe,
        turn: Callable[[], AbstractContextManager[None]],
        on_progress: OnProgress,
    ) -> None:
        self._database = database
        self._generations = generations
        self._recipe = recipe
        self._turn = turn
        self._on_progress = on_progress
        self._embedded = 0
        self._chunks = 0

    def run(self, open_writer: Callable[[Generation], Writer]) -> ReindexReport:
        """Builds it, or what is missing of it, and lets it take over."""
        started = time.monotonic()
        whole = False
        while not whole:
            with self._turn():
                if self._generations.recipe() == self._recipe:  # another process was quicker
                    break
                writer = open_writer(self._generations.build(self._recipe))
                versions = self._lacking(writer.generation.id)
                self._add(versions, writer)
                whole = len(versions) < _SLICE
                if whole:
                    self._finish(writer)
            if not whole:
                time.sleep(_PAUSE)
        with self._database.session() as session:
            published = session.scalar(select(func.count()).where(VersionRow.state == "published")) or 0
        return ReindexReport(
            generation=self._recipe.id,
            model_id=self._recipe.model_id,
            splitter=self._recipe.splitter,
            versions=published,
            chunks_embedded=self._embedded,
            chunks_reused=self._chunks - self._embedded,
            seconds=round(time.monotonic() - started, 3),
        )

    def _lacking(self, generation_id: str) -> Sequence[VersionRow]:
        """Published versions that have no chunks in the generation, a slice of them."""
        there = exists().where(ChunkRow.version_id == VersionRow.id, ChunkRow.generation_id == generation_id)
        missing = (VersionRow.state == "published", ~there)
        with self._database.session() as session:
            total = session.scalar(select(func.count()).where(VersionRow.state == "published")) or 0
            left = session.scalar(select(func.count()).where(*missing)) or 0
            self._on_progress(Progress(stage="reindex", done=total - left, total=total))
            statement = select(VersionRow).options(undefer(VersionRow.blocks)).where(*missing)
            return session.scalars(statement.order_by(VersionRow.document_id, VersionRow.seq).limit(_SLICE)).all()

    def _add(self, versions: Sequence[VersionRow], writer: Writer) -> None:
        """Splits, embeds and writes versions, invisible."""
        recipe = self._recipe
        for version in versions:
            blocks = unpack(version.text, version.blocks)
            chunks = split(version.text, blocks, sizes(recipe.splitter), recipe.model_id)
            self._embedded += writer.embed(chunks)
            self._chunks += len(chunks)
            rows = [ChunkRow(**values) for values in chunk_values(recipe.id, version.id, chunks)]
            writer.write(version.document_id, version.title, rows)
            # Last, so that a version with rows has its points.
            with self._database.session() as session:
                session.add_all(rows)

    def _finish(self, writer: Writer) -> None:
        """Everything is there: compare, show, take over."""
        index = writer.generation.index
        with self._database.session() as session:
            rows = session.scalars(select(VersionRow).where(VersionRow.state == "published")).all()
            # Retired or deleted since its slice was built.
            published = select(VersionRow.id).where(VersionRow.state == "published")
            session.execute(
                delete(ChunkRow).where(
                    ChunkRow.generation_id == writer.generation.id, ChunkRow.version_id.not_in(published)
                )
            )
        chunk_ids = writer.chunk_ids(row.id for row in rows)
        counts = index.version_counts()
        for version_id in counts.keys() - chunk_ids.keys():
            index.delete_version(version_id)
        for row in rows:
            wanted = len(chunk_ids[row.id])
            if counts.get(row.id, 0) != wanted:
                self._start_over(row.id, writer.generation.id)
                raise IndexUnavailable(
                    f"The new index holds {counts.get(row.id, 0)} of {wanted} passages of {row.document_id!r}. "
                    "The old one goes on answering; check the disk's space and run `tandem documents reindex` again."
                )
            index.settle(chunk_ids[row.id], live_from=row.live_from, live_until=row.live_until, groups=row.groups)
        self._generations.promote(writer.generation)

    def _start_over(self, version_id: str, generation_id: str) -> None:
        with self._database.session() as session:
            session.execute(
                delete(ChunkRow).where(ChunkRow.version_id == version_id, ChunkRow.generation_id == generation_id)
            )
