"""Everything an ingest and a reader need, on one data directory, opened in a process that will be killed."""

import hashlib
import json
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from qdrant_client import QdrantClient
from sqlalchemy import func, select

from ingest.engine import LocalEngine
from ingest.run import Ingestor
from tandem.database import Database
from tandem.generations import Generations
from tandem.qdrant import open_qdrant
from tandem.retriever import Retriever
from tandem.schemas import Principal
from tandem.settings import Settings, load_settings
from tandem.sparse import SparseEncoder
from tandem.tables import ChunkRow, EmbeddingRow, Table
from tests.crash.calendar import LATER, NOW, TODAY, YESTERDAY, undated
from tests.crash.recording import QUESTION, RecordedEmbedder, RecordedSandbox

ADMIN = Principal(user="root", admin=True)
ADA = Principal(user="ada", groups=frozenset({"everyone"}))
HANNA = Principal(user="hanna", groups=frozenset({"hr"}))
READERS = {
    "admin": (ADMIN, NOW),
    "everyone": (ADA, NOW),
    "hr": (HANNA, NOW),
    "admin yesterday": (ADMIN, YESTERDAY),
    "everyone later": (ADA, LATER),
}
# Moments of writing; what a run is called; the log of runs and of who did what, which tell of every attempt.
_VOLATILE = {"created_at"}
_LOGS = {"ingest_runs", "audit_log", "alembic_version"}


@dataclass(frozen=True)
class Place:
    """Where a world lies. `qdrant_url` None: embedded in the data directory; `database_url` None: SQLite there."""

    data_dir: str
    recording: str
    database_url: str | None = None
    qdrant_url: str | None = None
    collection: str = "tandem"

    @property
    def log(self) -> Path:
        """A line for every text that was embedded here."""
        return Path(f"{self.data_dir}.embedded")

    @property
    def settings(self) -> Settings:
        return load_settings(
            data_dir=Path(self.data_dir),
            database_url=self.database_url,
            qdrant={"url": self.qdrant_url, "collection": self.collection},
            ingest={"lock_timeout": 20},
        )


class World:
    """An opened place.

    Args:
        place: Where it lies.
        embedder, sandbox: Others than the recorded ones.
    """

    def __init__(self, place: Place, embedder: Any = None, sandbox: Any = None) -> None:
        settings = place.settings
        self.embedder: Any = embedder or RecordedEmbedder(Path(place.recording), place.log)
        self.database = Database(settings.database)
        self.database.migrate()
        self.qdrant = open_qdrant(settings)
        generations = Generations(self.database, self.qdrant, self.embedder, {}.__getitem__)
        sparse = SparseEncoder()
        reading = sandbox or RecordedSandbox(Path(place.recording))
        self.retriever = Retriever(self.database, generations, sparse, settings.retrieval)
        self.ingestor = Ingestor(
            self.database, generations, sparse, settings, engine=LocalEngine(settings.ingest, reading)
        )

    def close(self) -> None:
        self.ingestor.close()
        self.qdrant.close()
        self.database.close()

    def observe(self) -> dict[str, Any]:
        """What each reader can find: reader -> document -> its chunks, in order, with all that is told of them."""
        return {name: self._seen_by(who, day) for name, (who, day) in READERS.items()}

    def embeddings(self) -> int:
        """Embeddings in the database."""
        with self.database.session() as session:
            return session.scalar(select(func.count()).select_from(EmbeddingRow)) or 0

    def _seen_by(self, who: Principal, day: date) -> dict[str, Any]:
        seen: dict[str, list[Any]] = {}
        for found in self.retriever.authorised_search(QUESTION, who, day, candidates=2000):
            chunk, version = found.chunk, found.version
            told = [chunk.ordinal, chunk.heading, chunk.text, version.id, version.title, version.groups]
            seen.setdefault(version.document_id, []).append(told)
        return {id: sorted(chunks) for id, chunks in sorted(seen.items())}


def dump(place: Place) -> dict[str, list[str]]:
    """All that is stored, but for moments and logs: table or collection -> lines. Nothing may have it open."""
    database = Database(place.settings.database)
    stored: dict[str, list[str]] = {}
    with closing(database), database.engine.connect() as connection:
        for table in Table.metadata.sorted_tables:
            if table.name not in _LOGS:
                columns = [column for column in table.columns if column.name not in _VOLATILE]
                rows = connection.execute(select(*columns)).mappings()
                stored[table.name] = sorted(json.dumps({key: _plain(row[key]) for key in row}) for row in rows)
        joined = select(ChunkRow.id, EmbeddingRow.vector).join(EmbeddingRow, ChunkRow.key == EmbeddingRow.key)
        embedded = {id: np.frombuffer(vector, dtype="<f4") for id, vector in connection.execute(joined)}
    path = None if place.qdrant_url else str(place.settings.qdrant_path)
    with closing(QdrantClient(url=place.qdrant_url, path=path)) as client:
        for collection in client.get_collections().collections:
            if collection.name.startswith(place.collection):
                points = client.scroll(collection.name, limit=100_000, with_payload=True, with_vectors=True)[0]
                stored[collection.name] = sorted(_point(point, embedded) for point in points)
        aliases = client.get_aliases().aliases
        stored["aliases"] = sorted(f"{a.alias_name} -> {a.collection_name}" for a in aliases)
    return stored


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    value = undated(value)
    return str(value) if isinstance(value, date | datetime) else value


def _point(point: Any, embedded: dict[str, Any]) -> str:
    told = point.payload or {}
    days = {TODAY.toordinal(), TODAY.toordinal() + 1}  # days are stored as their numbers
    payload = {key: value if isinstance(value, list) or value not in days else "today" for key, value in told.items()}
    # Embedded Qdrant makes a vector's length 1 again each time it reads and writes it, so the last digits may differ.
    wanted = embedded.get(str(point.id))
    dense = np.asarray(point.vector["dense"], dtype=np.float32)
    kept = "as embedded" if wanted is not None and np.allclose(dense, wanted, atol=1e-5) else dense.tolist()
    sparse = point.vector["sparse"]
    vectors = hashlib.sha256(json.dumps([kept, sparse.indices, sparse.values]).encode()).hexdigest()
    return json.dumps([str(point.id), sorted(payload.items(), key=str), vectors])
