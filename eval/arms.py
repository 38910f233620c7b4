"""Asks the cases of a suite in the four arms."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from eval.metrics import is_right, judge_citations
from eval.outcome import Outcome
from eval.style import score
from eval.suite import EVAL_USER, Case
from tandem.errors import TandemError
from tandem.schemas import ARMS, Answer, Arm, Ask, Principal, Sampling, uses_retrieval
from tandem.style import StyleGuide

ADMIN = Principal(user=EVAL_USER, admin=True)

# An answer that the arm did not give itself must not be scored as the arm's.
_NOT_THE_ARMS_OWN = {
    "retrieval_only": "The model did not answer, only passages were shown: see that the model server runs.",
    "no_adapter": "The adapter did not answer, the base model did instead: see `tandem adapters list`.",
}


class Answering(Protocol):
    """Who answers: the assistant in this process, or a client of a running server."""

    def answer(self, ask: Ask) -> AsyncIterator[object]:
        """Yields pieces of text, and last of all the `Answer`."""
        ...


class EmptyStream(TandemError):
    """An assistant ended its stream without an answer."""


async def run_suite(
    assistant: Answering,
    cases: Sequence[Case],
    arms: Sequence[Arm] = ARMS,
    *,
    style: StyleGuide | None = None,
    principal: Principal = ADMIN,
    sampling: Sampling | None = None,
    concurrency: int = 1,
    timeout: float = 300.0,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Asks every case in every arm, one arm after the other.

    Args:
        assistant: Who answers.
        cases: The suite.
        arms: The arms, in the order they are run.
        style: The house style to score answers by; None scores none.
        principal: Who asks the cases that name no groups.
        sampling: Decoding; greedy by default, so that a second run gives the same.
        concurrency: Questions at once within an arm. More than 1 blurs the latencies.
        timeout: Seconds after which a case counts as failed.
        on_outcome: Called with each outcome as it comes, for a progress display.

    Returns:
        One outcome for each arm and case, arm by arm, in the suite's order. A case that crashed is a failure with its
        error, never a low score, and the run goes on.
    """
    slots = asyncio.Semaphore(max(1, concurrency))

    async def one(case: Case, arm: Arm) -> Outcome:
        async with slots:
            outcome = await run_case(
                assistant, case, arm, style=style, principal=principal, sampling=sampling, timeout=timeout
            )
        if on_outcome is not None:
            on_outcome(outcome)
        return outcome

    outcomes: list[Outcome] = []
    for arm in arms:
        outcomes.extend(await asyncio.gather(*(one(case, arm) for case in cases)))
    return outcomes


async def run_case(
    assistant: Answering,
    case: Case,
    arm: Arm,
    *,
    style: StyleGuide | None = None,
    principal: Principal = ADMIN,
    sampling: Sampling | None = None,
    timeout: float = 300.0,
) -> Outcome:
    """Asks one case in one arm and judges the answer; never raises for what goes wrong in answering."""
    ask = case.ask(arm, principal, sampling)
    started = time.perf_counter()
    try:
        async with asyncio.timeout(timeout):
            answer, first_token = await _collect(assistant, ask, started)
    except TimeoutError:
        return Outcome(case=case, arm=arm, error=f"There was no answer within {timeout:g} s.")
    except TandemError as exc:
        return Outcome(case=case, arm=arm, error=exc.message)
    except Exception as exc:  # whatever breaks in one case, the others are still worth asking
        return Outcome(case=case, arm=arm, error=f"Answering broke with {type(exc).__name__}: {exc}")
    seconds = time.perf_counter() - started
    if answer.degraded is not None:
        reason = _NOT_THE_ARMS_OWN.get(answer.degraded, f"The answer was degraded: {answer.degraded!r}.")
        return Outcome(case=case, arm=arm, error=reason)
    citations, right_citations = judge_citations(case, answer)
    grounded = uses_retrieval(arm)
    return Outcome(
        case=case,
        arm=arm,
        answer=answer,
        right=is_right(case, answer.text, answer.declined),
        citations=citations,
        right_citations=right_citations,
        style=score(answer.text, style, declined=answer.declined, grounded=grounded) if style is not None else None,
        seconds=seconds,
        first_token=first_token,
    )


async def collect(assistant: Answering, ask: Ask) -> Answer:
    """Reads one answer to its end.

    Raises:
        EmptyStream: The stream ended without an answer.
        TandemError: Whatever the assistant raises.
    """
    answer, _ = await _collect(assistant, ask, time.perf_counter())
    return answer


async def _collect(assistant: Answering, ask: Ask, started: float) -> tuple[Answer, float | None]:
    first_token: float | None = None
    answer: Answer | None = None
    async for event in assistant.answer(ask):
        if isinstance(event, Answer):
            answer = event
        elif first_token is None:
            first_token = time.perf_counter() - started
    if answer is None:
        raise EmptyStream("The stream ended without an answer: see the server's log.")
    return answer, first_token
