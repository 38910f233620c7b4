"""Which process of a training run this is: the only one, or one of those that `accelerate launch` started."""

import json
import os
import stat
import sys
from typing import Any

from tandem.errors import InputError

_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # how a process knows that there are others


def is_main_process() -> bool:
    """Whether this process locks, reports, gates and writes; the others only compute their share of the training."""
    return int(os.environ.get("RANK", "0")) == 0


def processes() -> int:
    """How many processes the run has, on all its machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def processes_here() -> int:
    """How many processes of the run share this machine's cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def gpu_here() -> int:
    """Which of the GPUs that this process sees is its own."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def take_one_gpu() -> None:
    """Hides all GPUs but the first from a process that is the only one: TRL does not train on several in one process.

    Takes effect only before torch looks for GPUs. A choice that CUDA_VISIBLE_DEVICES makes is kept to: of several, the
    first is left. Under `accelerate launch` nothing is hidden.
    """
    if "LOCAL_RANK" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def leave_group() -> bool:
    """Ends what the processes do together; whoever does not go on alone waits here for nobody.

    Returns:
        Whether this process goes on: only the first does, and from now on it is the only one.
    """
    goes_on = is_main_process()
    if "RANK" in os.environ:
        from torch import distributed

        if distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()
    if goes_on:  # else the next trainer would wait for processes that have ended
        for name in _LAUNCHED:
            os.environ.pop(name, None)
    return goes_on


def read_request() -> dict[str, Any]:
    """The JSON request on standard input.

    Raises:
        InputError: Several processes are to share what only one could read.
    """
    if processes() == 1:
        return json.load(sys.stdin)  # type: ignore[no-any-return]
    status = os.fstat(0)
    if not stat.S_ISREG(status.st_mode):
        raise InputError("Several processes cannot share a pipe: give the request as a file, `-m training < FILE`.")
    return json.loads(os.pread(0, status.st_size, 0))  # type: ignore[no-any-return]  # they share its position too
