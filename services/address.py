"""Where the process that holds a data directory can be reached: one small file in that directory."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from tandem.errors import Unavailable

FILE = "server.json"


@contextlib.contextmanager
def announced(data_dir: Path, url: str) -> Iterator[None]:
    """Writes the address down for as long as the block runs.

    Raises:
        Unavailable: The data directory cannot be written.
    """
    file = data_dir / FILE
    try:
        file.write_text(json.dumps({"url": url, "pid": os.getpid()}))
    except OSError as exc:
        raise Unavailable(
            f"The data directory {str(data_dir)!r} cannot be written: {exc.strerror}. Check the disk's space and whose "
            "folder it is, or choose another with --data-dir."
        ) from exc
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def read_address(data_dir: Path) -> str | None:
    """The address of the living process that serves this data directory; None when there is none."""
    try:
        content = json.loads((data_dir / FILE).read_text())
        os.kill(int(content["pid"]), 0)
        return str(content["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
