"""Two ingests at once, in processes of their own: the second waits, or says who it waits for."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import event

from ingest.holder import Holder
from ingest.lock import exclusive
from tandem.database import Database
from tandem.errors import Busy, DatabaseUnavailable, Unavailable
from tandem.settings import REPOSITORY
from tandem.tables import AuditRow
from tests.crash.scene import POSTGRES, postgres_answers
from tests.unit.test_database import NOW

_HOLD = """
import sys, time
from pathlib import Path
from ingest.lock import exclusive
from tandem.database import Database
with exclusive(Path(sys.argv[1]), 0, Database(sys.argv[2]), work="run 1a2b3c4d"):
    print("held", flush=True)
    sys.stdin.read()
"""


class Other:
    """Another process that holds the lock until it is told to end."""

    def __init__(self, data_dir: Path, url: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(data_dir), url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def end(self) -> None:
        self.process.communicate("")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def postgres() -> Iterator[str]:
    """The URL of an empty database."""
    if not postgres_answers():
        pytest.skip("no PostgreSQL answers on 127.0.0.1")
    name = f"tandem_lock_{uuid.uuid4().hex[:10]}"
    with psycopg.connect(POSTGRES, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield f"postgresql+psycopg://127.0.0.1/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database that two hosts share, each with a data directory of its own."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    return str(request.getfixturevalue("postgres"))


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with closing(Database(url)) as database:
        database.migrate()
        yield database


def note(database: Database) -> None:
    with database.session() as session:
        session.add(AuditRow(user="ada", action="a", subject="s", detail=None, created_at=NOW))


def backends_of_lock(url: str) -> list[int]:
    with psycopg.connect(POSTGRES) as connection:
        found = connection.execute(
            "SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
            "WHERE l.locktype = 'advisory' AND d.datname = %s",
            [url.rsplit("/", 1)[1]],
        )
        return [row[0] for row in found]


def end_backends(url: str) -> None:
    """As a restart of the database or a lost network would."""
    with psycopg.connect(POSTGRES, autocommit=True) as connection:
        for pid in backends_of_lock(url):
            connection.execute("SELECT pg_terminate_backend(%s)", [pid])
    while backends_of_lock(url):
        time.sleep(0.01)


def test_the_second_is_told_who_is_first(url: str, database: Database, tmp_path: Path) -> None:
    other = Other(tmp_path / "theirs", url)
    try:
        with pytest.raises(Busy) as busy, exclusive(tmp_path / "ours", 0.3, database):
            pass
    finally:
        other.end()
    assert f"run 1a2b3c4d, process {other.process.pid} on {socket.gethostname()[:24]}" in busy.value.message
    assert "has not ended within 0.3 s" in busy.value.message
    assert "TANDEM_INGEST__LOCK_TIMEOUT" in busy.value.message
    with exclusive(tmp_path / "ours", 0, database):
        pass


def test_the_second_waits_for_the_first(url: str, database: Database, tmp_path: Path) -> None:
    other = Other(tmp_path / "theirs", url)
    threading.Timer(0.5, other.end).start()
    began = time.monotonic()
    with exclusive(tmp_path / "ours", 30, database):
        assert time.monotonic() - began >= 0.4
    other.process.wait(10)


def test_a_killed_holder_holds_nothing(url: str, database: Database, tmp_path: Path) -> None:
    other = Other(tmp_path / "theirs", url)
    other.kill()
    with exclusive(tmp_path / "theirs", 10, database):
        pass


def test_one_data_directory_is_locked_without_a_database_too(tmp_path: Path) -> None:
    with exclusive(tmp_path, 0, work="a deletion"):
        with pytest.raises(Busy, match=f"a deletion, process {os.getpid()} on "), exclusive(tmp_path, 0):
            pass
        # Who asked in vain has not wiped out the note.
        with pytest.raises(Busy, match=f"a deletion, process {os.getpid()} on "), exclusive(tmp_path, 0):
            pass


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match=r"cannot be written: .*--data-dir"), exclusive(tmp_path / "file", 0):
        pass


def test_who_lost_the_lock_commits_nothing_more(postgres: str, tmp_path: Path) -> None:
    with closing(Database(postgres)) as ours, closing(Database(postgres)) as theirs:
        ours.migrate()
        with exclusive(tmp_path / "ours", 0, ours):
            note(ours)
            end_backends(postgres)
            with exclusive(tmp_path / "theirs", 5, theirs):
                with pytest.raises(DatabaseUnavailable, match=r"ingest lock .* is lost"):
                    note(ours)
                note(theirs)
                others = threading.Thread(target=note, args=(ours,))  # a receipt of an answer, say
                others.start()
                others.join()
        note(ours)  # what is written outside an ingest does not hang on the lock
        with ours.session() as session:
            assert session.query(AuditRow).count() == 4


def test_a_new_holder_waits_for_a_commit_that_was_under_way(postgres: str, tmp_path: Path) -> None:
    """The commit has been checked, then the lock is lost: the new holder must not begin before it is through."""
    seen: list[int] = []
    with closing(Database(postgres)) as ours, closing(Database(postgres)) as theirs:
        ours.migrate()

        def take_over() -> None:
            with exclusive(tmp_path / "theirs", 10, theirs), theirs.session() as session:
                seen.append(session.query(AuditRow).count())

        with exclusive(tmp_path / "ours", 0, ours):
            taking = threading.Thread(target=take_over)

            def lose(connection: object) -> None:  # called after the check, since it was registered later
                if threading.current_thread() is threading.main_thread() and taking.ident is None:
                    with psycopg.connect(POSTGRES, autocommit=True) as admin:
                        admin.execute(
                            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE %s",
                            [f"{os.getpid()}|%"],
                        )
                    taking.start()
                    time.sleep(0.7)
                    assert not seen

            event.listen(ours.engine, "commit", lose)
            note(ours)
        taking.join(10)
    assert seen == [1]


def test_a_holder_survives_its_way_through_the_database() -> None:
    holder = Holder(4711, "h" * 40, 1_770_000_000, "run 1a2b|3c4d")
    assert Holder.named(holder.name) == Holder(4711, "h" * (63 - 4 - 10 - 13 - 3), 1_770_000_000, "run 1a2b 3c4d")
    assert Holder.read(holder.note) == holder
    assert Holder.named("psql") is None
    assert Holder.read("") is None
