"""Whether a candidate on trial falls behind the active adapter, by the receipts of the answers that both gave.

Nothing is judged on few conversations, and nothing on a difference that is small or could well be chance. A
conversation counts once, by its latest answer: it stays with one adapter, so somebody who asks the same again and again
would otherwise decide.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import NormalDist, median
from typing import Any

import numpy as np
from sqlalchemy import or_, select

from eval.suite import EVAL_USER
from tandem.canary import conversation_key
from tandem.database import Database
from tandem.registry import Registry
from tandem.schemas import Value
from tandem.settings import CanarySettings
from tandem.tables import AnswerRow

CANARY_USER = "canary"  # who withdraws and promotes by itself, in the history and in the audit log
# The latest of both sides together: a limit for each would have the side that answers more judged by a shorter time,
# so that an outage early in the trial counted against the other alone. At a share of 0.01, 200 are the candidate's.
MAX_ANSWERS = 20_000


class Side(Value):
    """What one of the two adapters did live.

    Attributes:
        conversations: How many it had.
        stated: Of them, those that were answered, and whose answer did not decline.
        cited: Of those that stated something, those that cite a source that exists.
        declined: How many declined.
        failed: Of the conversations, those whose answer the adapter did not give, or not to the end.
        seconds: Median time of an answer; None without answers.
    """

    served: str
    conversations: int = 0
    stated: int = 0
    cited: int = 0
    declined: int = 0
    failed: int = 0
    seconds: float | None = None


class Judgement(Value):
    """A canary and how it stands.

    Attributes:
        share: Of conversations that the candidate answers.
        enough: Whether both sides have had enough conversations to be judged.
        behind: Why the candidate should be withdrawn, a sentence each; empty while it keeps up.
        lacking: What has to come before the candidate may be promoted by itself, a sentence; empty when every test had
            its sample, and `promote_after`, where it is set, is reached.
    """

    share: float
    started_at: datetime
    by: str
    candidate: Side
    active: Side
    enough: bool
    behind: tuple[str, ...] = ()
    lacking: str = ""


class _Given(Value):
    """What counts of one answer."""

    declined: bool
    cited: bool
    seconds: float
    failed: bool = False


def judge(database: Database, registry: Registry, name: str, settings: CanarySettings) -> Judgement | None:
    """Judges the canary that is under way; None when there is none. Blocking.

    Args:
        database: Holds the receipts. Those of evaluations, and those made without sources, are not counted.
        registry: Says which canary is under way.
        name: The adapter.
        settings: Sample sizes and margins.

    Raises:
        DatabaseUnavailable: The database does not answer.
    """
    trial = registry.canary(name)
    if trial is None:
        return None
    canary, candidate_ref = trial
    active_ref = registry.ref(name, canary.against)
    candidate, active = _given(database, candidate_ref.served, active_ref.served, canary.started_at)
    enough = min(len(candidate), len(active)) >= settings.min_conversations
    return Judgement(
        share=canary.share,
        started_at=canary.started_at,
        by=canary.by,
        candidate=_side(candidate_ref.served, candidate),
        active=_side(active_ref.served, active),
        enough=enough,
        behind=tuple(_behind(candidate, active, settings)) if enough else (),
        lacking=_lacking(candidate, active, settings),
    )


def _lacking(candidate: Sequence[_Given], active: Sequence[_Given], settings: CanarySettings) -> str:
    """The first sample that is too small still: those after it are parts of it."""
    answered = [[given for given in side if not given.failed] for side in (candidate, active)]
    stated = [[given for given in side if not given.declined] for side in answered]
    samples = (
        ("Nothing is judged yet", "had", (candidate, active)),
        ("Only failures are judged yet", "answered", answered),
        ("Citations are not judged yet", "stated something in", stated),
    )
    least = settings.min_conversations
    for what, did, (mine, theirs) in samples:
        if min(len(mine), len(theirs)) < least:
            counts = f"the candidate {did} {len(mine)} conversations, the active version {len(theirs)}"
            return f"{what}: {counts}; each needs {least}."
    after = settings.promote_after
    if after is not None and len(answered[0]) < after:
        window = f"among the latest {MAX_ANSWERS:,} answers of both versions"
        return f"It is promoted by itself once it answered {after} conversations {window}; so far {len(answered[0])}."
    return ""


def _behind(candidate: Sequence[_Given], active: Sequence[_Given], settings: CanarySettings) -> list[str]:
    found = []
    mine, theirs = ([given.failed for given in side] for side in (candidate, active))
    if _surely_more(mine, theirs, settings.max_failed_gain, settings.confidence):
        found.append(f"Of its answers {_mean(mine):.0%} failed, of the active one's {_mean(theirs):.0%}.")
    candidate, active = ([given for given in side if not given.failed] for side in (candidate, active))
    if min(len(candidate), len(active)) < settings.min_conversations:
        return found
    mine, theirs = ([given.cited for given in side if not given.declined] for side in (candidate, active))
    if min(len(mine), len(theirs)) >= settings.min_conversations and _surely_more(
        theirs, mine, settings.max_cited_loss, settings.confidence
    ):
        found.append(f"Of its answers {_mean(mine):.0%} cite a source, of the active one's {_mean(theirs):.0%}.")
    mine, theirs = ([given.declined for given in side] for side in (candidate, active))
    if _surely_more(mine, theirs, settings.max_declined_gain, settings.confidence):
        found.append(f"It declines {_mean(mine):.0%} of the questions, the active one {_mean(theirs):.0%}.")
    times = [[given.seconds for given in side] for side in (candidate, active)]
    slow, quick = median(times[0]), median(times[1])
    if slow >= quick * settings.max_slowdown and _surely_longer(times[0], times[1], settings.confidence):
        found.append(f"Its median answer takes {slow:.2f} s, the active one's {quick:.2f} s.")
    return found


def _surely_more(more: Sequence[bool], less: Sequence[bool], margin: float, confidence: float) -> bool:
    """Whether the share of `more` is higher by the margin, and with this confidence higher at all.

    Newcombe's interval for the difference of two shares, of Wilson's for each: it keeps its coverage with shares near 0
    and 1, where citing and declining lie.
    """
    difference = _mean(more) - _mean(less)
    z = NormalDist().inv_cdf(confidence)
    low = difference - math.hypot(_mean(more) - _wilson(more, -z), _wilson(less, z) - _mean(less))
    return difference >= margin and low > 0


def _wilson(values: Sequence[bool], z: float) -> float:
    """One end of Wilson's interval for a share: the upper one for a positive z."""
    n, p = len(values), _mean(values)
    width = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (p + z * z / (2 * n) + width) / (1 + z * z / n)


