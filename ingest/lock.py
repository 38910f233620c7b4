"""One ingest at a time for each data directory."""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from tandem.errors import Busy, InputError

_POLL = 0.2


@contextlib.contextmanager
def exclusive(data_dir: Path, timeout: float) -> Iterator[None]:
    """Holds the ingest lock of a data directory. The system lets it go when the process ends, however it ends.

    Args:
        data_dir: Created when missing.
        timeout: Seconds to wait for another ingest.

    Raises:
        Busy: The other one has not ended in time.
        InputError: The directory cannot be written.
    """
    path = data_dir / "ingest.lock"
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = path.open("w", encoding="utf-8")
    except OSError as exc:
        raise InputError(
            f"The data directory {str(data_dir)!r} cannot be written: {exc.strerror}. "
            "Choose another with --data-dir or TANDEM_DATA_DIR."
        ) from exc
    deadline = time.monotonic() + timeout
    with handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                if time.monotonic() >= deadline:
                    raise Busy(
                        f"Another ingest is working on {str(data_dir)!r} and has not ended within {timeout:g} s. "
                        "Wait for it, or try again later."
                    ) from exc
                time.sleep(_POLL)
        yield
