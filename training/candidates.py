"""Style candidates: examples that feedback suggests, and what a person decides on each. None is trained on before."""

import logging
import random
import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tandem.database import Database
from tandem.errors import ExampleError, InputError, NotFound
from tandem.schemas import Value
from tandem.settings import Settings
from tandem.tables import AnswerRow, AuditRow, StyleCandidateRow, utc
from training.disguise import Disguise
from training.examples import ExampleSource, StyleExample, example_digest, group_by_sources, load_examples

log = logging.getLogger(__name__)

Decided = Literal["open", "approved", "refused"]
_CHANGED = "The example is not approved: it was changed since you looked at it. Look at it again. (changed)"
_VOUCH = " If its people are invented, say so: `invented_people`, or `--invented-people` on the command line."


class Candidate(Value):
    """An example that feedback suggests.

    Attributes:
        user, comment: Who gave the feedback, and what they wrote to it.
        document_ids: Whose words its sources are.
        digest: Of the example as it is now; who gave the feedback may think again until somebody decides.
        decided_by: Who approved or refused it.
    """

    id: str
    state: Decided
    example: StyleExample
    digest: str
    answer_id: str | None = None
    document_ids: tuple[str, ...] = ()
    user: str = ""
    comment: str = ""
    created_at: datetime
    decided_by: str | None = None
    decided_at: datetime | None = None


class Edit(Value):
    """What a person changes of an example before it is approved; None leaves a part as it is.

    Attributes:
        invented_people: Whether whoever approves vouches that the people in it are invented, so that their names pass.
        seen: `digest` of the example that was looked at, or its beginning: another one is not approved.
    """

    question: str | None = None
    sources: tuple[ExampleSource, ...] | None = None
    answer: str | None = None
    invented_people: bool | None = None
    seen: str | None = None


class Candidates:
    """Reads the candidates, and writes down what is decided on them. Blocking.

    Args:
        database: Where they are kept.
        settings: Names the examples that an approved one joins.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    def list(self, state: Decided | None = None, *, limit: int = 500) -> list[Candidate]:
        """Candidates in a state, or all, the oldest first."""
        query = select(StyleCandidateRow).order_by(StyleCandidateRow.created_at, StyleCandidateRow.id).limit(limit)
        if state is not None:
            query = query.where(StyleCandidateRow.state == state)
        with self._database.session() as session:
            return [found for row in session.scalars(query) if (found := _candidate(row)) is not None]

    def count(self, state: Decided) -> int:
        """How many there are in a state."""
        with self._database.session() as session:
            return session.scalar(select(func.count()).where(StyleCandidateRow.state == state)) or 0

    def get(self, id: str) -> Candidate:
        """One candidate, by its id or the beginning of it.

        Raises:
            NotFound: There is none.
        """
        with self._database.session() as session:
            return _known(_row(session, id), id)

    def approve(self, id: str, by: str, edit: Edit | None = None) -> Candidate:
        """Lets an example into the next run, if the guards do.

        Args:
            id: The candidate, or the beginning of its id.
            by: Who approves; it is written into the example.
            edit: What is changed first.

        Raises:
            NotFound: There is no such candidate.
            ExampleError: A guard refuses the example, it is there already, or it was changed since it was looked at; it
                stays as it was.
        """
        candidate = self.get(id)
        if edit is not None and edit.seen is not None and not candidate.digest.startswith(edit.seen):
            raise ExampleError(_CHANGED)
        example = _edited(candidate.example, edit, by)
        self._check(candidate.id, example)
        return self._decide(candidate.id, "approved", by, example, candidate.digest)

    def refuse(self, id: str, by: str) -> Candidate:
        """Keeps an example out, also one that was approved before.

        Raises:
            NotFound: There is no such candidate.
        """
        return self._decide(self.get(id).id, "refused", by, None)

    def _check(self, id: str, example: StyleExample) -> None:
        """What the next run would refuse is said now, while the person who can mend it is there."""
        # What they detect with is loaded when somebody approves, not at start.
        from training.corpus_facts import CorpusFacts
        from training.guards import guard

        refusals = guard([example], CorpusFacts.of(self._database)).refusals
        if refusals:
            hint = _VOUCH if refusals[0].reason == "name" else ""
            raise ExampleError(f"The example is not approved: {refusals[0].message}{hint} ({refusals[0].reason})")
        others = [each.example for each in self.list("approved", limit=100_000) if each.id != id]
        # What nobody approved in the file is not trained on.
        others += [each for each in _file(self._settings.training.examples) if each.approved_by.strip()]
        if _plain(example) in {_plain(other) for other in others}:
            raise ExampleError("The example is not approved: the same one is trained on already. (duplicate)")
        if example.sources and example.sources in {other.sources for other in _file(self._settings.training.heldout)}:
            raise ExampleError("The example is not approved: the gate asks about the same sources. (held_out)")

    def _decide(
        self, id: str, state: Decided, by: str, example: StyleExample | None, checked: str | None = None
    ) -> Candidate:
        now = datetime.now(UTC)
        with self._database.session() as session:
            row = session.get(StyleCandidateRow, id, with_for_update=True)
            if row is None:  # its document was deleted in this moment
                raise NotFound(_missing(id))
            if checked is not None and _known(row, id).digest != checked:
                raise ExampleError(_CHANGED)
            row.state, row.decided_by, row.decided_at = state, by, now
            if example is not None:
                row.example = example.model_dump(mode="json")
            session.add(AuditRow(user=by, action=f"example_{state}", subject=id, created_at=now))
            return _known(row, id)


def suggest(session: Session, answer: AnswerRow, user: str, comment: str, suggestion: str) -> str | None:
    """Makes a candidate of an answer whose tone somebody minded; one of the same person and answer is replaced.

    Args:
        session: Of the feedback, so that both are kept or neither.
        answer: Its receipt gives question and sources.
        user: Whose feedback it is.
        comment: What they wrote to it.
        suggestion: The better answer; empty for the answer as it was given, which somebody then has to edit.

    Returns:
        The candidate's id, or None where there is no answer to make one of.
    """
    id = candidate_id(answer.id, user)
    text = suggestion.strip() or ("" if answer.receipt.get("degraded") == "retrieval_only" else answer.text.strip())
    row = session.get(StyleCandidateRow, id)
    if not text or not answer.question.strip() or (row is not None and row.state != "open"):
        return id if row is not None else None
    passages = [passage for passage in answer.receipt.get("passages") or () if str(passage.get("quote") or "").strip()]
    places = {str(passage.get("n")): str(place) for place, passage in enumerate(passages, start=1)}
    sources = [
        {"title": passage.get("title") or "", "heading": passage.get("heading") or "", "text": passage["quote"]}
        for passage in passages
    ]
    example = StyleExample.model_validate(
        {
            "question": answer.question,
            "sources": sources,
            "answer": re.sub(r"\[(\d+)\]", lambda mark: f"[{places.get(mark[1], mark[1])}]", text),
            "topic": sources[0]["title"] if sources else "",
            "tags": ("feedback",),
        }
    )
    documents = sorted({str(passage["document_id"]) for passage in passages if passage.get("document_id")})
    fields: dict[str, Any] = {"answer_id": answer.id, "document_ids": documents, "user": user, "comment": comment}
    fields |= {"example": example.model_dump(mode="json"), "created_at": datetime.now(UTC)}
    session.merge(StyleCandidateRow(id=id, state="open", **fields))
    return id


def withdraw(session: Session, answer_id: str, user: str) -> None:
    """Takes back the candidate of somebody who thought again, if nobody has decided on it."""
    row = session.get(StyleCandidateRow, candidate_id(answer_id, user))
    if row is not None and row.state == "open":
        session.delete(row)


def candidate_id(answer_id: str, user: str) -> str:
    """One a person and answer, so that two clicks at once cannot become two candidates."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"style candidate\n{answer_id}\n{user}"))


