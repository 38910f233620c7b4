"""`/v1/answers` (receipts) and `/v1/feedback` (thumbs)."""

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any, Literal, Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from services.chat.auth import CurrentUser
from services.chat.body import Body, Plain, refused
from services.chat.library import may_read
from services.chat.metrics import Metrics
from services.chat.standing import with_standing
from tandem.database import Database
from tandem.errors import NotFound
from tandem.schemas import Principal
from tandem.tables import AnswerRow, FeedbackRow, VersionRow, utc
from training.candidates import suggest, withdraw


class FeedbackRequest(Body):
    """A thumb on an answer."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"answer_id": "ans_7b1f", "rating": "down", "about": "facts", "comment": "It is 30 days."},
                {"answer_id": "ans_7b1f", "rating": "down", "about": "tone", "suggestion": "You get 28 days. [1]"},
            ]
        },
    )
    answer_id: str = Field(max_length=64)
    rating: Literal["up", "down"]
    about: Literal["facts", "tone", ""] = Field("", description="What the thumb is about.")
    comment: Plain = Field("", max_length=4000)
    suggestion: Plain = Field("", max_length=8000, description="A better answer, with `about: tone`.")

    @property
    def suggests(self) -> bool:
        """Whether it makes a style candidate of the answer."""
        return self.about == "tone" and (self.rating == "down" or bool(self.suggestion.strip()))

    @model_validator(mode="after")
    def _suggestion_is_tone(self) -> Self:
        if self.suggestion.strip() and self.about != "tone":
            # What is wrong in its facts is mended in the documents; an adapter must not learn it.
            raise refused("suggestion", "A suggestion is a matter of tone: send it with about: tone.", "invalid_value")
        return self


class FeedbackReply(BaseModel):
    """The thumb as it was kept, and the style candidate that it made, which a person decides on."""

    id: str
    answer_id: str
    rating: str
    about: str
    example_id: str | None = None


class Receipts:
    """Receipts and thumbs in the state database, each for the person whose answer it was, and for admins.

    An answer is withheld while it quotes a document that the person may not read now, as if that had been deleted: its
    text repeats what its passages say.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def receipt(self, answer_id: str, principal: Principal) -> dict[str, Any]:
        """The receipt of an answer.

        Raises:
            NotFound: There is no such answer, it is somebody else's, or it quotes what the principal may not read.
        """
        with self._database.session() as session:
            row = _own(session, answer_id, principal)
            return {
                "answer_id": row.id,
                "question": row.question,
                "arm": row.arm,
                "adapter": row.adapter,
                "text": row.text,
                "created_at": utc(row.created_at).isoformat(),
                "receipt": with_standing(session, row.receipt, datetime.now(UTC).date()),
            }

    def rate(self, feedback: FeedbackRequest, principal: Principal) -> tuple[str, str | None]:
        """Keeps a thumb; a second one of the same person on the same answer replaces the first.

        Returns:
            Its id, and that of the style candidate that it made.

        Raises:
            NotFound: There is no such answer, it is somebody else's, or it quotes what the principal may not read.
        """
        with self._database.session() as session:
            answer = _own(session, feedback.answer_id, principal)
            # The id is made from answer and person, so that two clicks at once cannot become two thumbs.
            key = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{feedback.answer_id}\n{principal.user}"))
            session.merge(
                FeedbackRow(
                    id=key,
                    answer_id=feedback.answer_id,
                    user=principal.user,
                    rating=feedback.rating,
                    about=feedback.about,
                    comment=feedback.comment,
                    created_at=datetime.now(UTC),
                )
            )
            if feedback.suggests:
                return key, suggest(session, answer, principal.user, feedback.comment, feedback.suggestion)
            withdraw(session, feedback.answer_id, principal.user)
            return key, None


def _own(session: Session, answer_id: str, principal: Principal) -> AnswerRow:
    row = session.get(AnswerRow, answer_id)
    # The same words for a missing answer, another's and a withheld one, so that nobody learns which there are.
    if row is None or not (principal.admin or row.user == principal.user) or not _readable(session, row, principal):
        raise NotFound(f"There is no answer {answer_id[:64]!r} of yours.", param="answer_id")
    return row


def _readable(session: Session, row: AnswerRow, principal: Principal) -> bool:
    """Whether every document that the model was given for this answer is there and open to the principal today."""
    quoted = {passage["document_id"] for passage in row.receipt.get("passages", ())}
    # A document has the readers of its newest version in all that are published.
    published = select(VersionRow.document_id, VersionRow.groups).where(
        VersionRow.document_id.in_(quoted), VersionRow.state == "published"
    )
    return quoted <= {id for id, groups in session.execute(published) if may_read(principal, groups)}


def answers_router(database: Database, metrics: Metrics) -> APIRouter:
    """The routes of receipts and thumbs."""
    router = APIRouter(prefix="/v1", tags=["answers"])
    receipts = Receipts(database)

    @router.get("/answers/{answer_id}")
    async def receipt(answer_id: str, principal: CurrentUser) -> dict[str, Any]:
        """The receipt of an answer: question, passages, adapter, prompt version, timings."""
        return await asyncio.to_thread(receipts.receipt, answer_id, principal)

    @router.post("/feedback", status_code=201)
    async def feedback(body: FeedbackRequest, principal: CurrentUser) -> FeedbackReply:
        """Keeps a thumb on an answer."""
        key, example = await asyncio.to_thread(receipts.rate, body, principal)
        metrics.rated(body.rating, body.about)
        return FeedbackReply(id=key, answer_id=body.answer_id, rating=body.rating, about=body.about, example_id=example)

    return router
