"""How training stands, as the page, the HTTP API and the command line show it."""

from datetime import datetime, timedelta

from tandem.database import Database
from tandem.errors import AdapterError, ExampleError
from tandem.schemas import Value
from tandem.settings import Settings
from training.candidates import Candidates
from training.pool import count_new, gather_examples
from training.runs import Run, TrainingRuns
from training.schedule import Schedule, Standing

SEEN_WITHIN = timedelta(minutes=3)  # a trainer that looked so long ago is taken to run


class TrainingStatus(Value):
    """How training stands.

    Attributes:
        trainer: Whether a trainer service runs: it looked at the clock in the last minutes.
        new_examples: Approved ones that no finished run has had; None where their file, or what the adapter was taught,
            cannot be read here.
        min_new_examples: How many are needed at the time due.
        candidates: Style candidates that wait for somebody to decide.
        current: The run that is under way, or waits for a trainer.
        last: The one that ended last.
    """

    schedule: Standing
    trainer: bool
    new_examples: int | None
    min_new_examples: int
    candidates: int
    current: Run | None
    last: Run | None


class Overview:
    """Reads it together. Blocking.

    Args:
        database: The state database.
        settings: The schedule, and where the examples are.

    Attributes:
        runs: The runs.
        candidates: The style candidates.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self.runs = TrainingRuns(database)
        self.candidates = Candidates(database, settings)
        self._schedule = Schedule(settings, database)
        self._settings = settings

    def status(self, now: datetime) -> TrainingStatus:
        """How training stands now."""
        standing = self._schedule.standing(now)
        try:
            new = count_new(self._settings, self.runs, gather_examples(self._settings, self.candidates))
        except (AdapterError, ExampleError):  # the trainer of another container has the files
            new = None
        return TrainingStatus(
            schedule=standing,
            trainer=standing.looked_at is not None and abs(now - standing.looked_at) < SEEN_WITHIN,
            new_examples=new,
            min_new_examples=self._settings.training.min_new_examples,
            candidates=self.candidates.count("open"),
            current=self.runs.current(),
            last=self.runs.ended(),
        )
