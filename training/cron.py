"""The times of a cron expression in a time zone, daylight saving included.

croniter's own rules: a time that a change of the clocks skips falls on the moment of the change, and a time that comes
twice is given twice. The second is right for what runs every hour, and wrong for what runs at an hour of the day, such
as `30 2 * * *`: that is taken the first time alone.
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadCronError, CroniterBadDateError, croniter

from tandem.errors import SettingsError

_SECOND = timedelta(seconds=1)


class Cron:
    """Five fields in a zone. All times given and taken are in UTC.

    Args:
        expression: Such as `0 3 * * 0`.
        zone: An IANA name, such as `Europe/Berlin`.

    Raises:
        SettingsError: The expression or the zone is wrong.
    """

    def __init__(self, expression: str, zone: str = "UTC") -> None:
        self.expression, self.zone = expression, zone
        try:
            self._zone = ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as exc:
            raise SettingsError(
                f"TANDEM_TRAINING__TIME_ZONE names no time zone: {zone!r}. Write an IANA name, such as Europe/Berlin."
            ) from exc
        fields = expression.split()
        try:
            if len(fields) != 5:
                raise ValueError(f"it has {len(fields)} fields")
            croniter(expression, datetime(2026, 1, 1, tzinfo=UTC)).get_next(datetime)
        except (CroniterBadCronError, CroniterBadDateError, ValueError) as exc:
            raise SettingsError(
                f"TANDEM_TRAINING__SCHEDULE is no cron expression: {expression!r} ({exc}). "
                "Write five fields, such as '0 3 * * 0' for Sundays at 03:00."
            ) from exc
        self._every_hour = fields[1].startswith("*")
        self._seen: tuple[datetime, datetime] | None = None  # the last window, for a clock that is looked at often

    def latest(self, now: datetime) -> datetime:
        """The last time that has come, `now` included."""
        return self._window(now)[0]

    def next(self, now: datetime) -> datetime:
        """The first time after `now`."""
        return self._window(now)[1]

    def _window(self, now: datetime) -> tuple[datetime, datetime]:
        if self._seen is None or not self._seen[0] <= now < self._seen[1]:
            # croniter gives what lies strictly before, by whole seconds.
            self._seen = self._step(now.replace(microsecond=0) + _SECOND, back=True), self._step(now, back=False)
        return self._seen

    def _step(self, start: datetime, *, back: bool) -> datetime:
        times = croniter(self.expression, start.astimezone(self._zone))
        while True:
            found: datetime = (times.get_prev(datetime) if back else times.get_next(datetime)).astimezone(UTC)
            # The fold that croniter itself gives back says nothing.
            if self._every_hour or not found.astimezone(self._zone).fold:
                return found
