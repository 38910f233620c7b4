"""The day on which a test run began, and the days that readers ask about."""

from datetime import date, timedelta

from tests.days import today

TODAY = today()
NOW = TODAY + timedelta(days=1)  # what is in force by then; it stays so where the tests run past midnight
YESTERDAY = TODAY - timedelta(days=1)
LATER = TODAY + timedelta(days=40)


def undated(value: object) -> object:
    """A stored value without the day of the run, which may be the next one if the tests run past midnight."""
    return "today" if isinstance(value, date) and value in (TODAY, TODAY + timedelta(days=1)) else value
