"""Runs a command so that it cannot outlive its parent: `python leash.py PARENT_PID COMMAND ...`.

vLLM starts processes of its own, which a killed parent leaves behind. This small process stands between: when its
parent ends, however it ends, the kernel sends it SIGTERM, and it ends everything below it. Imports nothing but the
standard library, because its memory is there as long as vLLM's.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from types import FrameType

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE = 10.0  # seconds from SIGTERM to SIGKILL


def main() -> int:
    """Entry point. Returns the command's exit status; 128 + signal when it was killed."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of the command come to us
    ending: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        ending.append(number)
        # The command ends its own workers on SIGTERM; those it leaves are killed below.
        if child.poll() is None:
            child.terminate()

    # The command is killed too if this process is: then nobody is left to end its workers but its parent's parent.
    child = subprocess.Popen(command, preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; our parent decides
    if os.getppid() != parent:  # it ended before the kernel knew that we want to be told
        end(signal.SIGTERM, None)
    deadline: float | None = None
    while child.poll() is None:
        if ending and deadline is None:
            deadline = time.monotonic() + GRACE
        if deadline is not None and time.monotonic() > deadline:
            child.kill()
        time.sleep(0.1)
    _kill_descendants()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _kill_descendants() -> None:
    """Kills what the command left. Being their subreaper, we see them as our children, level by level."""
    for _ in range(100):
        children = _children()
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                continue
        if not children:
            return


def _children() -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                found.append(int(name))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
