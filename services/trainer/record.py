"""What is written down, and told to others, of one attempt at a run."""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from services.trainer.webhook import Event, Webhook
from tandem.errors import DatabaseUnavailable
from training.events import TrainingEvent
from training.result import Result
from training.runs import TrainingRuns

log = logging.getLogger(__name__)

_PAUSES = (0.5, 1, 2, 4, 8, 15)  # seconds; a database that is started anew is back by then


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)


class Record:
    """The ledger of one attempt. Blocking.

    Args:
        runs: Where it is written down.
        webhook: Who is told.
        id: The run.
        attempt: Which start of it this is; None for the holder of the turn, who ends one whose process is gone.
        clock: Tells the time, in UTC.
    """

    def __init__(
        self,
        runs: TrainingRuns,
        webhook: Webhook,
        id: str,
        attempt: int | None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._runs, self._webhook, self._clock = runs, webhook, clock
        self._id, self._attempt = id, attempt

    def started(self) -> None:
        """The run begins, or goes on."""
        self._webhook.tell("started", self._runs.get(self._id))

    def event(self, event: TrainingEvent) -> None:
        """A line of the log. One that cannot be written is no reason to end hours of work."""
        try:
            self._runs.log(self._id, event, at=self._clock())
        except DatabaseUnavailable as exc:
            log.warning("a line of the run's log is lost: %s (%s)", event.message, exc.message)

    def finished(self, result: Result) -> None:
        """There is a verdict.

        Raises:
            DatabaseUnavailable: The state database has not answered for half a minute.
        """
        self._end(
            "finished" if result.promoted else "not_promoted",
            lambda: self._runs.finish(self._id, self._attempt, result, at=self._clock()),
        )

    def failed(self, message: str) -> None:
        """There is none, and there will be none.

        Raises:
            DatabaseUnavailable: As above.
        """
        self._end("failed", lambda: self._runs.fail(self._id, self._attempt, message, at=self._clock()))

    def interrupted(self, message: str) -> None:
        """It was broken off.

        Raises:
            DatabaseUnavailable: As above.
        """
        self._interrupt(message, _PAUSES)

    def stopped(self, message: str) -> None:
        """It was broken off, and whoever waits for this process to end does not wait long.

        A database that is away hears of it from the next look, which finds a run that nobody makes.
        """
        with contextlib.suppress(DatabaseUnavailable):
            self._interrupt(message, _PAUSES[:1])

    def _interrupt(self, message: str, pauses: Sequence[float]) -> None:
        def write() -> bool:
            return self._runs.interrupt(self._id, self._attempt, message, at=self._clock())

        self._end("interrupted", write, pauses)

    def _end(self, event: Event, write: Callable[[], bool], pauses: Sequence[float] | None = None) -> None:
        for pause in (*(_PAUSES if pauses is None else pauses), None):
            try:
                mine = write()
                break
            except DatabaseUnavailable:
                if pause is None:
                    raise
                time.sleep(pause)
        if not mine:
            log.warning("the run %s was taken over by another process, which says what comes of it", self._id)
            return
        run = self._runs.get(self._id)
        self._webhook.tell("failed" if run.state == "failed" else event, run)