def made_up(example: StyleExample) -> StyleExample:
    """The example with other names and figures, the same ones in question, sources and answer: a draft to approve.

    What feedback suggests quotes real documents, whose facts must not go into the weights.
    """
    parts = [example.question, example.answer]
    parts += [text for source in example.sources for text in (source.text, source.title, source.heading)]
    replace = Disguise(group_by_sources([example])).draw(parts, random.Random("\n".join(parts)))
    sources = [
        ExampleSource(title=replace(source.title), heading=replace(source.heading), text=replace(source.text))
        for source in example.sources
    ]
    update = {"question": replace(example.question), "answer": replace(example.answer), "sources": tuple(sources)}
    return example.model_copy(update=update | {"topic": replace(example.topic)})


def _edited(example: StyleExample, edit: Edit | None, by: str) -> StyleExample:
    changes = {name: value for name, value in (edit or Edit()) if value is not None and name != "seen"}
    if (invented := changes.pop("invented_people", None)) is not None:
        from training.guards import MADE_UP  # as above

        changes["tags"] = (*(tag for tag in example.tags if tag != MADE_UP), *((MADE_UP,) if invented else ()))
    try:
        return StyleExample.model_validate(example.model_dump() | changes | {"approved_by": by})
    except ValidationError as exc:
        first = exc.errors()[0]
        raise InputError(f"The example cannot be kept: {first['loc'][0]}: {first['msg']}.") from exc


def _file(path: Any) -> Sequence[StyleExample]:
    """The examples of a file; none where it cannot be read, which the next run then says."""
    try:
        return load_examples(path)
    except ExampleError as exc:
        log.warning("%s", exc.message)
        return ()


def _plain(example: StyleExample) -> str:
    return " ".join(f"{example.question} {example.answer} {example.sources}".lower().split())


def _row(session: Session, id: str) -> StyleCandidateRow | None:
    if not 4 <= len(id) <= 36:
        return session.get(StyleCandidateRow, id)
    starts = select(StyleCandidateRow).where(StyleCandidateRow.id.startswith(id, autoescape=True)).limit(2)
    found = session.scalars(starts).all()
    return found[0] if len(found) == 1 else None


def _known(row: StyleCandidateRow | None, id: str) -> Candidate:
    found = _candidate(row) if row is not None else None
    if found is None:
        raise NotFound(_missing(id))
    return found


def _candidate(row: StyleCandidateRow) -> Candidate | None:
    try:
        example = StyleExample.model_validate(row.example)
    except ValidationError as exc:
        log.warning("the style candidate %s is no example and is left out: %s", row.id, exc)
        return None
    fields = ("id", "state", "answer_id", "document_ids", "user", "comment", "decided_by")
    return Candidate.model_validate(
        {name: getattr(row, name) for name in fields}
        | {"example": example, "digest": example_digest(example), "created_at": utc(row.created_at)}
        | {"decided_at": utc(row.decided_at) if row.decided_at else None}
    )


def _missing(id: str) -> str:
    return f"There is no style candidate {id[:64]!r}, or more than one begins so; `tandem examples list` has them."
