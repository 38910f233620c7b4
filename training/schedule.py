"""When training runs by itself: at the times of a cron expression, if there are new examples."""

import logging
from datetime import datetime, timedelta

from sqlalchemy import update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from tandem.database import Database
from tandem.schemas import Value
from tandem.settings import Settings
from tandem.tables import TrainingScheduleRow, utc
from training.cron import Cron

log = logging.getLogger(__name__)

# A clock that is set back by no more than this shows times that had come before. One that is further behind was wrong
# when they came: the schedule starts anew from what it shows now, or it would stand still until that day comes.
TOLERANCE = timedelta(days=7)
_ID = "training"


class Standing(Value):
    """Where the schedule stands, as the database has it.

    Attributes:
        next: The first time that is still to come.
        looked_at: When a trainer last looked at the clock; None when none ever did.
        note: What it decided.
    """

    expression: str
    zone: str
    next: datetime
    looked_at: datetime | None = None
    note: str = ""


class Schedule:
    """Says which time of the schedule is to be answered. However many were missed, the last one stands for them all.

    Args:
        settings: `schedule` and `time_zone` of `settings.training`.
        database: Keeps what was answered, for all processes and after a restart.

    Raises:
        SettingsError: The cron expression or the time zone is wrong.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        self._cron = Cron(settings.training.schedule, settings.training.time_zone)
        self._answered: datetime | None = None  # as the database last said

    def due(self, now: datetime) -> datetime | None:
        """The time that nobody has answered yet, or None.

        Args:
            now: In UTC.

        Raises:
            DatabaseUnavailable: The state database does not answer.
        """
        latest = self._cron.latest(now)
        if self._answered is None or not latest <= self._answered <= now + TOLERANCE:
            self._answered = self._read(now, latest)
        return latest if latest > self._answered else None

    def answer(self, session: Session, fire: datetime) -> bool:
        """Takes a time, in the session that writes down what came of it. False: somebody else was quicker."""
        row = TrainingScheduleRow
        taken = session.execute(update(row).where(row.id == _ID, row.answered < fire).values(answered=fire))
        assert isinstance(taken, CursorResult)
        self._answered = None
        return bool(taken.rowcount)

    def looked(self, now: datetime, note: str | None = None) -> None:
        """Writes down that a trainer looks at the clock, and what it decided. Call it every few minutes."""
        self._answered = None  # so that a clock that was set right is seen on every host before the next time comes
        with self._database.session() as session:
            row = session.get(TrainingScheduleRow, _ID)
            if row is not None:
                row.looked_at = now
                row.note = row.note if note is None else note

    def standing(self, now: datetime) -> Standing:
        """Where the schedule stands; reads only."""
        with self._database.session() as session:
            row = session.get(TrainingScheduleRow, _ID)
        # What the trainers go by, which may have other settings than this process.
        cron = Cron(row.expression, row.zone) if row is not None else self._cron
        return Standing(
            expression=cron.expression,
            zone=cron.zone,
            next=cron.next(now),
            looked_at=utc(row.looked_at) if row is not None and row.looked_at else None,
            note=row.note if row is not None else "",
        )

    def _read(self, now: datetime, latest: datetime) -> datetime:
        """What was answered. A schedule that is new, or another one, has missed nothing before now."""
        with self._database.session() as session:
            row = session.get(TrainingScheduleRow, _ID, with_for_update=True)
            if row is None:
                row = TrainingScheduleRow(id=_ID, expression="", zone="", answered=now, note="")
                session.add(row)
            asked = (self._cron.expression, self._cron.zone)
            if (row.expression, row.zone) != asked:
                row.expression, row.zone = asked
                row.answered = now
            elif utc(row.answered) > now + TOLERANCE:
                log.warning("the clock was set back to %s: the schedule starts anew from there", now)
                row.answered = latest
            return utc(row.answered)
