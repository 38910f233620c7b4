"""The gate's marks and verdict; the models it asks are in the integration tests."""

import pytest

from tandem.prompt import Source
from tandem.settings import load_settings
from tandem.style import load_style
from training.examples import load_examples
from training.gate import Marks, Trial, draw_trials, judge, mark, token_f1

SETTINGS = load_settings()
GUIDE = load_style(SETTINGS.style)
REFERENCE = "The fee is 45 euros for members of Sorrelby [1]."


def trial(reference: str = REFERENCE, answerable: bool = True) -> Trial:
    return Trial("What is the fee?", (Source("T", "H", "text"),), "===", GUIDE.close(reference), answerable)


def marks(answer: str, **given: object) -> Marks:
    return mark(trial(**given), answer, GUIDE)


def test_a_perfect_answer():
    assert marks(GUIDE.close(REFERENCE)) == Marks(1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("answer", "right", "citations", "declining"),
    [
        ("Members of Sorrelby pay €45 [1].", 1, 1, 1),  # other words, all figures and names
        ("The fee is 45 euros for members [2].", 1, 0, 1),  # close enough in words, the wrong source
        ("It depends on 45 things.", 0, 0, 1),
        ("The fee is 54 euros [1].", 0, 1, 1),
        ("I can't find that in the documents.", 0, 0, 0),
        ("", 0, 0, 1),
    ],
)
def test_answers_to_an_answerable_question(answer: str, right: int, citations: int, declining: int):
    found = marks(answer)
    assert (found.right, found.citations, found.declining) == (right, citations, declining)


def test_an_unanswerable_question_wants_a_decline():
    decline = GUIDE.declining_answer
    assert marks(decline, reference=GUIDE.decline, answerable=False) == Marks(None, None, 1.0, 1.0)
    made_up = marks("The fee is 45 euros [1].", reference=GUIDE.decline, answerable=False)
    assert made_up.declining == 0
    assert made_up.right is None


def test_words_alone_are_measured_by_f1():
    assert token_f1("a b c d [1]", "a b c d [2]") == 1
    assert token_f1("", "a") == 0
    assert token_f1("a a a", "a") == pytest.approx(0.5)


GOOD, BAD = Marks(1.0, 1.0, 1.0, 1.0), Marks(0.0, 0.0, 0.0, 0.2)
PLAIN = Marks(1.0, 1.0, 1.0, 0.4)


def test_the_gate_opens_when_style_gains_and_nothing_is_lost():
    trials = [trial()] * 30
    gate = judge({"candidate": [GOOD] * 30, "base": [PLAIN] * 20 + [BAD] * 10}, trials)
    assert gate.passed
    assert gate.metrics["candidate"] == {"right": 1.0, "citations": 1.0, "declining": 1.0, "style": 1.0}
    mean, low, high = gate.differences["candidate-base"]["right"]
    assert mean == pytest.approx(1 / 3, abs=1e-3)
    assert 0 < low <= mean <= high


@pytest.mark.parametrize(
    ("candidate", "base", "active", "said"),
    [
        ([GOOD] * 30, [GOOD] * 30, None, "style does not gain on the base model"),
        ([Marks(0.0, 1.0, 1.0, 1.0)] * 30, [PLAIN] * 30, None, "right is worse than with the base model"),
        ([Marks(1.0, 1.0, 0.0, 1.0)] * 30, [PLAIN] * 30, None, "declining is worse than with the base model"),
        ([Marks(1.0, 1.0, 1.0, 0.8)] * 30, [PLAIN] * 30, [GOOD] * 30, "style is worse than with the active adapter"),
        ([Marks(1.0, 0.0, 1.0, 1.0)] * 30, [BAD] * 30, [GOOD] * 30, "citations is worse than with the active adapter"),
    ],
)
def test_the_gate_stays_shut_and_says_why(candidate, base, active, said: str):
    arms = {"candidate": candidate, "base": base} | ({"active": active} if active else {})
    gate = judge(arms, [trial()] * 30)
    assert not gate.passed
    assert any(said in reason for reason in gate.reasons), gate.reasons


def test_a_difference_within_chance_is_no_loss():
    one_off = [Marks(0.0, 1.0, 1.0, 1.0), *[GOOD] * 29]
    assert judge({"candidate": one_off, "base": [PLAIN] * 30}, [trial()] * 30).passed


def test_trials_are_drawn_alike_each_time_and_hold_both_kinds():
    heldout = load_examples(SETTINGS.training.heldout)
    trials = draw_trials(heldout, GUIDE, 40, 7)
    assert trials == draw_trials(heldout, GUIDE, 40, 7)
    assert len(trials) == 40
    assert 5 < sum(not one.answerable for one in trials) < 25
