"""The current day, asked for each time: a test run may go past midnight."""

from datetime import UTC, date, datetime


def today() -> date:
    """As documents are put in force by it."""
    return datetime.now(UTC).date()
