"""Parsing in a child process that can be killed: limits on time, memory and text, no network, no keys."""

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from pydantic import ValidationError

from ingest.formats.limits import limits_of
from ingest.readers import Reading, check_supported
from tandem.errors import REASONS, DocumentError, Unavailable
from tandem.settings import IngestSettings

_HOUSE = Path(__file__).resolve().parent.parent
# The worker kills a fork that is late by itself; beyond this the worker itself is stuck, or just starting.
_GRACE = 60.0
_READY = b"ready\n"  # what the worker writes once it has imported all readers


class Sandbox:
    """Parses files in one long-lived child, which is started at the first file and again after it died.

    Args:
        settings: Limits on size, text, time and memory.
    """

    def __init__(self, settings: IngestSettings) -> None:
        self._settings = settings
        self._worker: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()

    def parse(self, name: str, data: bytes) -> Reading:
        """Parses one file.

        Args:
            name: Path or name; its ending decides the format.
            data: The file's bytes.

        Raises:
            DocumentError: The file is refused, with its reason. Nothing else is raised for a bad file.
            Unavailable: No file can be parsed: the child does not start.
        """
        check_supported(name)
        if not data.strip():
            raise DocumentError("no_text", "It is empty. Put its text in, or delete it.")
        request = {
            "name": Path(name).name,
            "size": len(data),
            "timeout": self._settings.parse_timeout,
            "memory_mib": self._settings.parse_memory_mib,
            "limits": limits_of(self._settings).model_dump(),
        }
        with self._turn:
            answer = self._exchange(json.dumps(request).encode() + b"\n", data)
        return _reading(answer)

    def close(self) -> None:
        """Ends the child."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill()
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what was not yet written can no longer be
                        pipe.close()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _exchange(self, request: bytes, data: bytes) -> dict[str, Any]:
        deadline = time.monotonic() + 3 * self._settings.parse_timeout + _GRACE
        stdin, stdout = self._pipes()
        try:
            stdin.write(request)
            stdin.write(data)
            stdin.flush()
            line = _read_line(stdout, deadline)
        except BrokenPipeError:
            line = b""
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            self.close()
            raise DocumentError("corrupt", "Reading it killed the reader. Save it again from its source.") from None
        return answer

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._worker is None or self._worker.poll() is not None:
            self.close()
            environment = {
                # Just enough to run Python: a parser that is taken over finds no key here.
                **{
                    key: os.environ[key]
                    for key in ("PATH", "HOME", "LANG", "SYSTEMROOT", "TMPDIR")
                    if key in os.environ
                },
                "PYTHONPATH": str(_HOUSE),
                "PYTHONUTF8": "1",
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
                "LLAMA_INDEX_CACHE_DIR": os.devnull,
            }
            self._worker = subprocess.Popen(
                [sys.executable, "-P", "-W", "ignore", "-m", "ingest.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the run, which then ends the worker
            )
            if self._worker.stdout is None or _read_line(self._worker.stdout, time.monotonic() + _GRACE) != _READY:
                ended = _ends(self._worker)
                self.close()
                raise Unavailable(
                    "The process that parses files does not start. See why with `python -m ingest.worker`; "
                    "mostly a package of the extra `ingest` is missing."
                    if ended
                    else f"The process that parses files was not ready after {_GRACE:.0f} seconds: other work takes "
                    "this machine's processors or memory. Try again when it is less busy."
                )
        worker = self._worker
        if worker.stdin is None or worker.stdout is None:
            raise RuntimeError("The worker was started without pipes.")  # cannot happen: both are asked for above
        return worker.stdin, worker.stdout


def _ends(worker: subprocess.Popen[bytes]) -> bool:
    """Whether a child that is not ready has ended, or is just ending; else it is only slow."""
    try:
        worker.wait(1.0)
    except subprocess.TimeoutExpired:
        return False
    return True


def _read_line(stdout: IO[bytes], deadline: float) -> bytes:
    """One line, or what there was of it when the time ran out or the process ended."""
    parts: list[bytes] = []
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([stdout], [], [], left)
        part = os.read(stdout.fileno(), 1 << 20) if ready else b""
        parts.append(part)
        if not part or part.endswith(b"\n"):
            break
    return b"".join(parts)


def _reading(answer: dict[str, Any]) -> Reading:
    if "reading" in answer:
        with contextlib.suppress(ValidationError):
            return Reading.model_validate(answer["reading"])
    reason = answer.get("reason")
    if reason not in REASONS:
        raise DocumentError("corrupt", "Reading it gave nonsense. Save it again from its source.")
    raise DocumentError(reason, str(answer.get("message", "")))
