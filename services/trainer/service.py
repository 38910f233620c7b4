"""Starts scheduled training runs, each in a process of its own, so that this one never imports torch."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tandem.database import Database
from tandem.errors import TandemError
from tandem.registry import Manifest
from tandem.settings import Settings
from training.examples import StyleExample
from training.runs import Cause, TrainingRuns
from training.schedule import Decision, Schedule, gather_examples, write_examples

log = logging.getLogger(__name__)

LEASH = Path(__file__).parent.parent / "leash.py"
CHECK_EVERY = 60.0  # seconds between two looks at the clock
_SETTINGS = {"data_dir", "cache_dir", "style", "adapter", "training"}


def _now() -> datetime:
    return datetime.now(UTC)


class Trainer:
    """Looks at the schedule once a minute.

    Args:
        settings: The configuration.
        database: Where runs are written down.
        clock: Tells the time, in UTC.
    """

    def __init__(self, settings: Settings, database: Database, *, clock: Callable[[], datetime] = _now) -> None:
        self._settings = settings
        self._runs = TrainingRuns(database)
        self._clock = clock
        self._schedule = Schedule(settings, self._runs, since=self._in_force_since())
        self._said = ""

    async def run(self) -> None:
        """Runs until cancelled. No single failure ends it."""
        while True:
            try:
                await self.tick()
            except TandemError as exc:
                log.warning("the schedule could not be looked at: %s", exc.message)
            await asyncio.sleep(CHECK_EVERY)

    async def tick(self) -> Decision:
        """Looks once, and trains if a run is due.

        Raises:
            ExampleError: The examples cannot be read.
            DatabaseUnavailable: The state database does not answer.
        """
        examples = await asyncio.to_thread(gather_examples, self._settings, self._runs)
        decision = await asyncio.to_thread(self._schedule.decide, self._clock(), examples)
        if decision.start:
            log.info("training starts: %s", decision.reason)
            await self.train(examples, "schedule")
        elif decision.reason != self._said:
            log.info("no training: %s", decision.reason)
            self._said = decision.reason
        return decision

    async def train(self, examples: list[StyleExample], cause: Cause) -> Manifest | None:
        """Trains once. Returns the manifest, or None when the run failed; both are written down.

        Raises:
            DatabaseUnavailable: The state database does not answer.
        """
        run = await asyncio.to_thread(self._runs.start, cause, examples, at=self._clock())
        try:
            manifest = await self._in_child(run, examples)
        except _Failed as exc:
            log.warning("training failed: %s", exc)
            await asyncio.to_thread(self._runs.fail, run, str(exc))
            return None
        except BaseException:
            await asyncio.to_thread(self._runs.fail, run, "It was ended with the service.")
            raise
        await asyncio.to_thread(self._runs.finish, run, manifest)
        return manifest

    async def _in_child(self, run: str, examples: list[StyleExample]) -> Manifest:
        path = self._settings.runs_dir / f"examples-{run}.jsonl"
        await asyncio.to_thread(write_examples, path, examples)
        settings = self._settings.model_dump(mode="json", include=_SETTINGS)
        settings["model"] = {"path": str(self._settings.model.path)} if self._settings.model.path else {}
        request = {"settings": settings, "examples": str(path), "name": self._settings.adapter.name, "by": "schedule"}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-S",
            str(LEASH),
            str(os.getpid()),
            sys.executable,
            "-m",
            "training",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=2**22,
        )
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(request).encode())
            await process.stdin.drain()
            process.stdin.close()
            result: dict[str, Any] = {}
            async for line in process.stdout:
                result = json.loads(line)
                if "event" in result:
                    log.info("training: %s", result["event"]["message"])
            await process.wait()
        except (ConnectionError, ValueError) as exc:
            raise _Failed(f"The training process broke off: {exc}.") from exc
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            path.unlink(missing_ok=True)
        if "manifest" not in result:
            raise _Failed(result.get("error") or f"The training process ended with status {process.returncode}.")
        return Manifest.model_validate(result["manifest"])

    def _in_force_since(self) -> datetime:
        """When this data directory first had a schedule. Kept in a file, so that a restart does not forget a time."""
        path = self._settings.runs_dir / "scheduled-since"
        with contextlib.suppress(OSError, ValueError):
            return datetime.fromisoformat(path.read_text(encoding="ascii").strip())
        now = self._clock()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(now.isoformat() + "\n", encoding="ascii")
        return now


class _Failed(Exception):
    """A training process gave no manifest."""
