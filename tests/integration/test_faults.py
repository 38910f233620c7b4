"""A disk that is full, a database that is lost, a Qdrant that is gone in the middle of an ingest: the error names the
cause, readers go on finding the old state, and the next run comes to the new one."""

import contextlib
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from qdrant_client import QdrantClient

import tandem.database
from ingest.sandbox import Sandbox
from services.embedded import prepare_data_dir
from tandem.embedder import Embedder
from tandem.errors import DatabaseUnavailable, IndexUnavailable, Unavailable
from tandem.settings import REPOSITORY, IngestSettings, load_settings
from tandem.vectors import VectorIndex
from tests.crash.corpus import write_corpus
from tests.crash.scene import POSTGRES, postgres_answers
from tests.crash.world import Place, World

Fault = Callable[[], None]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(IngestSettings()) as sandbox:
        yield sandbox


class House:
    """A world with the corpus ingested in its first version, which the test breaks under the second."""

    def __init__(self, place: Place, corpus: Path, embedder: Embedder, sandbox: Sandbox) -> None:
        self._parts = (place, embedder, sandbox)
        self._corpus = corpus
        self.world = World(*self._parts)
        self.world.ingestor.ingest(write_corpus(corpus, 1)[:1])
        self.old = self.world.observe()
        self.paths = write_corpus(corpus, 2)[:1]

    def update(self) -> None:
        self.world.ingestor.ingest(self.paths)

    def reopen(self) -> None:
        """As a process that is started afterwards."""
        with contextlib.suppress(Unavailable, sqlite3.Error):
            self.world.qdrant.close()
        self.world.database.close()
        self.world = World(*self._parts)

    def assert_converges(self) -> None:
        """The next run comes to the new state, and there is then nothing more to do."""
        self.update()
        new = self.world.observe()
        assert new != self.old
        seen = {id for documents in new.values() for id in documents}
        assert "travel-new-0.md" in seen
        assert "travel-gone-0.md" not in seen
        report = self.world.ingestor.ingest(self.paths)
        assert (report.added, report.updated, report.deleted, report.chunks_embedded) == ((), (), (), 0)
        self.reopen()
        assert self.world.observe() == new

    def close(self) -> None:
        self.world.qdrant.close()
        self.world.database.close()


@pytest.fixture
def build(tmp_path: Path, embedder: Embedder, sandbox: Sandbox) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def make(data_dir: Path, database_url: str | None = None) -> House:
        houses.append(House(Place(str(data_dir), "", database_url), tmp_path / "corpus", embedder, sandbox))
        return houses[-1]

    yield make
    for house in houses:
        house.close()


def in_the_middle(monkeypatch: pytest.MonkeyPatch, fault: Fault, *, of: str = "write") -> None:
    """Has the fault happen before the first call of a method of the index: what is to be published stands staged."""
    real = getattr(VectorIndex, of)
    calls: list[str] = []

    def method(*arguments: Any, **options: Any) -> Any:
        calls.append(of)
        if len(calls) == 1:
            fault()
        return real(*arguments, **options)

    monkeypatch.setattr(VectorIndex, of, method)


