"""Early failure signals: what goes wrong before anybody complains, from the rows of the state database.

Each signal is a number with a threshold and the action to take. Shares fire only on enough answers to mean something.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from eval.canary import CANARY_USER
from eval.suite import EVAL_USER
from tandem.database import Database
from tandem.declines import is_decline
from tandem.errors import AdapterError
from tandem.prompt import PROMPT_VERSION
from tandem.registry import Registry
from tandem.schemas import Value
from tandem.settings import Settings
from tandem.tables import AnswerRow, FeedbackRow, IngestRunRow, TrainingRunRow, VersionRow

WINDOW = timedelta(days=7)
MAX_ANSWERS = 2000
MIN_ANSWERS = 20
# The index follows a commit within moments; only what stays behind longer is a fault.
SETTLING = timedelta(minutes=5)


class Signal(Value):
    """One early sign of failure; it fires when `value` is above `threshold`.

    Attributes:
        value: A share (0 to 1) or a count.
        action: What to do when it fires.
        detail: What was seen, as a sentence.
        sample: How many answers or rows the value is taken from.
    """

    name: str
    value: float
    threshold: float
    firing: bool
    action: str
    detail: str = ""
    sample: int = 0


class _Seen(Value):
    """What the signals need of one answer."""

    id: str
    degraded: bool
    declined: bool
    removed: bool
    cited: bool


def compute_signals(
    database: Database, registry: Registry, settings: Settings, *, now: datetime | None = None
) -> list[Signal]:
    """Computes every signal. Blocking.

    Args:
        database: The state database.
        registry: The adapters.
        settings: Names the adapter that answers.
        now: The end of the week that is looked at; the present when None.

    Returns:
        All signals, firing ones first. Answers made by an evaluation are not counted.

    Raises:
        DatabaseUnavailable: The database does not answer.
    """
    now = now or datetime.now(UTC)
    with database.session() as session:
        signals = [
            *_answers(session, now),
            _unsettled(session, now),
            _closed_documents(session),
            _refused_documents(session),
            _last_training(session),
        ]
    signals.append(_adapter(registry, settings.adapter.name))
    signals.append(_canary(registry, settings.adapter.name, now))
    return sorted(signals, key=lambda signal: not signal.firing)


def _answers(session: Session, now: datetime) -> list[Signal]:
    # The bare arms are there to be compared with; their answers say nothing about the service's health.
    rows = session.scalars(
        select(AnswerRow)
        .where(AnswerRow.created_at >= now - WINDOW, AnswerRow.created_at <= now)
        .where(AnswerRow.user != EVAL_USER, AnswerRow.arm.in_(("tandem", "rag")))
        .order_by(AnswerRow.created_at.desc())
        .limit(MAX_ANSWERS)
    )
    answers = [_seen(row) for row in rows]
    stating = [answer for answer in answers if not answer.declined]
    facts, tone = _thumbs_down(session, {answer.id for answer in answers})
    return [
        _share(
            "degraded_answers",
            answers,
            lambda answer: answer.degraded,
            0.05,
            "were made without the model or without the adapter",
            "See `/readyz` and the model server's log, and `tandem adapters list`.",
        ),
        _share(
            "declined_answers",
            answers,
            lambda answer: answer.declined,
            0.3,
            "declined",
            "Run `tandem diagnose` on some: ingest the missing documents, or loosen the evidence threshold.",
        ),
        _share(
            "removed_citations",
            answers,
            lambda answer: answer.removed,
            0.05,
            "cited sources that do not exist; the markers were removed",
            "Compare the arms with `tandem eval`; roll the adapter back if it cites worse than `rag`.",
        ),
        _share(
            "uncited_answers",
            stating,
            lambda answer: not answer.cited,
            0.1,
            "stated something and cited nothing",
            "Check that the style examples cite, and train again.",
        ),
        _share(
            "thumbs_down_facts",
            answers,
            lambda answer: answer.id in facts,
            0.05,
            "were rated down for their facts, or for no stated reason",
            "Run `tandem diagnose`: it names the document, and whose it is.",
        ),
        _share(
            "thumbs_down_tone",
            answers,
            lambda answer: answer.id in tone,
            0.05,
            "were rated down for their tone",
            "Have the style curator review the open style candidates, then train again.",
        ),
    ]


def _seen(row: AnswerRow) -> _Seen:
    receipt: dict[str, Any] = row.receipt or {}
    declined = receipt.get("declined")
    return _Seen(
        id=row.id,
        degraded=receipt.get("degraded") is not None,
        declined=bool(declined) if declined is not None else is_decline(row.text),
        removed=bool(receipt.get("removed_markers")),
        cited=bool(receipt.get("citations")),
    )


def _thumbs_down(session: Session, ids: set[str]) -> tuple[set[str], set[str]]:
    """The answers rated down for facts (or without a reason), and those for tone."""
    rows = session.execute(select(FeedbackRow.answer_id, FeedbackRow.about).where(FeedbackRow.rating == "down"))
    down = [(answer_id, about) for answer_id, about in rows if answer_id in ids]
    return {id for id, about in down if about != "tone"}, {id for id, about in down if about == "tone"}


def _unsettled(session: Session, now: datetime) -> Signal:
    count = session.scalar(
        select(func.count())
        .select_from(VersionRow)
        .where(VersionRow.indexed.is_(False), VersionRow.state != "staged", VersionRow.created_at < now - SETTLING)
    )
    return _count(
        "stale_index",
        count or 0,
        f"{count or 0} document versions are not in the index as the database has them.",
        "Run `tandem ingest` on the documents again: it repairs the index first.",
    )


def _closed_documents(session: Session) -> Signal:
    rows = session.execute(
        select(VersionRow.document_id, VersionRow.groups).where(
            VersionRow.state == "published",
            or_(VersionRow.live_until.is_(None), VersionRow.live_until > func.current_date()),
        )
    )
    closed = sorted({document_id for document_id, groups in rows if not groups})
    names = f": {', '.join(closed[:5])}" if closed else ""
    return _count(
        "documents_without_groups",
        len(closed),
        f"{len(closed)} documents name no group and are read by admins only{names}.",
        "Write `groups` into their front matter, sidecar or `_folder.yaml`, and ingest again.",
    )


def _refused_documents(session: Session) -> Signal:
    run = session.scalar(
        select(IngestRunRow).where(IngestRunRow.state != "running").order_by(IngestRunRow.started_at.desc()).limit(1)
    )
    refused = (run.report or {}).get("failed") or [] if run else []
    crashed = run is not None and run.state == "failed"
    said = (
        "The last ingest run broke off."
        if crashed
        else f"{len(refused)} documents were refused by the last ingest run."
    )
    return _count(
        "refused_documents",
        max(len(refused), int(crashed)),
        said,
        "See the reasons in the run's report, correct the files and ingest again.",
    )


def _last_training(session: Session) -> Signal:
    run = session.scalar(
        select(TrainingRunRow)
        .where(TrainingRunRow.state.in_(("done", "failed", "interrupted")))
        .order_by(TrainingRunRow.started_at.desc())
        .limit(1)
    )
    gate: dict[str, Any] = ((run.detail or {}).get("gate") or {}) if run else {}
    broke = run is not None and run.state != "done"
    failed = broke or gate.get("passed") is False
    why = " ".join(gate.get("reasons") or [str((run.detail or {}).get("error") or "It broke off.") if run else ""])
    return _count(
        "gate_failed",
        int(failed),
        f"The last training run gave no adapter to promote. {why}" if failed else "The last training run did not fail.",
        "The active adapter stays. Read the run's manifest, correct the examples it names and train again.",
    )


def _adapter(registry: Registry, name: str) -> Signal:
    """Whether the active adapter works and was trained on the prompt that is in use."""
    action = f"Train {name!r} again with `tandem train`, or promote a version that fits with `tandem adapters promote`."
    try:
        ref = registry.active(name)
        trained_on = registry.manifest(ref).prompt_version if ref else None
    except AdapterError as exc:
        return _count("adapter_mismatch", 1, exc.message, action)
    if ref is None:
        return _count("adapter_mismatch", 1, f"No version of the adapter {name!r} is active.", action)
    if trained_on != PROMPT_VERSION:
        said = f"{ref.served} was trained on the prompt {trained_on}, and {PROMPT_VERSION} is in use."
        return _count("adapter_mismatch", 1, said, action)
    return _count("adapter_mismatch", 0, f"{ref.served} was trained on the prompt in use.", action)


def _canary(registry: Registry, name: str, now: datetime) -> Signal:
    """Whether the last candidate on trial fell behind and was withdrawn by itself, within the week."""
    action = "The active adapter answers. Compare them with `tandem adapters show`; train again on better examples."
    ends = [entry for entry in registry.history(name) if entry.kind != "delete"]
    last = ends[-1] if ends else None
    if last is None or last.kind != "withdraw" or last.by != CANARY_USER or last.at < now - WINDOW:
        return _count("canary_withdrawn", 0, "No candidate was withdrawn since the last change.", action)
    return _count("canary_withdrawn", 1, f"{name}@{last.digest[:12]} was withdrawn. {last.reason}", action)


def _share(
    name: str, answers: Sequence[_Seen], counts: Callable[[_Seen], bool], threshold: float, what: str, action: str
) -> Signal:
    part = sum(counts(answer) for answer in answers)
    value = part / len(answers) if answers else 0.0
    return Signal(
        name=name,
        value=value,
        threshold=threshold,
        firing=len(answers) >= MIN_ANSWERS and value > threshold,
        action=action,
        detail=f"{part} of {len(answers)} answers of the last {WINDOW.days} days {what}.",
        sample=len(answers),
    )


def _count(name: str, value: int, detail: str, action: str) -> Signal:
    return Signal(name=name, value=value, threshold=0, firing=value > 0, action=action, detail=detail, sample=1)
