"""Training runs in the state database: what was wanted by whom, what came of it, and which examples it had."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from tandem.database import Database
from tandem.errors import Busy, InputError, NotFound
from tandem.schemas import Value
from tandem.tables import StyleCandidateRow, TrainingEventRow, TrainingRunRow, utc
from training.events import TrainingEvent
from training.examples import StyleExample, example_digest
from training.result import Result

Cause = Literal["manual", "schedule"]
State = Literal["waiting", "running", "interrupted", "done", "failed"]

ATTEMPTS = 3  # starts of one run; a machine that dies of it must not be made to die for ever
_REQUEST = 0x7A51  # with the schema, as `training.turn` has it
ENDED = "Its process was ended before it was done."
_WANTED = (TrainingRunRow.state == "waiting") | ((TrainingRunRow.state == "interrupted") & TrainingRunRow.resumes)
_OPEN = _WANTED | (TrainingRunRow.state == "running")


class Run(Value):
    """A training run.

    Attributes:
        name: Of the adapter that it trains.
        adapter: `NAME@DIGEST12` of what came of it.
        promoted: Whether that was made active.
        reasons: The verdict of the gate.
        message: Why it failed, was interrupted, or was not made active though the gate let it through.
        progress: Its newest step: step, steps, loss, tokens_per_second, seconds_left.
        examples: Digests of the examples that it was given.
    """

    id: str
    state: State
    cause: Cause
    name: str
    user: str = ""
    attempt: int = 0
    resumes: bool = False
    adapter: str | None = None
    promoted: bool | None = None
    reasons: tuple[str, ...] = ()
    message: str | None = None
    progress: dict[str, float] = Field(default_factory=dict)
    due_at: datetime | None = None
    started_at: datetime
    finished_at: datetime | None = None
    examples: frozenset[str] = Field(frozenset(), exclude=True)


class LoggedEvent(TrainingEvent):
    """A line of a run's log. `id` grows; whoever follows a log asks for what comes after the last one."""

    id: int
    at: datetime


