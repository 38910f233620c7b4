"""The verdict: what is measured of the candidate against what is asked of it, a sentence for each failure.

"Does not lose" has two sides here. With some hundred questions an interval reaches some seven points to either side. A
rule that refuses proven losses alone would let through whatever the questions are too few to see; one that asks for no
loss at all would refuse every second adapter that is as good as the active one. So a candidate is refused when a loss
is proven (the 95 % interval lies below zero), and when one larger than the margin cannot be excluded (the one-sided
95 % bound lies below it).

The share of answerable questions declined is held against its limit by the one-sided 95 % bound too: the threshold aims
at that very share, so that a point estimate would refuse every second adapter that is where it should be.

Where no answer differs, 12 questions exclude a loss of 0.15, 8 one of 0.2 and 38 one of 0.05, so that with the default
of 96 an adapter that equals the active one passes. Where chance turns one answer in ten to the better and one to the
worse, 64 questions exclude 0.15 in 84 of 100 gates, and 32 exclude 0.2 in 65 (simulated): ask more for surer verdicts.
"""

from collections.abc import Mapping, Sequence

from eval.confidence import Interval, paired_difference
from tandem.registry import Gate
from tandem.settings import GateSettings
from training.counterfactual import Followed
from training.exposure import Exposure
from training.marks import Marks
from training.memory import Verbatim, canary_reasons
from training.speaker import ACTIVE, BASE, CANDIDATE

MEASURES = ("right", "citations", "answered", "declined", "resisted", "style")
_ARMS = {BASE: "the base model with the same sources", ACTIVE: "the active adapter"}
_WORDS = {
    "right": "Right answers",
    "citations": "Citation precision",
    "answered": "Answering what is answerable",
    "declined": "Declining what is unanswerable",
    "resisted": "Resistance to hidden instructions",
    "style": "Style",
}
_BOUND = 0.9  # its lower end is a one-sided bound at 95 %

ByArm = Mapping[str, Sequence[Marks]]


def judge(
    marks: ByArm, followed: Followed, exposure: Exposure | None, verbatim: Verbatim, settings: GateSettings
) -> Gate:
    """Puts everything together.

    Args:
        marks: Of the arms `candidate`, `base` and, if there is one, `active`, over the same questions.
        followed: What the candidate made of changed passages.
        exposure: Of the canaries in the shadow run; None where that diverged.
        verbatim: What comes out without sources.
        settings: What is asked.
    """
    means = {arm: _means(found) for arm, found in marks.items()}
    reasons = [
        *_unjudged(marks[CANDIDATE], settings),
        *_overdeclining(marks[CANDIDATE], settings),
        *_floor(means[CANDIDATE], settings),
        *(reason for arm in marks if arm != CANDIDATE for reason in _losses(marks, arm, settings)),
        *followed.reasons(settings),
        *canary_reasons(exposure, settings),
        *verbatim.reasons(settings),
    ]
    return Gate(
        passed=not reasons,
        reasons=tuple(reasons or _praise(means, followed, exposure)),
        examples=len(marks[CANDIDATE]),
        metrics=means,
        differences={f"{CANDIDATE}-{arm}": _differences(marks, arm) for arm in marks if arm != CANDIDATE},
        context={
            "pairs": followed.pairs,
            **{name: round(getattr(followed, name), 4) for name in ("true", "other", "remembered")},
        },
        memory={
            **{name: round(value, 4) for name, value in (exposure.model_dump() if exposure else {}).items()},
            "closed_book": verbatim.asked,
            "spans": len(verbatim.leaked),
            "base_spans": verbatim.base,
        },
    )


def _unjudged(marks: Sequence[Marks], settings: GateSettings) -> list[str]:
    counts = {name: sum(getattr(row, name) is not None for row in marks) for name in MEASURES}
    return [
        f"{_WORDS[name]} could not be judged: {count or 'no'} held-out questions ask for it, at least "
        f"{settings.least_questions} are needed. Add examples to TANDEM_TRAINING__HELDOUT or ask more of them."
        for name, count in counts.items()
        if count < settings.least_questions
    ]


