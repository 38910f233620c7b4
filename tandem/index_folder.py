"""The folder of the embedded vector index: private to its owner, and open in one process at a time."""

import fcntl
import os
import stat
from pathlib import Path

from tandem.errors import IndexUnavailable


def claim_folder(folder: Path) -> None:
    """Makes the folder, and makes sure that it is private and free before anything in it is read.

    Raises:
        IndexUnavailable: It cannot be made, is open to other users, or is held by another process.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError as exc:
        raise IndexUnavailable(
            f"The index folder {str(folder)!r} cannot be made: {exc.strerror}. "
            "Choose another folder with --data-dir or TANDEM_DATA_DIR."
        ) from exc
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid() or mode & 0o077:
        # Embedded Qdrant keeps pickles: whoever can write here has code run by whoever opens it.
        raise IndexUnavailable(
            f"The index folder {str(folder)!r} is open to other users (mode {mode:04o}, owner {status.st_uid}). "
            f"Make it private with `chmod 700 {folder}`, or move it away and ingest again."
        )
    # Qdrant's client takes this lock and keeps it, but only after it has read everything, and when that fails it leaves
    # its files open.
    lock = folder / ".lock"
    lock.touch(mode=0o600)
    with lock.open("r+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise IndexUnavailable(
                f"The index folder {str(folder)!r} is held by another process: is a Tandem server running on it? "
                "Stop that server, or let this command speak to it with TANDEM_URL."
            ) from exc
