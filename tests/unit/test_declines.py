import pytest

from tandem.declines import is_decline, opens_declining
from tandem.prompt import DECLINE


@pytest.mark.parametrize(
    "text",
    [
        DECLINE,
        f"  {DECLINE} The nearest are: Annual leave [1].",
        DECLINE.replace("'", "\u2019"),
        "The sources do not mention the price of the TN-200.",
        "The document does not explicitly state who approves it.",
        "This is not specified in the sources.",
        "There is no information about parking in the text.",
        "I don't know.",
        "I\u2019m unable to find that.",
        "The answer cannot be found in the passages.",
        "I cannot find this.",
    ],
)
def test_declines(text: str):
    assert is_decline(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Leave is 27 days [1].",
        "You cannot carry over more than five days [1].",
        "Visitors do not need a badge [2].",
        "Yes: internal dashboards are not covered by the freeze [1].",
        "Report it at once: find a colleague who can answer [1].",
    ],
)
def test_answers(text: str):
    assert not is_decline(text)


def test_a_limit_put_behind_an_answer_makes_it_no_decline():
    answer = "Leave is 27 days a year [1]. " * 8
    assert not is_decline(f"{answer}The sources do not mention part-time work.")
    assert is_decline(f"The sources do not mention part-time work. {answer}")


@pytest.mark.parametrize(
    ("text", "opens"),
    [
        (DECLINE, True),
        ("I can\u2019t find", True),
        ("\n I can't find that", True),
        ("", None),
        ("I", None),
        ("I can't fin", None),
        ("In March [1].", False),
        ("I can't say", False),
        ("The", False),
    ],
)
def test_a_decline_is_told_by_its_beginning(text: str, opens: bool | None):
    assert opens_declining(text) is opens
