"""The process that parses files, started by `ingest.sandbox`: `python -m ingest.worker`.

It imports the readers once and then forks for each file. The fork holds nothing worth taking (no keys in its
environment, no file but the one it was handed), may not open the network, start programs or write files, and is
killed when its time is up; so a hostile file costs one fork and not a start of the interpreter.

Frames on standard input and output are a line of JSON; a request is followed by `size` bytes, the file.
"""

import contextlib
import encodings
import errno
import gc
import importlib
import json
import math
import os
import pkgutil
import resource
import select
import signal
import sys
import time
from typing import Any, BinaryIO

from ingest.formats.limits import Limits
from ingest.readers import FORMATS, reader_for
from tandem.errors import DocumentError

_FORBIDDEN = ("socket.", "subprocess.", "os.exec", "os.posix_spawn", "os.system", "os.fork", "ctypes.dlopen", "shutil.")
# The time limit counts computing; by the clock a file may take this many times as long, on a machine that is busy.
_PATIENCE = 3
_RESULT_FACTOR = 12  # JSON bytes for a character of text, at worst, with its offsets


def main() -> None:
    """Answers requests until standard input ends."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    for entry in FORMATS.values():
        importlib.import_module(entry.module)
    for module in pkgutil.iter_modules(encodings.__path__, "encodings."):
        with contextlib.suppress(ImportError):  # some are for other systems; a fork could load none any more
            importlib.import_module(module.name)
    gc.freeze()  # forks then share the memory instead of copying it at the first collection
    answers.write(b"ready\n")
    answers.flush()
    while line := requests.readline():
        request = json.loads(line)
        answer = _attend(request, requests.read(request["size"]))
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _attend(request: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Has a fork parse the file and watches over its time."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        code = 1
        try:
            _confine(request)
            with os.fdopen(sender, "wb") as out:
                out.write(json.dumps(_parse(request, data)).encode())
            code = 0
        finally:
            os._exit(code)  # never back into the loop of the parent
    os.close(sender)
    limit = request["limits"]["max_chars"] * _RESULT_FACTOR + 65_536
    with os.fdopen(receiver, "rb", buffering=0) as pipe:
        answer = _collect(pipe, time.monotonic() + _PATIENCE * request["timeout"], limit)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if answer is None:
        return _late(request)
    try:
        found: dict[str, Any] = json.loads(answer)
    except ValueError:
        sign = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if sign == signal.SIGXCPU:
            return _late(request)
        return _refusal("corrupt", "Reading it ended abruptly. Save it again from its source.")
    return found


def _collect(pipe: BinaryIO, deadline: float, limit: int) -> bytes | None:
    """All that the fork writes, or None when its time ran out."""
    parts: list[bytes] = []
    size = 0
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([pipe], [], [], left)
        if not ready:
            break
        part = pipe.read(1 << 20)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
        if size > limit:
            return json.dumps(_refusal("too_large", "It expands to more text than is allowed. Split it.")).encode()
    return None


def _confine(request: dict[str, Any]) -> None:
    """Takes from this process what parsing does not need."""
    seconds = math.ceil(request["timeout"])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # the first is told apart from other deaths
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/self/statm", encoding="ascii") as statm:
            held = int(statm.read().split()[0]) * resource.getpagesize()
        _limit(resource.RLIMIT_AS, held + request["memory_mib"] * 2**20)
    signal.alarm(_PATIENCE * seconds + 2)  # should the parent be gone by then
    sys.setrecursionlimit(3_000)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # a library that prints must not garble the frames
        os.dup2(null, stream)
    # From here on the kernel opens nothing more for this process: no file, no socket, whoever asks.
    _limit(resource.RLIMIT_NOFILE, 0)
    sys.addaudithook(_forbid)


def _limit(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _forbid(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(_FORBIDDEN):
        raise PermissionError(f"a reader may not do this: {event}")
    # A file given by number is one that is open already: the pipe to the parent.
    path, mode = (arguments[0], arguments[1]) if event == "open" else (0, None)
    if not isinstance(path, int) and isinstance(mode, str) and set(mode) & set("wax+"):
        raise PermissionError("a reader may not write files")


def _parse(request: dict[str, Any], data: bytes) -> dict[str, Any]:
    try:
        reading = reader_for(request["name"], Limits(**request["limits"])).read(request["name"], data)
    except DocumentError as exc:
        return _refusal(exc.reason, exc.message)
    except MemoryError:
        return _refusal("too_large", f"Reading it takes more than {request['memory_mib']} MiB of memory. Split it.")
    except RecursionError:
        return _refusal("hostile", "It is nested too deep. Save it again in a simpler form.")
    except OSError as exc:
        if isinstance(exc, PermissionError) or exc.errno == errno.EMFILE:  # nothing can be opened in here
            return _refusal("hostile", f"Reading it reached outside ({exc}). Save it again from its source.")
        return _broken(exc)
    except Exception as exc:  # a reader's library can raise anything at a broken file
        return _broken(exc)
    return {"reading": reading.model_dump(mode="json")}


def _broken(exc: Exception) -> dict[str, Any]:
    detail = f"{type(exc).__name__}: {exc}".splitlines()[0][:160]
    return _refusal("corrupt", f"It cannot be read ({detail}). Save it again from its source.")


def _late(request: dict[str, Any]) -> dict[str, Any]:
    seconds = request["timeout"]
    return _refusal("timeout", f"It took more than {seconds:g} s to read. Split it or save it in a simpler form.")


def _refusal(reason: str, message: str) -> dict[str, Any]:
    return {"reason": reason, "message": message}


if __name__ == "__main__":
    main()
