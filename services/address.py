"""Where the process that holds a data directory can be reached: one small file in that directory."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

FILE = "server.json"


@contextlib.contextmanager
def announced(data_dir: Path, url: str) -> Iterator[None]:
    """Writes the address down for as long as the block runs."""
    file = data_dir / FILE
    file.write_text(json.dumps({"url": url, "pid": os.getpid()}))
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
