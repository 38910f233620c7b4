"""Training runs in the state database: what was started why, what came of it, and which examples it had."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import select

from tandem.database import Database
from tandem.registry import Manifest
from tandem.schemas import Value
from tandem.tables import StyleCandidateRow, TrainingRunRow
from training.examples import StyleExample, example_digest

Cause = Literal["manual", "schedule"]


class Run(Value):
    """A training run.

    Attributes:
        examples: Digests of the examples that it was given.
    """

    id: str
    state: Literal["running", "done", "failed"]
    cause: str
    adapter: str | None = None
    started_at: datetime
    examples: frozenset[str] = frozenset()


class TrainingRuns:
    """Reads and writes the runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(self, cause: Cause, examples: Sequence[StyleExample], *, at: datetime | None = None) -> str:
        """Writes down that a run begins; returns its id."""
        id = str(uuid.uuid4())
        digests = {example_digest(example) for example in examples}
        with self._database.session() as session:
            # So that the deletion of a document can name the adapters that learned from what was made of it.
            approved = session.scalars(select(StyleCandidateRow).where(StyleCandidateRow.state == "approved"))
            candidates = sorted(row.id for row in approved if _digest(row.example) in digests)
            detail = {"examples": sorted(digests), "candidates": candidates}
            session.add(
                TrainingRunRow(id=id, state="running", cause=cause, detail=detail, started_at=at or datetime.now(UTC))
            )
        return id

    def finish(self, id: str, manifest: Manifest) -> None:
        """Writes down what came of a run. A failed gate is a finished run."""
        self._end(id, "done", manifest.served, manifest.model_dump(mode="json"))

    def fail(self, id: str, message: str) -> None:
        """Writes down that a run broke off, and why."""
        self._end(id, "failed", None, {"error": message})

    def last(self, state: str | None = None) -> Run | None:
        """The run that was started last, or the last one in a state."""
        query = select(TrainingRunRow).order_by(TrainingRunRow.started_at.desc()).limit(1)
        if state is not None:
            query = query.where(TrainingRunRow.state == state)
        with self._database.session() as session:
            row = session.scalar(query)
            return _run(row) if row is not None else None

    def abandon(self) -> int:
        """Marks runs as failed that say they are running; for the holder of the run lock, when none can be.

        Returns:
            How many there were.
        """
        with self._database.session() as session:
            rows = session.scalars(select(TrainingRunRow).where(TrainingRunRow.state == "running")).all()
            for row in rows:
                row.state = "failed"
                row.finished_at = datetime.now(UTC)
                row.detail = {**(row.detail or {}), "error": "It broke off: the process was ended."}
            return len(rows)

    def approved_candidates(self) -> list[dict[str, object]]:
        """Examples that came from feedback and that a person approved."""
        query = select(StyleCandidateRow).where(StyleCandidateRow.state == "approved")
        with self._database.session() as session:
            return [dict(row.example) for row in session.scalars(query.order_by(StyleCandidateRow.id))]

    def _end(self, id: str, state: str, adapter: str | None, detail: dict[str, object]) -> None:
        with self._database.session() as session:
            row = session.get(TrainingRunRow, id)
            if row is not None:
                row.state, row.adapter, row.finished_at = state, adapter, datetime.now(UTC)
                row.detail = {**(row.detail or {}), **detail}


def _digest(example: dict[str, object]) -> str | None:
    try:
        return example_digest(StyleExample.model_validate(example))
    except ValueError:
        return None


def _run(row: TrainingRunRow) -> Run:
    started = row.started_at if row.started_at.tzinfo else row.started_at.replace(tzinfo=UTC)  # SQLite forgets it
    digests = (row.detail or {}).get("examples") or ()
    return Run.model_validate(
        {
            "id": row.id,
            "state": row.state,
            "cause": row.cause,
            "adapter": row.adapter,
            "started_at": started,
            "examples": frozenset(digests),
        }
    )
