"""The day on which a test run began."""

from datetime import UTC, date, datetime, timedelta

TODAY = datetime.now(UTC).date()
YESTERDAY = TODAY - timedelta(days=1)
LATER = TODAY + timedelta(days=40)


def undated(value: object) -> object:
    """A stored value without the day of the run, which may be the next one if the tests run past midnight."""
    return "today" if isinstance(value, date) and value in (TODAY, TODAY + timedelta(days=1)) else value
