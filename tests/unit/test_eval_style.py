import json
from pathlib import Path

import pytest

from eval.style import reading_grade, score
from tandem.declines import is_decline
from tandem.prompt import DECLINE
from tandem.settings import REPOSITORY
from tandem.style import StyleGuide, load_style

STYLE = REPOSITORY / "samples" / "style"
GUIDE = load_style(STYLE / "style.yaml")
CLOSING = f"\n\n{GUIDE.closing_line}"


@pytest.mark.parametrize("name", ["examples", "heldout"])
def test_the_houses_own_examples_keep_the_style(name: str) -> None:
    groups = map(json.loads, (STYLE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
    answers = [example["answer"] for group in groups for example in group["examples"]]
    scores = [score(answer, GUIDE, declined=is_decline(answer)) for answer in answers]
    assert sum(each.value for each in scores) / len(scores) > 0.99
    # Sentences of legal sources read hard and speak of "the Employee"; nothing else may be broken.
    broken = [complaint for each in scores for complaint in each.broken]
    assert not [each for each in broken if not each.startswith("Its reading grade") and 'to "you"' not in each]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("You may take 5 days [1].", "does not end with"),
        (f"One is so [1]. Two is so [1]. Three is so [1]. Four is so [1].{CLOSING}", "has 4 sentences, 3 are allowed"),
        (f"Please note the limit of 5 days [1].{CLOSING}", "says 'please note'"),
        (f"Here is the answer: 5 days [1].{CLOSING}", "does not answer first"),
        (f"What a question? You may take 5 days [1].{CLOSING}", "does not answer first"),
        (f"You may take 5 days. The manager agrees [1].{CLOSING}", "no source at 'You may take 5 days.'"),
        (f"I think you may take 5 days [1].{CLOSING}", "speaks of 'I'"),
        (f"The employee must take 5 days [1].{CLOSING}", "says 'The employee must'"),
        (f"Interdepartmental reconciliation necessitates authorisation documentation [1].{CLOSING}", "reading grade"),
        (f"[1]{CLOSING}", "does not answer first"),
        (CLOSING, "says nothing"),
    ],
)
def test_a_broken_rule_is_named(text: str, said: str) -> None:
    found = score(text, GUIDE)
    assert any(said in broken for broken in found.broken), found.broken
    assert found.value == pytest.approx(1 - len(found.broken) / found.rules)


@pytest.mark.parametrize(
    "text",
    [
        "You may take 5 days [1].",
        "No. You may take 5 days. [1] Ask before 9 a.m. on that day [1][2].",
        'The form says "I agree" above the line [1].',
        "Schedule I.4 applies to you [1].",
    ],
)
def test_a_kept_style_scores_one(text: str) -> None:
    found = score(text + CLOSING, GUIDE)
    assert found.broken == ()
    assert found.value == 1


def test_a_decline_needs_the_houses_sentence_and_no_source() -> None:
    assert score(f"{DECLINE}{CLOSING}", GUIDE, declined=True).value == 1
    found = score(f"The sources do not mention it.{CLOSING}", GUIDE, declined=True)
    assert found.broken == (f"It declines without the sentence {DECLINE!r}.",)


def test_without_sources_none_are_asked_for() -> None:
    text = f"You may take 5 days.{CLOSING}"
    assert score(text, GUIDE, grounded=False).value == 1
    assert score(text, GUIDE).value < 1


def test_only_the_rules_that_are_set_are_checked() -> None:
    assert score("Sure! I hope so", StyleGuide()).rules == 0
    assert score("Sure! I hope so", StyleGuide()).value == 1
    guide = StyleGuide(preferred={"vacation": "annual leave"}, person="third")
    assert len(score("Your vacation is paid.", guide).broken) == 2
    assert score("Vacationers are paid.", guide).value == 1


def test_the_reading_grade_rises_with_long_words_and_sentences() -> None:
    easy, hard = "The cat sat on the mat.", "Notwithstanding contractual indemnification, liability is unlimited."
    assert reading_grade(easy) < 3 < 12 < reading_grade(hard)
    assert reading_grade("") == 0


def test_the_guide_is_read_by_path(tmp_path: Path) -> None:
    path = tmp_path / "style.yaml"
    path.write_text("max_sentences: 2\nbanned: [kindly]\n", encoding="utf-8")
    assert load_style(path) == StyleGuide(max_sentences=2, banned=("kindly",))
