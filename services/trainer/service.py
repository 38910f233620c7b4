"""Makes the runs that the schedule, or a person, asks for: one at a time, whichever process or host looks first."""

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from services.trainer.child import Broken, train_in_child
from services.trainer.record import Record, utc_now
from services.trainer.webhook import Webhook
from tandem.database import Database
from tandem.errors import AdapterError, Busy, ExampleError, NotFound, TandemError
from tandem.registry import Registry
from tandem.settings import Settings
from training.candidates import Candidates
from training.events import TrainingEvent
from training.examples import example_digest
from training.job import run_lock
from training.pool import Pool, count_new, gather_examples, write_examples
from training.result import read_result, result_path, settle
from training.runs import Run, TrainingRuns
from training.schedule import Schedule
from training.turn import Turn

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0  # seconds between two looks at the clock and at what people ask for
NOTED_EVERY = timedelta(minutes=1)  # how often it is written down that the service looks
KEPT = 7 * 86_400.0  # seconds for which a run of `tandem train` that was broken off may be gone on with


class Trainer:
    """Looks at the clock, and trains when a run is due.

    Args:
        settings: The configuration.
        database: Where the schedule and the runs are kept.
        clock: Tells the time, in UTC.

    Raises:
        SettingsError: The cron expression or the time zone is wrong.
    """

    def __init__(self, settings: Settings, database: Database, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock
        self._runs = TrainingRuns(database)
        self._candidates = Candidates(database, settings)
        self._schedule = Schedule(settings, database)
        self._webhook = Webhook(settings.training)
        self._noted: datetime | None = None
        self._said = ""

    async def run(self) -> None:
        """Runs until cancelled. No single failure ends it."""
        try:
            while True:
                try:
                    await self.look()
                    self._mark_alive()
                except TandemError as exc:
                    self._say(f"the schedule could not be looked at: {exc.message}")
                except Exception:
                    log.exception("the schedule could not be looked at")
                await asyncio.sleep(LOOK_EVERY)
        finally:
            await asyncio.to_thread(self._webhook.close)

    async def look(self) -> Run | None:
        """Looks once, and makes the run that is to be made.

        Returns:
            What came of it; None when there was nothing to do.

        Raises:
            DatabaseUnavailable: The state database does not answer.
        """
        now = self._clock()
        fire = await asyncio.to_thread(self._schedule.due, now)
        await asyncio.to_thread(self._note, now)
        if fire is None and not await asyncio.to_thread(self._runs.unsettled):
            return None
        try:
            async with contextlib.AsyncExitStack() as stack:
                turn = await asyncio.to_thread(stack.enter_context, Turn(self._database))
                # The process of a service that was killed may take some seconds to end.
                with run_lock(self._settings):
                    await asyncio.to_thread(self._sweep)
                run = await asyncio.to_thread(self._choose, now, fire)
                return await self._make(run, turn) if run is not None else None
        except Busy as exc:
            self._say(exc.message)
            return None

    def _choose(self, now: datetime, fire: datetime | None) -> Run | None:
        """The run to make: one that was broken off, one that a person wants, or the one that is due."""
        for path in sorted(self._settings.runs_dir.glob("result-*.json")):
            self._settle(path.stem.removeprefix("result-"))
        for id in self._runs.break_off(at=now):
            run = self._runs.get(id)
            log.warning("the training run %s: %s", id, run.message)
            self._webhook.tell("failed" if run.state == "failed" else "interrupted", run)
        return self._runs.to_do() or (self._answer(now, fire) if fire is not None else None)

    def _answer(self, now: datetime, fire: datetime) -> Run | None:
        """Decides on a time of the schedule, in one commit with the run that comes of it."""
        least = self._settings.training.min_new_examples
        try:
            new = count_new(self._settings, self._runs, gather_examples(self._settings, self._candidates))
        except ExampleError as exc:  # the run itself will say so, where people look for it
            log.warning("%s", exc.message)
            new = least
        id = None
        with self._database.session() as session:
            if not self._schedule.answer(session, fire):
                return None
            if new >= least:
                name = self._settings.adapter.name
                id = self._runs.want(session, "schedule", name, "schedule", at=now, due_at=fire)
        said = f"{new} new examples at the time due, {fire:%Y-%m-%d %H:%M} UTC; {least} are needed."
        self._schedule.looked(now, said)
        self._say(said)
        return self._runs.get(id) if id is not None else None

    def _settle(self, id: str) -> None:
        """Writes down what came of a run whose process reached its verdict and nobody heard of it."""
        path = result_path(self._settings, id)
        result = read_result(path)
        with contextlib.suppress(NotFound):
            run = self._runs.get(id)
            if result is not None and run.state in ("running", "interrupted"):
                log.warning("the training run %s had ended before its process did", id)
                record = Record(self._runs, self._webhook, id, None, self._clock)
                try:
                    record.finished(settle(Registry.open(self._settings), result, run.user or run.cause))
                except AdapterError as exc:
                    record.failed(exc.message)
        path.unlink(missing_ok=True)

    async def _make(self, run: Run, turn: Turn) -> Run:
        try:
            pool = await asyncio.to_thread(self._gather, run)
            problem = None
        except ExampleError as exc:
            pool, problem = Pool(file=()), exc.message
        attempt = await asyncio.to_thread(self._runs.start, run.id, pool.all, at=self._clock())
        record = Record(self._runs, self._webhook, run.id, attempt, self._clock)
        if problem is not None:
            await asyncio.to_thread(record.failed, problem)
        else:
            log.info("the training run %s begins (%s, attempt %d)", run.id, run.cause, attempt)
            await asyncio.to_thread(record.started)
            await self._train(run, pool, turn, record)
        return await asyncio.to_thread(self._runs.get, run.id)

    def _gather(self, run: Run) -> Pool:
        """What a run is given. One that goes on has what it began with, but for what was deleted since.

        With other examples it would be another run, and start over.
        """
        pool = gather_examples(self._settings, self._candidates)
        if run.attempt == 0:
            return pool
        kept = [[each for each in part if example_digest(each) in run.examples] for part in (pool.file, pool.approved)]
        return Pool(file=tuple(kept[0]), approved=tuple(kept[1]))

    async def _train(self, run: Run, pool: Pool, turn: Turn, record: Record) -> None:
        async def on_event(event: TrainingEvent) -> None:
            log.info("training: %s", event.message)
            await asyncio.to_thread(record.event, event)

        async def pulse() -> bool:
            # First, for its connection alone notices in time that it is dead.
            kept = await asyncio.to_thread(turn.kept)
            await asyncio.to_thread(self._note, self._clock())
            self._mark_alive()
            return kept and not await asyncio.to_thread(self._runs.cancelled, run.id)

        path = self._settings.runs_dir / f"examples-{run.id}.jsonl"
        result_file = result_path(self._settings, run.id)
        name = run.name or self._settings.adapter.name  # the first release wrote none down
        by = run.user or run.cause
        try:
            await asyncio.to_thread(write_examples, path, pool.all)
            result = await train_in_child(
                self._settings, path, by, name=name, result=result_file, on_event=on_event, pulse=pulse
            )
        except Broken as exc:
            log.warning("training: %s", exc.message)
            if exc.again and result_file.exists():  # the verdict was reached; a further attempt would reach it again
                await asyncio.to_thread(self._settle, run.id)
            else:
                await asyncio.to_thread(record.interrupted if exc.again else record.failed, exc.message)
        except TandemError as exc:
            await asyncio.to_thread(record.failed, exc.message)
        except asyncio.CancelledError:
            if not result_file.exists():  # else the next look finds what came of it
                record.stopped("The service was stopped.")  # in this thread: the task is being cancelled
            raise
        except Exception:
            log.exception("the training run %s failed", run.id)
            message = f"It failed unexpectedly; the trainer's log has the details under {run.id}."
            await asyncio.to_thread(record.failed, message)
        else:
            await asyncio.to_thread(record.finished, result)
            result_file.unlink(missing_ok=True)
        finally:
            path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """What runs have left: text, whose document may have been deleted since, and folders of checkpoints."""
        for path in self._settings.runs_dir.glob("examples-*.jsonl"):
            path.unlink(missing_ok=True)
        if self._runs.begun():  # one of the folders may be that run's
            return
        for path in self._settings.runs_dir.iterdir():
            if path.is_dir() and time.time() - path.stat().st_mtime > KEPT:
                log.info("the checkpoints in %s are of no run that goes on: they are removed", path.name)
                shutil.rmtree(path, ignore_errors=True)

    def _note(self, now: datetime) -> None:
        if self._noted is None or abs(now - self._noted) >= NOTED_EVERY:
            self._schedule.looked(now)
            self._noted = now

    def _mark_alive(self) -> None:
        """Touches the file whose age the health checks of docker-compose and Kubernetes look at."""
        path = self._settings.runs_dir / "alive"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as exc:
            self._say(f"the health checks cannot be told that the trainer looks: {exc}")

    def _say(self, message: str) -> None:
        if message != self._said:
            log.info("%s", message)
            self._said = message
