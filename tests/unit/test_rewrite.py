import pytest

from tandem.rewrite import standalone_question
from tandem.schemas import Message

FIRST = "How many days of annual leave does a full-time employee get?"


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


def test_a_question_that_stands_alone_is_searched_as_it_is():
    question = "Who approves purchases of more than 5,000 euros in finance?"
    assert standalone_question(question, [user(FIRST), assistant("27 days [1].")]) == question


@pytest.mark.parametrize(
    "question",
    ["And for part-timers?", "What about trainees?", "Does it lapse when the year has ended already?", "Since when?"],
)
def test_a_follow_up_borrows_the_question_before_it(question: str):
    history = [user(FIRST), assistant("27 days [1].")]
    assert standalone_question(question, history) == f"{FIRST} {question}"


def test_follow_ups_reach_back_to_the_question_that_stands_alone():
    history = [user("Where do visitors park when they come by car on Mondays?"), assistant("x"), user(FIRST)]
    history += [assistant("27 days [1]."), user("And for part-timers?"), assistant("By share [1].")]
    assert standalone_question("And for trainees?", history) == f"{FIRST} And for part-timers? And for trainees?"


def test_no_more_than_two_questions_are_borrowed():
    history = [user(f"And {n}?") for n in "abcd"]
    assert standalone_question("And e?", history) == "And c? And d? And e?"


def test_what_the_assistant_said_is_not_searched():
    assert standalone_question("And then?", [assistant("27 days [1].")]) == "And then?"
    assert standalone_question("And then?", []) == "And then?"
