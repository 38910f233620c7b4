"""A state before an update and the state after it, and fresh copies of the first for each kill."""

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import psycopg
from qdrant_client import QdrantClient

from tests.crash.corpus import write_corpus
from tests.crash.forkserver import ForkServer
from tests.crash.world import Place

Q = TypeVar("Q")
POSTGRES = "host=127.0.0.1 dbname=postgres connect_timeout=2"
PATIENCE = 30.0


def postgres_answers() -> bool:
    try:
        psycopg.connect(POSTGRES).close()
    except psycopg.OperationalError:
        return False
    return True


class Scene:
    """One kind of database and index, with the corpus ingested in its first version and lying there in its second.

    Args:
        folder: Empty.
        recording: What the embedder and the sandbox answered.
        postgres: The state lies in PostgreSQL, each copy in a database of its own.
        qdrant_url: A Qdrant server; None: embedded.
    """

    def __init__(self, folder: Path, recording: Path, *, postgres: bool, qdrant_url: str | None) -> None:
        self._folder = folder
        self._postgres = postgres
        self._name = f"tandem_crash_{uuid.uuid4().hex[:10]}"
        self._base = self._place("base", recording, qdrant_url)
        # A server's collections are restored in place, so its trials take turns.
        self._workers = 1 if qdrant_url else min(2, os.cpu_count() or 1)
        self._servers: SimpleQueue[ForkServer] = SimpleQueue()
        self._points: dict[str, Any] = {}
        self.paths = [str(path) for path in write_corpus(folder / "corpus", 1)]

    def __enter__(self) -> "Scene":
        for _ in range(self._workers):
            self._servers.put(ForkServer().__enter__())
        if self._postgres:
            self._sql(f"CREATE DATABASE {self._name}_base")
        with self.server() as server:
            server.run(self._base, [["ingest", self.paths]])
        self._points = self._held_points()
        write_corpus(self._folder / "corpus", 2)
        return self

    def __exit__(self, *_: object) -> None:
        while not self._servers.empty():
            self._servers.get().__exit__(None, None, None)
        if self._postgres:
            self._sql(f"DROP DATABASE IF EXISTS {self._name}_base WITH (FORCE)")
        if self._base.qdrant_url:
            self._restore({})

    @contextmanager
    def server(self) -> Iterator[ForkServer]:
        """One that is free."""
        server = self._servers.get()
        try:
            yield server
        finally:
            self._servers.put(server)

    @contextmanager
    def copy(self, *, empty: bool = False) -> Iterator[Place]:
        """A copy of the first state, or a place where nothing has been started yet."""
        label = uuid.uuid4().hex[:8]
        place = self._place(label, Path(self._base.recording), self._base.qdrant_url)
        if not empty:
            shutil.copytree(self._base.data_dir, place.data_dir)
        if self._postgres:
            template = "" if empty else f" TEMPLATE {self._name}_base"
            self._sql(f"CREATE DATABASE {self._name}_{label}{template}")
        if place.qdrant_url:
            self._restore({} if empty else self._points)
        try:
            yield place
        finally:
            if self._postgres:
                self._sql(f"DROP DATABASE {self._name}_{label} WITH (FORCE)")
            shutil.rmtree(place.data_dir, ignore_errors=True)
            place.log.unlink(missing_ok=True)

    def each(self, trial: Callable[[Q], str], questions: list[Q]) -> list[str]:
        """What went wrong in each trial in which something did."""
        with ThreadPoolExecutor(self._workers) as pool:
            return [complaint for complaint in pool.map(trial, questions) if complaint]

    def settled(self, place: Place) -> None:
        """Waits until the database has noticed that a process is dead, and has ended what it was doing."""
        deadline = time.monotonic() + PATIENCE
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
        while self._postgres and self._sql(sessions, str(place.database_url).rsplit("/", 1)[1]):
            assert time.monotonic() < deadline, "a dead process still has a session"
            time.sleep(0.01)

    def _place(self, label: str, recording: Path, qdrant_url: str | None) -> Place:
        url = f"postgresql+psycopg://127.0.0.1/{self._name}_{label}" if self._postgres else None
        return Place(str(self._folder / label), str(recording), url, qdrant_url, self._name)

    def _sql(self, statement: str, *values: str) -> Any:
        with psycopg.connect(POSTGRES, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)  # type: ignore[arg-type]
            found = cursor.fetchone() if cursor.description else None
            return found[0] if found else None

    def _held_points(self) -> dict[str, Any]:
        if not self._base.qdrant_url:
            return {}
        with closing(QdrantClient(url=self._base.qdrant_url)) as client:
            return held_points(client, self._name)

    def _restore(self, points: dict[str, Any]) -> None:
        with closing(QdrantClient(url=self._base.qdrant_url)) as client:
            restore_points(client, self._name, points)


def held_points(client: QdrantClient, prefix: str) -> dict[str, Any]:
    """The points of the collections whose names begin so."""
    return {
        found.name: client.scroll(found.name, limit=100_000, with_payload=True, with_vectors=True)[0]
        for found in client.get_collections().collections
        if found.name.startswith(prefix)
    }


def restore_points(client: QdrantClient, prefix: str, points: dict[str, Any]) -> None:
    """Gives those collections these points again, and deletes those that were not there."""
    from qdrant_client import models

    for found in client.get_collections().collections:
        if found.name.startswith(prefix) and found.name not in points:
            client.delete_collection(found.name)
    for name, records in points.items():
        client.delete(name, models.FilterSelector(filter=models.Filter()), wait=True)
        structs = [models.PointStruct(id=each.id, vector=each.vector, payload=each.payload) for each in records]
        client.upsert(name, structs, wait=True)


def fast_folder() -> Path:
    """A folder in memory where there is one, as each kill copies a data directory."""
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="tandem-crash-", dir=shared if os.access(shared, os.W_OK) else None))