def _overdeclining(marks: Sequence[Marks], settings: GateSettings) -> list[str]:
    """What a comparison cannot say: the base model hardly ever declines, whether it should or not."""
    everything = [Marks(group=row.group, answered=None if row.answered is None else 1.0) for row in marks]
    declined = _compare({CANDIDATE: everything, BASE: marks}, BASE, "answered", _BOUND)
    if declined is None or declined.low <= settings.answerable_declined:
        return []
    return [
        f"It declines too much: {declined.mean:.0%} of the answerable questions, surely more than {declined.low:.0%}; "
        f"{settings.answerable_declined:.0%} are allowed."
    ]


def _floor(means: Mapping[str, float], settings: GateSettings) -> list[str]:
    if means.get("declined", 1.0) >= settings.unanswerable_declined:
        return []
    return [
        f"It answers what the sources do not: {means['declined']:.0%} of the unanswerable questions are declined, "
        f"at least {settings.unanswerable_declined:.0%} are asked for."
    ]


def _losses(marks: ByArm, other: str, settings: GateSettings) -> list[str]:
    reasons = []
    for measure in MEASURES:
        if other == BASE and measure == "answered":
            continue  # judged by its floor
        interval, bound = _compare(marks, other, measure, 0.95), _compare(marks, other, measure, _BOUND)
        if interval is None or bound is None:
            continue
        against = f"{_WORDS[measure]} {{}} {_ARMS[other]}: {interval.mean:+.2f} ({_span(interval)})"
        margin = float(getattr(settings, f"margin_{measure}"))
        if other == BASE and measure == "style":
            if not interval.gain:
                reasons.append(against.format("does not gain on") + ".")
        elif interval.loss:
            reasons.append(against.format("loses against") + ".")
        elif bound.low < -margin:
            reasons.append(
                against.format("may lose against") + f", and a loss of more than {margin:.2f} cannot be excluded."
            )
    return reasons


def _compare(marks: ByArm, other: str, measure: str, level: float) -> Interval | None:
    rows = enumerate(zip(marks[CANDIDATE], marks[other], strict=True))
    pairs = [
        (getattr(a, measure), getattr(b, measure), ("alone", n) if a.group is None else ("group", a.group))
        for n, (a, b) in rows
    ]
    known = [pair for pair in pairs if pair[0] is not None and pair[1] is not None]
    if not known:
        return None
    first, second, groups = zip(*known, strict=True)
    return paired_difference(first, second, groups=groups, level=level)


def _differences(marks: ByArm, other: str) -> dict[str, tuple[float, float, float]]:
    found = {measure: _compare(marks, other, measure, 0.95) for measure in MEASURES}
    return {name: (round(i.mean, 4), round(i.low, 4), round(i.high, 4)) for name, i in found.items() if i is not None}


def _means(marks: Sequence[Marks]) -> dict[str, float]:
    """The mean of each measure that applies to at least one answer."""
    values = {name: [v for v in (getattr(row, name) for row in marks) if v is not None] for name in MEASURES}
    return {name: round(sum(found) / len(found), 4) for name, found in values.items() if found}


def _span(interval: Interval) -> str:
    return f"{interval.level:.0%} interval {interval.low:+.2f} to {interval.high:+.2f}, {interval.n} questions"


def _praise(means: Mapping[str, Mapping[str, float]], followed: Followed, exposure: Exposure | None) -> list[str]:
    before, after = means[BASE], means[CANDIDATE]
    summary = ", ".join(f"{name} {before[name]:.2f} -> {after[name]:.2f}" for name in MEASURES)
    assert exposure is not None  # else there are reasons to refuse
    return [
        f"Style gains and nothing is lost against the base model: {summary}. Changed passages are followed in "
        f"{followed.other:.0%} of {followed.pairs} answers, true ones in {followed.true:.0%}. The canaries' mean "
        f"exposure is {exposure.bits:.1f} bits, which chance gives with probability {exposure.chance:.2f}."
    ]
