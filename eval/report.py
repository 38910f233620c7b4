"""The report of a run: numbers for machines (JSON), a table for the terminal; `eval.page` makes the HTML of it."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from rich.table import Table

from eval.confidence import Interval, compare_arms
from eval.diagnose import Diagnosis, Label, Owner, diagnose_suite
from eval.library import Library
from eval.metrics import ArmMetrics, measure_arm
from eval.outcome import Outcome
from eval.suite import Case
from tandem.prompt import PROMPT_VERSION
from tandem.schemas import Arm, Value

# What is told of each pair: the adapter's share is tandem against rag, the documents' share rag against base.
_PAIRS: tuple[tuple[Arm, Arm], ...] = (("tandem", "rag"), ("tandem", "style"), ("rag", "base"))
_MEASURES: tuple[tuple[str, Callable[[Outcome], float | None]], ...] = (
    ("correct", lambda outcome: float(outcome.right)),
    ("style", lambda outcome: outcome.style.value if outcome.style is not None else None),
    ("declined_answerable", lambda outcome: float(outcome.declined) if outcome.case.answerable else None),
    ("declined_unanswerable", lambda outcome: None if outcome.case.answerable else float(outcome.declined)),
    (
        "citation_precision",
        lambda outcome: outcome.right_citations / outcome.citations if outcome.citations else None,
    ),
)


class Comparison(Value):
    """The paired difference `first - second` of one measure, over the cases scored in both."""

    first: Arm
    second: Arm
    measure: str
    difference: Interval


class Quote(Value):
    """A passage that the model was given, in short."""

    n: int
    document_id: str
    title: str
    quote: str
    cited: bool


class Failure(Value):
    """One answer that is not as it should be, with what one needs to see why. The diagnosis may be missing.

    Attributes:
        expected: What a right answer holds, in words.
        label, evidence, owner, action: The diagnosis.
    """

    case: str
    arm: Arm
    question: str
    answer: str
    expected: str
    label: Label | None = None
    evidence: str = ""
    owner: Owner | None = None
    action: str = ""
    passages: tuple[Quote, ...] = ()


class CaseError(Value):
    """A case that was not answered."""

    case: str
    arm: Arm
    error: str


class EvalReport(Value):
    """What one run found.

    Attributes:
        suites: Names of the suites.
        adapters: The adapters that spoke, `NAME@DIGEST12`.
        labels: How often each diagnosis was made of the diagnosed arm.
        diagnosed: The arm that was diagnosed; None when only arms without documents ran.
        failures: The wrong answers of every arm, and the right ones out of style of the diagnosed arm.
        errors: Cases without an answer; they count in no score.
    """

    suites: tuple[str, ...]
    created_at: datetime
    prompt_version: str
    adapters: tuple[str, ...] = ()
    cases: int
    arms: tuple[ArmMetrics, ...]
    comparisons: tuple[Comparison, ...] = ()
    diagnosed: Arm | None = None
    labels: dict[str, int]
    failures: tuple[Failure, ...] = ()
    errors: tuple[CaseError, ...] = ()


def build_report(
    outcomes: Sequence[Outcome],
    *,
    suites: Sequence[str] = (),
    library: Library | None = None,
    seed: int = 7,
    created_at: datetime | None = None,
) -> EvalReport:
    """Sums up a run.

    Args:
        outcomes: Of the run, all arms.
        suites: The suites' names.
        library: The documents, for a better diagnosis.
        seed: Of the bootstrap.
        created_at: When it ran; now when None.
    """
    arms: list[Arm] = list(dict.fromkeys(outcome.arm for outcome in outcomes))
    diagnosed: Arm | None = next((arm for arm in ("tandem", "rag") if arm in arms), None)
    diagnoses = diagnose_suite(outcomes, library, diagnosed) if diagnosed else []
    by_case = {diagnosis.subject: diagnosis for diagnosis in diagnoses}
    adapters = {outcome.answer.adapter for outcome in outcomes if outcome.answer and outcome.answer.adapter}
    failures = []
    for outcome in outcomes:
        diagnosis = by_case.get(outcome.case.id) if outcome.arm == diagnosed else None
        bad = not outcome.right or (diagnosis is not None and diagnosis.label != "ok")
        if outcome.answer is not None and bad:
            failures.append(_failure(outcome, diagnosis))
    return EvalReport(
        suites=tuple(suites),
        created_at=created_at or datetime.now(UTC),
        prompt_version=PROMPT_VERSION,
        adapters=tuple(sorted(adapters)),
        cases=len({outcome.case.id for outcome in outcomes}),
        arms=tuple(measure_arm(arm, outcomes) for arm in arms),
        comparisons=tuple(_comparisons(outcomes, arms, seed)),
        diagnosed=diagnosed,
        labels=dict(Counter(diagnosis.label for diagnosis in diagnoses).most_common()),
        failures=tuple(failures),
        errors=tuple(
            CaseError(case=outcome.case.id, arm=outcome.arm, error=outcome.error)
            for outcome in outcomes
            if outcome.error
        ),
    )


def expectation(case: Case) -> str:
    """What a right answer holds, in words."""
    if not case.answerable:
        return "a decline"
    wanted = " and ".join(" or ".join(repr(key) for key in group[:3]) for group in case.all_of)
    return wanted + (f", not {', '.join(map(repr, case.none_of[:3]))}" if case.none_of else "")


# Heading, field, how it is written; what the terminal and the page show, in this order.
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("right", "correct", "share"),
    ("of answerable", "correct_answerable", "share"),
    ("citations right", "citation_precision", "share"),
    ("cited", "cited", "share"),
    ("declined, unanswerable", "declined_unanswerable", "share"),
    ("declined, answerable", "declined_answerable", "share"),
    ("style", "style", "share"),
    ("first token p50", "first_token_p50", "seconds"),
    ("total p50", "latency_p50", "seconds"),
    ("total p95", "latency_p95", "seconds"),
)


def cell(metrics: ArmMetrics, field: str, kind: str) -> str:
    """One number of an arm as text; a dash where there was nothing to measure."""
    value: float | None = getattr(metrics, field)
    if value is None:
        return "-"
    return f"{value:.0%}" if kind == "share" else f"{value:.2f} s"


def render_table(report: EvalReport) -> Table:
    """The table for the terminal, one row an arm."""
    table = Table(title=f"{report.cases} cases, {len(report.arms)} arms", title_justify="left")
    table.add_column("arm", no_wrap=True)
    for heading, _, _ in COLUMNS:
        table.add_column(heading, justify="right")
    table.add_column("failed", justify="right")
    for metrics in report.arms:
        cells = [cell(metrics, field, kind) for _, field, kind in COLUMNS]
        table.add_row(metrics.arm, *cells, str(metrics.failed) if metrics.failed else "-")
    for line in summary_lines(report):
        table.caption = f"{table.caption}\n{line}" if table.caption else line
    table.caption_justify = "left"
    return table


def summary_lines(report: EvalReport) -> list[str]:
    """What the numbers come to, in sentences: the differences between the arms, and the diagnosis."""
    lines = [
        f"{each.first} - {each.second}, {each.measure}: {each.difference.mean:+.1%} "
        f"({each.difference.low:+.1%} to {each.difference.high:+.1%}, {each.difference.n} cases)"
        for each in report.comparisons
        if each.measure in ("correct", "style")
    ]
    if report.labels:
        lines.append(
            f"diagnosis of {report.diagnosed}: " + ", ".join(f"{n} {label}" for label, n in report.labels.items())
        )
    return lines


def _comparisons(outcomes: Sequence[Outcome], arms: Sequence[Arm], seed: int) -> list[Comparison]:
    found = []
    for first, second in _PAIRS:
        for measure, value in _MEASURES if first in arms and second in arms else ():
            difference = compare_arms(outcomes, first, second, value, seed=seed)
            if difference is not None:
                found.append(Comparison(first=first, second=second, measure=measure, difference=difference))
    return found


def _failure(outcome: Outcome, diagnosis: Diagnosis | None) -> Failure:
    answer = outcome.answer
    assert answer is not None
    cited = {passage.n for passage in answer.citations}
    verdict = diagnosis.model_dump(include={"label", "evidence", "owner", "action"}) if diagnosis else {}
    return Failure(
        case=outcome.case.id,
        arm=outcome.arm,
        question=outcome.case.question,
        answer=answer.text,
        expected=expectation(outcome.case),
        passages=tuple(
            Quote(n=p.n, document_id=p.document_id, title=p.title, quote=p.quote, cited=p.n in cited)
            for p in answer.passages
        ),
        **verdict,
    )