def _surely_longer(first: Sequence[float], second: Sequence[float], confidence: float) -> bool:
    """Whether the times of `first` are longer: the rank test of Mann and Whitney, one-sided, with its normal limit."""
    n, m = len(first), len(second)
    together = np.sort(np.asarray(second))
    # Half of a tie counts as longer.
    longer = (np.searchsorted(together, first, "left") + np.searchsorted(together, first, "right")).sum() / 2
    z = float(longer - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    return NormalDist().cdf(z) >= confidence


def _given(database: Database, candidate: str, active: str, since: datetime) -> tuple[list[_Given], list[_Given]]:
    """What counts of both sides, over the same time: since the trial began, or as far back as is read."""
    receipt = AnswerRow.receipt
    failed = receipt["failed_adapter"].as_string()
    both = (candidate, active)
    # Of a receipt only what counts: its passages are most of it, and this is read again and again.
    columns = (
        AnswerRow.adapter,
        receipt["ask"],
        failed,
        receipt["declined"].as_boolean(),
        receipt[("citations", 0, "n")].as_integer(),
        receipt[("timings", "total")].as_float(),
    )
    query = (
        select(AnswerRow.user, *columns)
        .where(or_(AnswerRow.adapter.in_(both), failed.in_(both)), AnswerRow.created_at >= since.astimezone(UTC))
        .where(AnswerRow.arm == "tandem", AnswerRow.user != EVAL_USER)
        .order_by(AnswerRow.created_at.desc())
        .limit(MAX_ANSWERS)
    )
    latest: dict[str, dict[str, _Given]] = {served: {} for served in both}
    with database.session() as session:
        for user, adapter, ask, failed_one, declined, cited, seconds in session.execute(query):
            # Who failed at an answer did not give it; then the base model did, or nobody.
            side = latest[failed_one if failed_one in latest else adapter]
            given = _Given(
                declined=bool(declined), cited=cited is not None, seconds=seconds or 0.0, failed=failed_one in latest
            )
            side.setdefault(_conversation(user, ask or {}), given)
    return list(latest[candidate].values()), list(latest[active].values())


def _conversation(user: str, ask: dict[str, Any]) -> str:
    first = next((turn["content"] for turn in ask.get("messages") or () if turn["role"] == "user"), "")
    return conversation_key(user, first, ask.get("conversation") or "")


def _side(served: str, given: Sequence[_Given]) -> Side:
    answered = [answer for answer in given if not answer.failed]
    stated = [answer for answer in answered if not answer.declined]
    return Side(
        served=served,
        conversations=len(given),
        stated=len(stated),
        cited=sum(answer.cited for answer in stated),
        declined=len(answered) - len(stated),
        failed=len(given) - len(answered),
        seconds=round(median(answer.seconds for answer in answered), 3) if answered else None,
    )


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
