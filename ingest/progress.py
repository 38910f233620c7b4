"""How far a run has got, written into its row, so that other processes can follow it."""

import time
from collections.abc import Callable

from ingest.report import PROGRESS, Progress
from tandem.database import Database
from tandem.errors import DatabaseUnavailable
from tandem.tables import IngestRunRow

_EVERY = 1.0  # seconds between two writes
OnProgress = Callable[[Progress], None]


class ProgressLog:
    """Hands progress on at once, and writes it down once a second.

    Args:
        database: Where the run has its row.
        run_id: The run; one without a row (a dry run) is only handed on.
        hand_on: Called in the run's thread.
    """

    def __init__(self, database: Database, run_id: str, hand_on: OnProgress | None) -> None:
        self._database = database
        self._run_id = run_id
        self._hand_on = hand_on
        self._next = time.monotonic() + _EVERY

    def __call__(self, progress: Progress) -> None:
        if self._hand_on is not None:
            self._hand_on(progress)
        if time.monotonic() < self._next:
            return
        try:
            with self._database.session() as session:
                row = session.get(IngestRunRow, self._run_id)
                if row is not None and row.state == "running":
                    row.report = {PROGRESS: progress.model_dump(mode="json")}
        except DatabaseUnavailable:
            pass  # the run itself meets the same database, and says so
        self._next = time.monotonic() + _EVERY
