"""Answers that people got, read back from the state database with what readers said of them."""

from collections.abc import Sequence
from datetime import date
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select

from tandem.database import Database
from tandem.errors import InputError, NotFound
from tandem.schemas import Answer, Message, Value
from tandem.tables import AnswerRow, FeedbackRow


class Rating(Value):
    """What one reader said of an answer. `about` is `facts`, `tone` or empty."""

    rating: str
    about: str = ""
    comment: str = ""


class Receipt(Value):
    """An answer as it was given, with what it takes to ask again.

    Attributes:
        dated: The day that the caller asked for; None when today was meant.
    """

    answer: Answer
    question: str
    history: tuple[Message, ...] = ()
    instructions: str = ""
    dated: date | None = None
    ratings: tuple[Rating, ...] = ()

    def complaint(self, *about: str) -> bool:
        """Whether somebody rated it down for one of these."""
        return any(rating.rating == "down" and rating.about in about for rating in self.ratings)


def load_receipts(database: Database, ids: Sequence[str] = (), *, limit: int = 50) -> list[Receipt]:
    """Reads receipts with their feedback. Blocking.

    Args:
        database: The state database.
        ids: Which answers; without any, the latest that were rated down.
        limit: How many, when no ids are given.

    Raises:
        NotFound: There is no such answer.
        InputError: A receipt cannot be read.
        DatabaseUnavailable: The database does not answer.
    """
    with database.session() as session:
        if ids:
            rows = {row.id: row for row in session.scalars(select(AnswerRow).where(AnswerRow.id.in_(ids)))}
        else:
            down = select(FeedbackRow.answer_id).where(FeedbackRow.rating == "down")
            latest = select(AnswerRow).where(AnswerRow.id.in_(down)).order_by(AnswerRow.created_at.desc()).limit(limit)
            rows = {row.id: row for row in session.scalars(latest)}
        ratings: dict[str, list[Rating]] = {}
        for row in session.scalars(select(FeedbackRow).where(FeedbackRow.answer_id.in_(rows))):
            rating = Rating(rating=row.rating, about=row.about, comment=row.comment)
            ratings.setdefault(row.answer_id, []).append(rating)
    missing = [id for id in ids if id not in rows]
    if missing:
        raise NotFound(
            f"There is no answer {missing[0]!r}: take the answer_id from a completion or `tandem ask --json`."
        )
    return [read_receipt(rows[id], ratings.get(id, ())) for id in ids or rows]


def read_receipt(row: AnswerRow, ratings: Sequence[Rating] = ()) -> Receipt:
    """Makes a receipt out of its row.

    Raises:
        InputError: The row was written by another version of Tandem and lacks something.
    """
    stored: dict[str, Any] = row.receipt
    ask: dict[str, Any] = stored.get("ask") or {}
    try:
        messages = [Message.model_validate(turn) for turn in ask.get("messages") or ()]
        answer = Answer.model_validate(
            {"answer_id": row.id, "text": row.text, "arm": row.arm, "adapter": row.adapter}
            | {field: value for field, value in stored.items() if field in Answer.model_fields}
        )
        return Receipt(
            answer=answer,
            question=row.question,
            history=tuple(messages[:-1]),
            instructions=str(ask.get("instructions") or ""),
            # The stored request has its day filled in; one that differs from the day of asking was meant.
            dated=answer.as_of if answer.as_of != row.created_at.date() else None,
            ratings=tuple(ratings),
        )
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"The receipt of the answer {row.id!r} cannot be read: {field}: {first['msg']}. "
            "It was written by another version of Tandem; ask the question again and diagnose that answer."
        ) from exc