class TrainingRuns:
    """Reads and writes the runs. Blocking.

    A process writes to the attempt that it started. If it has lost its turn meanwhile and another went on with the run,
    what it writes is dropped.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def want(
        self,
        session: Session,
        cause: Cause,
        name: str,
        user: str,
        *,
        at: datetime,
        due_at: datetime | None = None,
        resumes: bool = True,
    ) -> str:
        """Writes down that a run is to be made; returns its id."""
        id = str(uuid.uuid4())
        row = TrainingRunRow(id=id, state="waiting", cause=cause, name=name, user=user, due_at=due_at, started_at=at)
        row.resumes, row.attempt = resumes, 0
        session.add(row)
        session.flush()  # before the log that refers to it
        return id

    def request(self, name: str, user: str, *, at: datetime | None = None) -> Run:
        """A run that a person wants now; the trainer service makes it.

        Raises:
            Busy: One is waiting or under way, or is to go on.
        """
        with self._database.session() as session:
            _one_at_a_time(session)
            other = session.scalar(select(TrainingRunRow.id).where(_OPEN).limit(1))
            if other is not None:
                raise Busy(f"The training run {other} is waiting or under way: try again when it has ended.")
            id = self.want(session, "manual", name, user, at=at or datetime.now(UTC))
        return self.get(id)

    def start(self, id: str, examples: Sequence[StyleExample], *, at: datetime) -> int:
        """Writes down that a run begins, or goes on; returns the number of the attempt."""
        digests = {example_digest(example) for example in examples}
        with self._database.session() as session:
            row = session.get_one(TrainingRunRow, id)
            # So that the deletion of a document can name the adapters that learned from what was made of it.
            approved = session.scalars(select(StyleCandidateRow).where(StyleCandidateRow.state == "approved"))
            candidates = sorted(each.id for each in approved if _digest(each.example) in digests)
            row.state, row.attempt, row.started_at, row.finished_at = "running", row.attempt + 1, at, None
            row.detail = {"examples": sorted(digests), "candidates": candidates}
            return row.attempt

    def cancel(self, id: str, user: str, *, at: datetime) -> Run:
        """Has a run of the trainer service end. One under way ends within seconds, unless its verdict comes first.

        Raises:
            NotFound: There is no such run.
            InputError: It has ended, or was started by hand and not by the service.
        """
        id = self.get(id).id
        with self._database.session() as session:
            row = session.get_one(TrainingRunRow, id, with_for_update=True)
            if row.state not in ("waiting", "running") and not (row.state == "interrupted" and row.resumes):
                raise InputError(f"The training run {id} is not under way any more ({row.state}): nothing to cancel.")
            if not row.resumes:
                raise InputError(f"The training run {id} was started with `tandem train`: end it there with Ctrl-C.")
            row.detail = {**(row.detail or {}), "cancelled_by": user}
            if row.state != "running":
                _broken_off(row, "", at)
        return self.get(id)

    def cancelled(self, id: str) -> bool:
        """Whether somebody wants a run to end."""
        with self._database.session() as session:
            return "cancelled_by" in (session.get_one(TrainingRunRow, id).detail or {})

    def log(self, id: str, event: TrainingEvent, *, at: datetime) -> None:
        """Appends a line to the log of a run."""
        line = {"stage": event.stage, "message": event.message, "data": event.data}
        with self._database.session() as session:
            session.add(TrainingEventRow(run_id=id, created_at=at, **line))

    def finish(self, id: str, attempt: int | None, result: Result, *, at: datetime) -> bool:
        """Writes down what came of a run. A failed gate is a finished run.

        Here and below, `attempt` is None for the holder of the turn, who ends a run whose process is gone.
        """
        known = {"promoted": result.promoted, "overtaken": result.overtaken}
        detail = {**result.manifest.model_dump(mode="json"), **known}
        return self._end(id, attempt, "done", at, result.manifest.served, detail)

    def fail(self, id: str, attempt: int | None, message: str, *, at: datetime) -> bool:
        """Writes down that a run failed, and why; it is not tried again."""
        return self._end(id, attempt, "failed", at, None, {"error": message})

    def interrupt(self, id: str, attempt: int | None, message: str, *, at: datetime) -> bool:
        """Writes down that a run was broken off; unless it was cancelled, the next look may go on with it."""
        with self._database.session() as session:
            row = session.get(TrainingRunRow, id, with_for_update=True)
            return row is not None and _mine(row, attempt) and _broken_off(row, message, at)

    def break_off(self, *, at: datetime) -> list[str]:
        """Marks runs that say they are running. For the holder of the turn alone: nobody else can be running any.

        Returns:
            Their ids.
        """
        with self._database.session() as session:
            rows = session.scalars(select(TrainingRunRow).where(TrainingRunRow.state == "running")).all()
            return [row.id for row in rows if _broken_off(row, ENDED, at)]

    def to_do(self) -> Run | None:
        """The run that the service is to make or to go on with, the oldest first."""
        row = TrainingRunRow
        return self._one(select(row).where(_WANTED).order_by(row.started_at, row.id).limit(1))

    def unsettled(self) -> bool:
        """Whether any run waits, runs, or is to go on."""
        with self._database.session() as session:
            return session.scalar(select(TrainingRunRow.id).where(_OPEN).limit(1)) is not None

    def begun(self) -> bool:
        """Whether any run that was started is to go on, from what it has left in its folder."""
        with self._database.session() as session:
            begun = select(TrainingRunRow.id).where(_OPEN, TrainingRunRow.attempt > 0)
            return session.scalar(begun.limit(1)) is not None

    def current(self) -> Run | None:
        """The run under way, else the one that waits, or is to go on."""
        row = TrainingRunRow
        return self._one(select(row).where(_OPEN).order_by(row.state != "running", row.started_at).limit(1))

    def ended(self) -> Run | None:
        """The run that ended last."""
        row = TrainingRunRow
        return self._one(select(row).where(~_OPEN).order_by(row.finished_at.desc()).limit(1))

    def examples_seen(self, name: str) -> frozenset[str] | None:
        """Digests of all examples that the finished runs of an adapter were given; None where there was no run."""
        row = TrainingRunRow
        # Runs of the first release have no name, and trained the one adapter there was.
        query = select(row.detail).where(row.state == "done", row.name.in_((name, "")))
        with self._database.session() as session:
            details = session.scalars(query).all()
        if not details:
            return None
        return _examples(details)

    def examples_of(self, adapter: str) -> frozenset[str]:
        """Digests of what the run was given that made an adapter, `NAME@DIGEST12`; none where no run did."""
        query = select(TrainingRunRow.detail).where(TrainingRunRow.adapter == adapter)
        with self._database.session() as session:
            return _examples(session.scalars(query).all())

    def latest(self, limit: int) -> list[Run]:
        """The newest runs first."""
        query = select(TrainingRunRow).order_by(TrainingRunRow.started_at.desc(), TrainingRunRow.id).limit(limit)
        with self._database.session() as session:
            rows = session.scalars(query).all()
            return [_run(row, _progress(session, row)) for row in rows]

    def get(self, id: str) -> Run:
        """One run.

        Raises:
            NotFound: There is none by that id, or by that beginning of an id.
        """
        found = None
        if 4 <= len(id) <= 36:
            start = TrainingRunRow.id.startswith(id, autoescape=True)
            found = self._one(select(TrainingRunRow).where(start).order_by(TrainingRunRow.started_at.desc()).limit(1))
        if found is None:
            raise NotFound(f"There is no training run {id[:64]!r}; `tandem training history` shows those there are.")
        return found

    def events(self, id: str, *, after: int = 0, limit: int = 1000) -> list[LoggedEvent]:
        """The log of a run, oldest line first; what comes after the line with the id `after`.

        Raises:
            NotFound: There is no such run.
        """
        id = self.get(id).id
        row = TrainingEventRow
        query = select(row).where(row.run_id == id, row.id > after).order_by(row.id).limit(limit)
        with self._database.session() as session:
            return [_event(each) for each in session.scalars(query)]

    def _one(self, query: Any) -> Run | None:
        with self._database.session() as session:
            row = session.scalar(query)
            return _run(row, _progress(session, row)) if row is not None else None

    def _end(
        self, id: str, attempt: int | None, state: State, at: datetime, adapter: str | None, detail: dict[str, object]
    ) -> bool:
        with self._database.session() as session:
            row = session.get(TrainingRunRow, id, with_for_update=True)
            if row is None or not _mine(row, attempt):
                return False
            row.state, row.adapter, row.finished_at = state, adapter, at
            known = {name: value for name, value in (row.detail or {}).items() if name != "error"}
            row.detail = {**known, **detail}
            return True


def _examples(details: Sequence[dict[str, Any] | None]) -> frozenset[str]:
    return frozenset(digest for detail in details for digest in (detail or {}).get("examples") or ())


def _mine(row: TrainingRunRow, attempt: int | None) -> bool:
    if attempt is None:
        return row.state in ("running", "interrupted")
    return row.state == "running" and row.attempt == attempt


def _broken_off(row: TrainingRunRow, message: str, at: datetime) -> bool:
    detail = row.detail or {}
    by = detail.get("cancelled_by")
    given_up = row.resumes and row.attempt >= ATTEMPTS
    row.state = "failed" if given_up or by is not None else "interrupted"
    row.finished_at = at
    if by is not None:
        message = f"It was cancelled by {by}."
    elif given_up:
        message += f" It is given up after {row.attempt} attempts."
    row.detail = {**detail, "error": message}
    return True


def _one_at_a_time(session: Session) -> None:
    """Has a session wait for others that do the same until they have ended, so that what it reads stays true."""
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_REQUEST}, hashtext(current_schema()))")
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _progress(session: Session, row: TrainingRunRow) -> dict[str, float]:
    """The newest step, while it runs."""
    if row.state != "running":
        return {}
    event = TrainingEventRow
    newest = select(event.data).where(event.run_id == row.id, event.stage == "train").order_by(event.id.desc())
    return next((data for data in session.scalars(newest.limit(1)) if "step" in data), {})


def _digest(example: dict[str, object]) -> str | None:
    try:
        return example_digest(StyleExample.model_validate(example))
    except ValueError:
        return None


def _run(row: TrainingRunRow, progress: dict[str, float]) -> Run:
    detail = row.detail or {}
    gate = detail.get("gate") or {}
    return Run.model_validate(
        {
            **{field: getattr(row, field) for field in ("id", "state", "cause", "name", "user", "attempt", "resumes")},
            "adapter": row.adapter,
            "promoted": detail.get("promoted", gate.get("passed")),  # the first release asked the gate alone
            "reasons": gate.get("reasons") or (),
            "message": detail.get("error") or detail.get("overtaken"),
            "progress": progress,
            "due_at": utc(row.due_at) if row.due_at else None,
            "started_at": utc(row.started_at),
            "finished_at": utc(row.finished_at) if row.finished_at else None,
            "examples": frozenset(detail.get("examples") or ()),
        }
    )


def _event(row: TrainingEventRow) -> LoggedEvent:
    line = {"stage": row.stage, "message": row.message, "data": row.data}
    return LoggedEvent.model_validate({"id": row.id, "at": utc(row.created_at), **line})