# Full disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", mount], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {done.stderr.decode().strip()}")
    yield mount
    subprocess.run(["umount", "-l", mount], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fills the disk but for some bytes."""
    filler = disk / "filler"
    status = os.statvfs(disk)
    with filler.open("wb") as handle:
        handle.write(bytes(max(0, status.f_bavail * status.f_frsize - leave)))
    return filler


@pytest.mark.parametrize(
    ("part", "leave"),
    [("all", 0), ("all", 120_000), ("qdrant", 0), ("qdrant", 40_000), ("database", 0), ("database", 100_000)],
)
def test_a_full_disk(disk: Path, tmp_path: Path, build: Callable[..., House], part: str, leave: int) -> None:
    data_dir = disk if part == "all" else tmp_path / "data"
    data_dir.mkdir(exist_ok=True)
    if part == "qdrant":
        (data_dir / "qdrant").symlink_to(disk)
    house = build(data_dir, f"sqlite:///{disk / 'state.db'}" if part == "database" else None)
    filler = fill(disk, leave)
    with pytest.raises(Unavailable, match=r"full|space|disk I/O"):
        house.update()
    assert house.world.observe() == house.old
    house.reopen()  # even a process that starts on the full disk
    assert house.world.observe() == house.old
    filler.unlink()
    house.assert_converges()


def test_a_first_start_on_a_full_disk(disk: Path) -> None:
    fill(disk, 100_000)
    with pytest.raises(Unavailable, match=r"shipped adapter cannot be copied .*No space left on device"):
        prepare_data_dir(load_settings(data_dir=disk))
    assert list((disk / "adapters").iterdir()) == []


def test_the_command_says_that_a_file_cannot_grow(tmp_path: Path, build: Callable[..., House]) -> None:
    house = build(tmp_path / "data")
    house.close()
    held = max(path.stat().st_size for path in (tmp_path / "data").rglob("*") if path.is_file())

    def ingest(**options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "services.cli.main", "ingest", *map(str, house.paths), "--json"]
        return subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, **options)

    failed = ingest(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (held, held)))
    assert failed.returncode == 1, failed.stderr
    assert failed.stderr.startswith("Error: The ")
    assert any(word in failed.stderr for word in ("disk I/O error", "disk is full", "File too large"))
    assert "Traceback" not in failed.stderr
    house.reopen()
    assert house.world.observe() == house.old
    house.close()
    assert ingest().returncode == 0
    house.reopen()
    assert house.world.observe() != house.old
    house.assert_converges()


def environment(tmp_path: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    return ours | {
        "PYTHONPATH": str(REPOSITORY),
        "TANDEM_DATA_DIR": str(tmp_path / "data"),
        "TANDEM_URL": "http://127.0.0.1:1",
        "TANDEM_ADAPTER__SHIPPED": str(tmp_path / "none"),  # it would not fit either
    }


# Lost database


@pytest.fixture
def postgres() -> Iterator[str]:
    if not postgres_answers():
        pytest.skip("no PostgreSQL answers on 127.0.0.1")
    name = f"tandem_fault_{uuid.uuid4().hex[:10]}"
    with psycopg.connect(POSTGRES, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def end_sessions(name: str, *, shut: bool) -> None:
    """Ends all sessions of a database; when it is shut, it takes no new ones."""
    with psycopg.connect(POSTGRES, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {not shut}")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])


@pytest.mark.parametrize("shut", [False, True])
@pytest.mark.parametrize("step", ["write", "settle"])
def test_postgresql_is_lost(
    postgres: str,
    tmp_path: Path,
    build: Callable[..., House],
    monkeypatch: pytest.MonkeyPatch,
    shut: bool,
    step: str,
) -> None:
    house = build(tmp_path / "data", f"postgresql+psycopg://127.0.0.1/{postgres}")
    with monkeypatch.context() as patch:
        in_the_middle(patch, lambda: end_sessions(postgres, shut=shut), of=step)
        with pytest.raises(DatabaseUnavailable, match=r"state database .*(lost|not answer|not currently accepting)"):
            house.update()
    if shut:
        with pytest.raises(DatabaseUnavailable, match="not currently accepting connections"):
            house.world.observe()
        with psycopg.connect(POSTGRES, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {postgres} ALLOW_CONNECTIONS true")
    seen = house.world.observe()
    assert (seen == house.old) == (step == "write")  # a settled version has been committed
    house.assert_converges()


def test_the_sqlite_file_is_locked(
    tmp_path: Path, build: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tandem.database, "_BUSY_TIMEOUT", 0.5)
    house = build(tmp_path / "data")
    holder = sqlite3.connect(tmp_path / "data" / "tandem.db", isolation_level=None)
    with monkeypatch.context() as patch, contextlib.closing(holder):
        in_the_middle(patch, lambda: holder.execute("BEGIN IMMEDIATE") and None)
        with pytest.raises(DatabaseUnavailable, match=r"does not answer: .*database is locked"):
            house.update()
        assert house.world.observe() == house.old  # reading does not wait for writing
        holder.execute("ROLLBACK")
    house.assert_converges()


# Qdrant gone


@pytest.mark.parametrize("step", ["write", "present", "settle"])
def test_the_qdrant_server_is_gone(
    tmp_path: Path, build: Callable[..., House], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The client is exchanged for one of a server that is gone, which is what the real client then says."""
    house = build(tmp_path / "data")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    gone = QdrantClient(url=f"http://127.0.0.1:{port}", timeout=2, check_compatibility=False)
    real = house.world.qdrant.client
    with monkeypatch.context() as patch:
        in_the_middle(patch, lambda: setattr(house.world.qdrant, "client", gone), of=step)
        with pytest.raises(IndexUnavailable, match=r"does not answer: .*Connection refused.*TANDEM_QDRANT__URL"):
            house.update()
    with pytest.raises(IndexUnavailable):  # an answer without documents would be a wrong one
        house.world.observe()
    house.world.qdrant.client = real
    gone.close()
    if step != "settle":
        assert house.world.observe() == house.old
    house.assert_converges()


def test_the_qdrant_folder_is_gone(
    tmp_path: Path, build: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = build(tmp_path / "data")
    folder = tmp_path / "data" / "qdrant"
    with monkeypatch.context() as patch:
        in_the_middle(patch, lambda: shutil.rmtree(folder))
        with pytest.raises(IndexUnavailable, match=f"does not answer: its folder '{folder}' is gone"):
            house.update()
    assert house.world.observe() == house.old  # this process still has it in memory
    house.reopen()
    house.assert_converges()
