"""What the outcomes of a suite come to: each answer judged by itself, then one row of numbers an arm."""

from collections.abc import Sequence

import numpy as np

from eval.matching import found, holds_all, strip_markers
from eval.outcome import Outcome
from eval.suite import Case
from eval.support import cited_sentences, supports
from tandem.schemas import Answer, Arm, Value, uses_retrieval


class ArmMetrics(Value):
    """One arm over one suite. A number is None where there was nothing to measure; times are in seconds.

    Attributes:
        scored: Cases that were answered; `failed` ones count nowhere else.
        correct: Share of right answers, over all scored cases.
        citation_precision: Share of the citations that are right: the expected document, and it bears the sentence out.
        cited: Share of the answers from retrieved passages, declines aside, that cite at least one.
        declined_unanswerable: Share of the unanswerable cases that were declined (higher is better).
        declined_answerable: Share of the answerable cases that were declined (lower is better).
        style: Mean style score, 0 to 1.
    """

    arm: Arm
    cases: int
    scored: int
    failed: int
    correct: float | None = None
    correct_answerable: float | None = None
    citation_precision: float | None = None
    cited: float | None = None
    declined_unanswerable: float | None = None
    declined_answerable: float | None = None
    style: float | None = None
    latency_p50: float | None = None
    latency_p95: float | None = None
    first_token_p50: float | None = None
    first_token_p95: float | None = None


def is_right(case: Case, text: str, declined: bool) -> bool:
    """Whether an answer is right.

    Args:
        case: What was asked and expected.
        text: The answer; citation markers are left out of the comparison.
        declined: Whether it declined.

    Returns:
        For an answerable case: it says one string of every `all_of` group and none of `none_of`. For an unanswerable
        one: it declined, and says none of `none_of` all the same.
    """
    said = strip_markers(text)
    if found(said, case.none_of):
        return False
    return holds_all(said, case.all_of) if case.answerable else declined


def judge_citations(case: Case, answer: Answer) -> tuple[int, int]:
    """Counts an answer's citations and those of them that are right.

    A citation is right when its passage is from one of the case's `evidence` documents (if it names any) and bears
    out the sentence it is put to. A decline cites nothing: what it names are the nearest documents.

    Returns:
        Citations, right citations.
    """
    if answer.declined:
        return 0, 0
    passages = {passage.n: passage for passage in answer.passages}
    cited = [citation for citation in cited_sentences(answer.text) if citation.n in passages]
    right = 0
    for citation in cited:
        passage = passages[citation.n]
        expected = not case.evidence or passage.document_id in case.evidence
        source = f"{passage.title} {passage.heading} {passage.quote}"
        right += expected and supports(source, citation.sentence)
    return len(cited), right


def measure_arm(arm: Arm, outcomes: Sequence[Outcome]) -> ArmMetrics:
    """Sums up one arm; outcomes of other arms are passed over."""
    mine = [outcome for outcome in outcomes if outcome.arm == arm]
    scored = [outcome for outcome in mine if outcome.answer is not None]
    answerable = [outcome for outcome in scored if outcome.case.answerable]
    unanswerable = [outcome for outcome in scored if not outcome.case.answerable]
    grounded = [outcome for outcome in scored if uses_retrieval(arm) and not outcome.declined]
    citations = sum(outcome.citations for outcome in scored)
    seconds = [outcome.seconds for outcome in scored]
    first = [outcome.first_token for outcome in scored if outcome.first_token is not None]
    return ArmMetrics(
        arm=arm,
        cases=len(mine),
        scored=len(scored),
        failed=len(mine) - len(scored),
        correct=_mean([outcome.right for outcome in scored]),
        correct_answerable=_mean([outcome.right for outcome in answerable]),
        citation_precision=sum(outcome.right_citations for outcome in scored) / citations if citations else None,
        cited=_mean([outcome.citations > 0 for outcome in grounded]),
        declined_unanswerable=_mean([outcome.declined for outcome in unanswerable]),
        declined_answerable=_mean([outcome.declined for outcome in answerable]),
        style=_mean([outcome.style.value for outcome in scored if outcome.style is not None]),
        latency_p50=_percentile(seconds, 50),
        latency_p95=_percentile(seconds, 95),
        first_token_p50=_percentile(first, 50),
        first_token_p95=_percentile(first, 95),
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _percentile(values: Sequence[float], q: float) -> float | None:
    return float(np.percentile(values, q)) if values else None
