"""OpenAI's schema: what is accepted, what is refused by name, and what becomes of a request."""

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from services.chat.openai_schema import NEUTRAL, ChatRequest, Envelope
from services.chat.problems import describe
from tandem.errors import Forbidden
from tandem.schemas import Answer, Message, Passage, Principal, Usage

ADA = Principal(user="ada", groups=frozenset({"everyone", "hr"}))
ADMIN = Principal(user="root", admin=True)
QUESTION = [{"role": "user", "content": "How many days?"}]


def request(**changes: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "tandem", "messages": QUESTION, **changes})


def refusal(**changes: Any) -> tuple[str, str | None]:
    with pytest.raises(ValidationError) as caught:
        request(**changes)
    message, param, _ = describe(caught.value.errors())
    return message, param


def test_a_plain_question_keeps_the_defaults_of_the_service():
    ask = request().ask("tandem", ADA, 1024)
    assert ask.messages == (Message(role="user", content="How many days?"),)
    assert ask.sampling.temperature == 0.0
    assert ask.sampling.max_tokens == 160
    assert (ask.as_of, ask.top_k, ask.instructions) == (None, None, "")


def test_every_sampling_parameter_reaches_the_ask():
    ask = request(
        temperature=0.7,
        top_p=0.9,
        max_tokens=50,
        stop="END",
        seed=3,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        tandem={"as_of": "2026-03-01", "top_k": 6},
    ).ask("rag", ADA, 1024)
    given = ask.sampling.model_dump()
    assert given == {
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 50,
        "stop": ("END",),
        "seed": 3,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "bias": (),  # an adapter's threshold: nobody can send one
    }
    assert (ask.as_of, ask.top_k) == (date(2026, 3, 1), 6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"max_tokens": 9}, 9),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 9, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 10**9}, 1024),
    ],
)
def test_the_smallest_limit_on_the_length_holds(changes: dict[str, int], expected: int):
    assert request(**changes).ask("tandem", ADA, 1024).sampling.max_tokens == expected


def test_system_and_developer_texts_become_instructions_and_the_rest_the_conversation():
    ask = request(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "How many"}, {"type": "text", "text": "days?"}]},
            {"role": "assistant", "content": "28. [1]", "refusal": None, "annotations": [], "tool_calls": None},
            {"role": "developer", "content": "No jokes."},
            {"role": "user", "content": "And\x00 for part-timers?", "name": "ada"},
        ]
    ).ask("tandem", ADA, 1024)
    assert ask.instructions == "Be brief.\nNo jokes."
    assert [(turn.role, turn.content) for turn in ask.messages] == [
        ("user", "How many\ndays?"),
        ("assistant", "28. [1]"),
        ("user", "And  for part-timers?"),
    ]


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_a_parameter_at_its_neutral_value_is_accepted_and_null_too(name: str):
    allowed = NEUTRAL[name]
    for value in (*(allowed if allowed is not None else ("anything", 3)), None):
        request(**{name: value})


@pytest.mark.parametrize("name", sorted(name for name, allowed in NEUTRAL.items() if allowed is not None))
def test_a_parameter_that_would_change_the_answer_is_refused_by_name(name: str):
    message, param = refusal(**{name: ["something", "else"]})
    assert param == name
    assert name in message


def test_true_is_not_one():
    assert refusal(n=True)[1] == "n"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "   "}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}, *QUESTION]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "user", "content": "hi", "image": "x"}]}, "messages[0].image"),
        ({"messages": [None]}, "messages[0]"),
        ({"model": 5}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"verbose": True}}, "stream_options.verbose"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stop": 5}, "stop"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"tandem": {"as_of": "yesterday"}}, "tandem.as_of"),
        ({"tandem": {"as_of": "2026-02-30"}}, "tandem.as_of"),
        ({"tandem": {"as_of": 0}}, "tandem.as_of"),
        ({"tandem": {"top_k": 0}}, "tandem.top_k"),
        ({"tandem": {"rerank": True}}, "tandem.rerank"),
        ({"tandem": "now"}, "tandem"),
        ({"frobnicate": 1}, "frobnicate"),
    ],
)
def test_nonsense_is_refused_in_a_sentence_that_names_its_place(changes: dict[str, Any], param: str):
    message, found = refusal(**changes)
    assert found is not None
    assert found == param
    assert message.endswith((".", ")"))
    assert "\n" not in message


@pytest.mark.parametrize("changes", [{"messages": [{"role": "user", "content": "\ud800"}]}, {"user": ["\udfff"]}])
def test_half_a_character_is_refused(changes: dict[str, Any]):
    assert "surrogate" in refusal(**changes)[0]


def test_a_reader_can_be_narrowed_and_never_widened():
    narrowed = request(tandem={"groups": ["hr"]}).ask("rag", ADA, 1024).principal
    assert (narrowed.user, narrowed.groups, narrowed.admin) == ("ada", frozenset({"hr"}), False)
    as_reader = request(tandem={"groups": ["legal"]}).ask("rag", ADMIN, 1024).principal
    assert (as_reader.groups, as_reader.admin) == (frozenset({"legal"}), False)
    with pytest.raises(Forbidden, match="legal"):
        request(tandem={"groups": ["legal"]}).ask("rag", ADA, 1024)


def test_a_completion_carries_usage_and_the_receipt():
    passage = Passage(
        n=1, document_id="a.md", version_id="v", chunk_id="c", title="A", quote="28 days.", text="28 days. More."
    )
    answer = Answer(
        answer_id="ans_1",
        text="28 days. [1]",
        arm="rag",
        as_of=date(2026, 3, 1),
        citations=(passage,),
        passages=(passage,),
        usage=Usage(prompt_tokens=5, completion_tokens=3),
        finish_reason="length",
    )
    completion = Envelope("tandem-rag").completion(answer)
    assert completion["model"] == "tandem-rag"
    assert completion["choices"][0]["finish_reason"] == "length"
    assert completion["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    source = {
        "n": 1,
        "document_id": "a.md",
        "title": "A",
        "version": "",
        "effective_from": None,
        "heading": "",
        "page": None,
        "quote": "28 days.",
        "url": "",
    }
    assert completion["tandem"] == {
        "arm": "rag",
        "adapter": None,
        "answer_id": "ans_1",
        "as_of": "2026-03-01",
        "degraded": None,
        "citations": [source],
        "passages": [source],
    }
