import pytest

from eval.arms import ADMIN, run_case, run_suite
from eval.outcome import Outcome
from eval.suite import EVAL_USER, Case
from tandem.errors import IndexUnavailable
from tandem.schemas import ARMS, Principal
from tandem.style import StyleGuide
from tests.scripted_assistant import ScriptedAssistant, passage

CASE = Case.model_validate({"id": "meals", "question": "How much?", "all_of": [["45"]], "answerable": True})
SAID = {"tandem": "It is EUR 45 [1].\n\nBye.", "rag": "It is EUR 45 [1].", "style": "It is EUR 9.", "base": "No idea."}


async def test_every_case_is_asked_in_every_arm_and_judged() -> None:
    assistant = ScriptedAssistant(SAID, [passage(1, "EUR 45 a day")])
    seen: list[Outcome] = []
    style = StyleGuide(closing_line="Bye.", cite=True)
    other = CASE.model_copy(update={"id": "other"})
    outcomes = await run_suite(assistant, [CASE, other], style=style, on_outcome=seen.append)
    assert [(outcome.arm, outcome.case.id) for outcome in outcomes] == [
        (a, c) for a in ARMS for c in ("meals", "other")
    ]
    assert seen == outcomes
    by_arm = {outcome.arm: outcome for outcome in outcomes}
    assert [by_arm[arm].right for arm in ARMS] == [True, True, False, False]
    assert (by_arm["tandem"].citations, by_arm["tandem"].right_citations) == (1, 1)
    assert by_arm["tandem"].style is not None
    assert by_arm["tandem"].style.value == 1
    assert by_arm["rag"].style is not None
    assert by_arm["rag"].style.broken == ("It does not end with 'Bye.'.",)
    assert by_arm["tandem"].first_token is not None
    assert 0 <= by_arm["tandem"].first_token <= by_arm["tandem"].seconds


async def test_groups_make_the_principal_and_without_any_an_admin_asks() -> None:
    assistant = ScriptedAssistant(SAID)
    await run_case(assistant, CASE, "rag")
    await run_case(assistant, CASE.model_copy(update={"groups": frozenset({"hr"})}), "rag")
    assert [ask.principal for ask in assistant.asked] == [ADMIN, Principal(user=EVAL_USER, groups=frozenset({"hr"}))]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (IndexUnavailable("Qdrant does not answer."), "Qdrant does not answer."),
        (ZeroDivisionError("oh"), "Answering broke with ZeroDivisionError: oh"),
        (60.0, "There was no answer within 0.05 s."),
    ],
)
async def test_a_crash_is_recorded_and_the_others_go_on(fault: Exception | float, said: str) -> None:
    assistant = ScriptedAssistant({"rag": fault, "base": "It is 45."})
    outcomes = await run_suite(assistant, [CASE], ["rag", "base"], timeout=0.05)
    assert outcomes[0].answer is None
    assert outcomes[0].error == said
    assert outcomes[1].right


@pytest.mark.parametrize("degraded", ["retrieval_only", "no_adapter"])
async def test_an_answer_that_is_not_the_arms_own_is_a_failure(degraded: str) -> None:
    outcome = await run_case(ScriptedAssistant(SAID, degraded=degraded), CASE, "tandem")
    assert outcome.answer is None
    assert outcome.error is not None
    assert "did not answer" in outcome.error


async def test_a_stream_without_an_answer_is_a_failure() -> None:
    class Silent(ScriptedAssistant):
        async def answer(self, ask):
            async for event in super().answer(ask):
                yield event
                return

    outcome = await run_case(Silent(SAID), CASE, "rag")
    assert outcome.error == "The stream ended without an answer: see the server's log."


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_no_more_questions_at_once_than_allowed(concurrency: int) -> None:
    assistant = ScriptedAssistant({"rag": 0.01})
    cases = [CASE.model_copy(update={"id": str(n)}) for n in range(6)]
    await run_suite(assistant, cases, ["rag"], concurrency=concurrency)
    assert assistant.busiest == concurrency
