"""Chunks -> embeddings -> points: what publishing, repair and a new generation all do."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
from sqlalchemy import select

from ingest.engine import Engine
from ingest.progress import OnProgress
from ingest.report import Progress
from tandem.database import Database
from tandem.generations import Generation
from tandem.schemas import Chunk
from tandem.sparse import SparseEncoder
from tandem.tables import ChunkRow, EmbeddingRow
from tandem.vectors import Point

T = TypeVar("T")
# Below the number of variables that SQLite allows in a statement.
BATCH = 500
# Small enough that a progress bar moves; a kill loses no more than one.
_EMBEDDED_AT_ONCE = 256


class Writer:
    """Writes chunks into one generation.

    Args:
        database: Holds every embedding that was ever computed and is still in use.
        generation: Where the points go.
        sparse: For the keyword vectors, which cost nothing worth keeping.
        engine: Asked only for texts whose embedding is not in the database.
        on_progress: Told how far the embedding is.
    """

    def __init__(
        self,
        database: Database,
        generation: Generation,
        sparse: SparseEncoder,
        engine: Engine,
        on_progress: OnProgress = lambda progress: None,
    ) -> None:
        self._database = database
        self.generation = generation
        self._sparse = sparse
        self._engine = engine
        self._on_progress = on_progress

    def embed(self, chunks: Iterable[Chunk | ChunkRow]) -> int:
        """Puts the missing embeddings into the database; returns how many were missing."""
        texts = {chunk.key: _embedding_text(chunk) for chunk in chunks}
        missing = sorted(self.missing(texts))
        done = 0
        for batch in batched(missing, _EMBEDDED_AT_ONCE):
            self._on_progress(Progress(stage="embed", done=done, total=len(missing)))
            # Saved batch by batch: what was embedded stays embedded, whatever happens to the run.
            vectors = self._engine.embed(self.generation.embedder, [texts[key] for key in batch])
            with self._database.session() as session:
                session.add_all(
                    EmbeddingRow(key=key, vector=np.asarray(vector, dtype="<f4").tobytes())
                    for key, vector in zip(batch, vectors, strict=True)
                )
            done += len(batch)
        return len(missing)

    def write(self, document_id: str, title: str, rows: Sequence[ChunkRow]) -> None:
        """Writes the points of a version whose embeddings are there, invisible."""
        self.write_all([(document_id, title, rows)])

    def write_all(self, versions: Iterable[tuple[str, str, Sequence[ChunkRow]]]) -> None:
        """Writes the points of several versions at once, as small documents would otherwise make many small writes.

        Args:
            versions: Of each its document's id, its title and its chunks.
        """
        each = ((document_id, title, row) for document_id, title, rows in versions for row in rows)
        for batch in batched(each, BATCH):
            with self._database.session() as session:
                found = session.execute(
                    select(EmbeddingRow.key, EmbeddingRow.vector).where(
                        EmbeddingRow.key.in_({row.key for _, _, row in batch})
                    )
                )
                vectors = {key: np.frombuffer(vector, dtype="<f4") for key, vector in found}
            self.generation.index.write(
                [
                    Point(
                        id=row.id,
                        document_id=document_id,
                        version_id=row.version_id,
                        dense=vectors[row.key],
                        sparse=self._sparse.encode_document(_keywords(title, row)),
                    )
                    for document_id, title, row in batch
                ]
            )

    def missing(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` whose embedding is not in the database."""
        wanted = set(keys)
        with self._database.session() as session:
            for batch in batched(sorted(wanted), BATCH):
                wanted -= set(session.scalars(select(EmbeddingRow.key).where(EmbeddingRow.key.in_(batch))))
        return wanted

    def chunk_ids(self, version_ids: Iterable[str]) -> dict[str, list[str]]:
        """The chunks of versions in this generation, by version, in reading order."""
        found: dict[str, list[str]] = {}
        with self._database.session() as session:
            for batch in batched(version_ids, BATCH):
                rows = session.execute(
                    select(ChunkRow.version_id, ChunkRow.id)
                    .where(ChunkRow.version_id.in_(batch), ChunkRow.generation_id == self.generation.id)
                    .order_by(ChunkRow.version_id, ChunkRow.ordinal)
                )
                for version_id, chunk_id in rows:
                    found.setdefault(version_id, []).append(chunk_id)
        return found


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _embedding_text(chunk: Chunk | ChunkRow) -> str:
    if isinstance(chunk, ChunkRow):
        chunk = Chunk(ordinal=chunk.ordinal, key=chunk.key, text=chunk.text, heading=chunk.heading)
    return chunk.embedding_text


def _keywords(title: str, row: ChunkRow) -> str:
    return "\n".join(part for part in (title, row.heading, row.text) if part)
