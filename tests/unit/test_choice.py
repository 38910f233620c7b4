"""Which sentence is asked about alone, and the odds that it is chosen by."""

from typing import Any

import pytest

from tandem.choice import NAT, choose
from tandem.completions import Completions
from tandem.prompt import DECLINE


@pytest.mark.parametrize(
    ("scores", "leads", "chosen"),
    [
        ([0.9, 0.8, 0.7], [0.0, 0.0, 0.0], 0),
        ([0.9, 0.8, 0.7], [3.0, 3.0, -1.0], 2),
        ([0.9, 0.9 - NAT], [1.0, 0.1], 0),
        ([0.9, 0.9 - NAT], [1.0, -0.1], 1),
        ([0.5, 0.5], [-1.0, -1.0], 0),
    ],
)
def test_a_lead_of_declining_is_weighed_against_the_score(scores: list[float], leads: list[float], chosen: int):
    assert choose(scores, leads) == chosen


def test_what_likely_answers_is_weighed_in():
    assert choose([0.9, 0.8], [0.0, 0.0], [-1.0, 1.0]) == 1
    assert choose([0.9, 0.8], [0.0, 0.0], [0.2, 0.3]) == 0
    assert choose([0.9, 0.8], [0.0, 0.0], [None, None]) == 0  # there is no cross-encoder
    assert choose([0.9, 0.8], [2.0, 0.0], []) == 1


def answer(*odds: tuple[str, float]) -> dict[str, Any]:
    told = [{"token": token, "logprob": logprob} for token, logprob in odds]
    return {"choices": [{"logprobs": {"content": [{"top_logprobs": told}]}}]}


@pytest.mark.parametrize(
    ("answered", "lead"),
    [
        (answer(("I", -0.5), ("The", -1.5), ("You", -3.0)), 1.0),
        (answer(("The", -0.5), ("I", -2.0)), -1.5),
        (answer(("The", -0.5), ("I can", -1.0), ("I", -2.0)), -0.5),
        (answer(("The", -0.5), ("In", -1.0), ("You", -4.0)), -3.5),  # no less than that
        (answer(("I", -0.5)), None),
        (answer(("", -0.5), ("I", -1.0)), -0.5),  # nothing begins no sentence
        (answer(), None),
        ({"choices": [{"logprobs": None}]}, None),  # it tells no odds
        ({"choices": [{"message": {"content": "I"}}]}, None),
        ({"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "I", "logprob": "x"}]}]}}]}, None),
    ],
)
async def test_the_lead_of_an_opening(answered: dict[str, Any], lead: float | None, monkeypatch: pytest.MonkeyPatch):
    completions = Completions("http://127.0.0.1:9/v1", None, 1.0)
    bodies: list[dict[str, Any]] = []

    async def call(method: str, path: str, body: dict[str, Any], model: str) -> dict[str, Any]:
        bodies.append(body)
        return answered

    monkeypatch.setattr(completions, "_call", call)
    assert await completions.lead([], "house-style@0123456789ab", DECLINE) == lead
    (body,) = bodies
    assert (body["max_tokens"], body["logprobs"], body["temperature"]) == (1, True, 0)
    await completions.aclose()
