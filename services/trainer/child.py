"""Training in a process of its own, so that this one never imports torch, and one that ends takes the other with it."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tandem.errors import DatabaseUnavailable, TandemError
from tandem.settings import Settings
from training.events import TrainingEvent
from training.result import Result

LEASH = Path(__file__).parent.parent / "leash.py"
PULSE = 10.0  # seconds between two checks that the turn is still ours, and the run still wanted
_SETTINGS = {"data_dir", "cache_dir", "style", "adapter", "training"}
_SECRETS = {"webhook", "webhook_token", "webhook_secret"}  # none of the child's business


class Broken(TandemError):
    """The training process ended without a verdict. `again`: it was ended from outside, so it is worth another try."""

    code = "training_failed"

    def __init__(self, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


async def train_in_child(
    settings: Settings,
    examples: Path,
    by: str,
    *,
    name: str,
    result: Path,
    on_event: Callable[[TrainingEvent], Awaitable[None]],
    pulse: Callable[[], Awaitable[bool]],
) -> Result:
    """Trains.

    Args:
        settings: Of the run.
        examples: What it is given.
        by: Who is written into the promotion's history.
        name: Of the adapter.
        result: Where it writes its result before it promotes.
        on_event: Told what is going on.
        pulse: Asked every few seconds whether to go on.

    Raises:
        Broken: It gave no result; its own sentence, or how it ended.
    """
    request = json.dumps(
        {
            "settings": _settings(settings),
            "examples": str(examples),
            "name": name,
            "by": by,
            "result": str(result.resolve()),
        }
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-S", str(LEASH), str(os.getpid()), sys.executable, "-m", "training"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=2**22,
    )
    beating = asyncio.create_task(_beat(process, pulse))
    try:
        said = await _talk(process, request, on_event)
    except (ConnectionError, ValueError) as exc:
        raise Broken(f"The training process broke off: {exc}.", again=True) from exc
    finally:
        beating.cancel()
        await _end(process)
    if "result" in said:
        return Result.model_validate(said["result"])
    if beating.done() and not beating.cancelled() and beating.exception() is None:
        raise Broken("It was cancelled, or another process took the turn while the database was away.", again=True)
    raise _verdict(said, process.returncode or 0)


async def _talk(
    process: asyncio.subprocess.Process, request: str, on_event: Callable[[TrainingEvent], Awaitable[None]]
) -> dict[str, Any]:
    """Gives the request and returns the last line, which is the result or the error."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(request.encode())
    await process.stdin.drain()
    process.stdin.close()
    result: dict[str, Any] = {}
    async for line in process.stdout:
        result = json.loads(line)
        if "event" in result:
            await on_event(TrainingEvent.model_validate(result["event"]))
    await process.wait()
    return result


async def _beat(process: asyncio.subprocess.Process, pulse: Callable[[], Awaitable[bool]]) -> None:
    """Ends the process when the turn is lost, or the run cancelled; returns only then."""
    while True:
        await asyncio.sleep(PULSE)
        try:
            kept = await pulse()
        except DatabaseUnavailable:  # whoever took it meanwhile is known when the database is back
            continue
        if not kept:
            if process.returncode is None:
                process.terminate()
            return


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        await process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _verdict(result: dict[str, Any], status: int) -> Broken:
    if "error" in result:
        return Broken(str(result["error"]))
    number = status - 128 if status > 128 else -status
    if number > 0:
        return Broken(f"The training process was ended by signal {number}.", again=True)
    return Broken(f"The training process ended with status {status}; its last lines stand in the trainer's log.")


def _settings(settings: Settings) -> dict[str, Any]:
    given = settings.model_dump(mode="json", include=_SETTINGS)
    given["training"] = {name: value for name, value in given["training"].items() if name not in _SECRETS}
    given["model"] = {"path": str(settings.model.path)} if settings.model.path else {}
    return given
