"""One ingest at a time for each data directory, and for each database, which hosts may share without the directory."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ingest.database_lock import DatabaseLock
from ingest.holder import Holder
from tandem.database import Database
from tandem.errors import Busy, Unavailable

_POLL = 0.2
_NOTE_BYTES = 4096


@contextlib.contextmanager
def exclusive(
    data_dir: Path, timeout: float, database: Database | None = None, *, work: str = "an ingest"
) -> Iterator[None]:
    """Holds the ingest lock. The system and the database let it go when the process ends, however it ends.

    Args:
        data_dir: Created when missing.
        timeout: Seconds to wait for another ingest.
        database: Locked too when other hosts can reach it. When that lock is lost while it is held, every further
            commit of this thread fails.
        work: What the lock is held for, as others are told.

    Raises:
        Busy: The other one has not ended in time; the message says who it is.
        Unavailable: The directory cannot be written, or the database does not answer.
    """
    holder = Holder.here(work)
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as held:
        for lock in _locks(data_dir, database):
            held.enter_context(lock)
            while not lock.take(holder):
                if time.monotonic() >= deadline:
                    raise _busy(lock, timeout)
                time.sleep(_POLL)
        yield


class FileLock:
    """A lock on a file of a folder, with a note in it of who holds it."""

    def __init__(self, path: Path) -> None:
        self.where = str(path.parent)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = path.open("a+", encoding="utf-8")  # opening must not wipe out the other's note
        except OSError as exc:
            raise Unavailable(
                f"The folder {self.where!r} cannot be written: {exc.strerror}. Check the disk's space and whose folder "
                "it is, or choose another with --data-dir or TANDEM_DATA_DIR."
            ) from exc
        self._held = False

    def __enter__(self) -> "FileLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._held:
            self._note("")
        self._file.close()

    def take(self, holder: Holder) -> bool:
        """Takes the lock if it is free."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._held = True
        self._note(holder.note)
        return True

    def holder(self) -> Holder | None:
        """Who holds it."""
        return Holder.read(os.pread(self._file.fileno(), _NOTE_BYTES, 0).decode("utf-8", "replace"))

    def _note(self, note: str) -> None:
        with contextlib.suppress(OSError):  # on a full disk the lock holds without its note
            os.truncate(self._file.fileno(), 0)
            os.write(self._file.fileno(), note.encode())


def _locks(data_dir: Path, database: Database | None) -> Iterator[FileLock | DatabaseLock]:
    """The lock of the data directory, and that of a database that lies elsewhere."""
    yield FileLock(data_dir / "ingest.lock")
    if database is None:
        return
    if database.engine.dialect.name == "postgresql":
        yield DatabaseLock(database)
    elif database.engine.url.database:
        file = Path(database.engine.url.database).resolve()
        if file.parent != data_dir.resolve():
            yield FileLock(file.with_name(f"{file.name}.ingest.lock"))


def _busy(lock: FileLock | DatabaseLock, timeout: float) -> Busy:
    return Busy(
        f"Another ingest is working on {lock.where!r} ({lock.holder() or 'it left no note of itself'}) and has not "
        f"ended within {timeout:g} s. Wait for it and try again, end that process, or raise "
        "TANDEM_INGEST__LOCK_TIMEOUT."
    )
