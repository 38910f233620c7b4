"""A process that has imported everything and opened nothing, and forks a child for each piece of work.

`ForkServer` starts it and speaks to it; run as a module it is that process. A request is a line of JSON, a place with a
list of children; each child takes its steps in one opened world, or dies as its `kill` says. The answer is a line too.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from tandem.settings import REPOSITORY
from tests.crash.recording import QUESTION, write_recording
from tests.crash.world import Place

Step = list[Any]


class ForkServer:
    """The client's side."""

    def __init__(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.forkserver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment | threads,
            cwd=REPOSITORY,
            text=True,
        )

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def run(
        self,
        place: Place,
        steps: list[Step],
        *,
        at: int | None = None,
        after: float | None = None,
        trace: bool = False,
    ) -> Any:
        """Has a child take some steps.

        Args:
            place: What it opens.
            steps: Each a name of `_STEPS` and its arguments.
            at: Boundary at which it dies.
            after: Seconds after it begins to open its world at which it is killed.
            trace: One result more is wanted: the boundaries that it passed.

        Returns:
            What each step gave; None when it was killed before the end.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"place": asdict(place), "steps": steps, "at": at, "after": after, "trace": trace}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if answer["error"]:
            raise AssertionError(answer["error"])
        return answer["results"]


def _ingest(world: Any, paths: list[str]) -> Any:
    return world.ingestor.ingest([Path(path) for path in paths]).model_dump(mode="json")


def _delete(world: Any, document_id: str) -> Any:
    return world.ingestor.delete(document_id).model_dump(mode="json")


def _upload(world: Any, name: str, text: str) -> Any:
    return world.ingestor.ingest_upload(name, text.encode()).model_dump(mode="json")


_STEPS = {
    "ingest": _ingest,
    "delete": _delete,
    "upload": _upload,
    "observe": lambda world: world.observe(),
    "embeddings": lambda world: world.embeddings(),
    "seconds": lambda world: time.monotonic(),
}


def _child(request: dict[str, Any], ready: int, result: Path) -> None:
    from tests.crash.boundaries import Boundaries
    from tests.crash.world import World

    boundaries = Boundaries(request["at"])
    if request["trace"] or request["at"] is not None:
        boundaries.install()
    os.write(ready, b"x")
    world = World(Place(**request["place"]))
    results = [_STEPS[name](world, *arguments) for name, *arguments in request["steps"]]
    world.close()
    if request["trace"]:
        results.append({"passed": boundaries.passed, "states": boundaries.states()})
    result.write_text(json.dumps(results), encoding="utf-8")


def _attend(request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(prefix="tandem-crash-") as file:
        waiting, ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(waiting)
                _child(request, ready, Path(file.name))
                code = 0
            except BaseException:
                Path(file.name).write_text(json.dumps(traceback.format_exc()), encoding="utf-8")
            finally:
                os._exit(code)
        os.close(ready)
        os.read(waiting, 1)
        os.close(waiting)
        if request["after"] is not None:
            time.sleep(request["after"])
            os.kill(pid, signal.SIGKILL)  # it is not waited for yet, so the number is still its own
        _, status = os.waitpid(pid, 0)
        told = json.loads(Path(file.name).read_text(encoding="utf-8") or "null")
    failed = os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0
    return {"results": None if failed else told, "error": told if failed else None}


def _warm_up() -> None:
    """Imports and compiles all that a child will need, in a world that is closed and gone before the first fork."""
    import tests.crash.boundaries  # noqa: F401
    from tests.crash.world import World

    with tempfile.TemporaryDirectory(prefix="tandem-crash-") as folder:
        recording = Path(folder) / "recording"
        write_recording(recording, {QUESTION: [1.0, 0.0], "A\n\nB.": [0.0, 1.0]}, {})
        world = World(Place(str(Path(folder) / "data"), str(recording)))
        world.observe()
        world.close()


def main() -> None:
    """Answers requests until standard input ends."""
    _warm_up()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_attend(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
