"""Which process of a training run this is: the only one, or one of those that `accelerate launch` started."""

import json
import os
import stat
import sys
from typing import Any

from tandem.errors import InputError


def is_main_process() -> bool:
    """Whether this process locks, reports, gates and writes; the others only compute their share of the training."""
    return int(os.environ.get("RANK", "0")) == 0


def processes_here() -> int:
    """How many processes of the run share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def read_request() -> dict[str, Any]:
    """The JSON request on standard input.

    Raises:
        InputError: Several processes are to share what only one could read.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return json.load(sys.stdin)  # type: ignore[no-any-return]
    status = os.fstat(0)
    if not stat.S_ISREG(status.st_mode):
        raise InputError("Several processes cannot share a pipe: give the request as a file, `-m training < FILE`.")
    return json.loads(os.pread(0, status.st_size, 0))  # type: ignore[no-any-return]  # they share its position too
