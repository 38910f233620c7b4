"""A small model is asked about one sentence after the other: what is asked, what is shown of it, what is kept."""

from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
from sqlalchemy import select

from tandem.assistant import Assistant, TextDelta
from tandem.completions import Completions, Delta
from tandem.database import Database
from tandem.errors import ModelUnavailable
from tandem.evidence import Evidence
from tandem.prompt import DECLINE
from tandem.replicas import Replicas
from tandem.schemas import OPERATOR, Answer, Ask, Message, Passage, Sampling, Usage
from tandem.settings import Settings
from tandem.style import load_style
from tandem.tables import AnswerRow

SENTENCES = ["Tea is free.", "Leave lapses in March.", "Cars are washed."]


def passage(n: int, quote: str) -> Passage:
    return Passage(n=n, document_id="d", version_id="v", chunk_id=f"c{n}", title="T", quote=quote, similarity=0.9)


class Found:
    """In the place of retriever and evidence: three sentences of two passages."""

    def retrieve(self, question: str, *_: object) -> list[Passage]:
        return [passage(1, "")]

    def select(self, question: str, passages: list[Passage]) -> Evidence:
        kept = (passage(1, f"{SENTENCES[0]}\n{SENTENCES[2]}"), passage(2, SENTENCES[1]))
        looks = zip((1, 2, 1), SENTENCES, strict=True)
        return Evidence(kept, tuple((passage(n, sentence),) for n, sentence in looks))


class Reader:
    """In the place of a model: answers from the one sentence it knows, declines any other; token by token."""

    base_url = "http://double/v1"

    def __init__(self) -> None:
        self.knows = SENTENCES[1]
        self.says = "In March [1]."
        self.asked: list[str] = []
        self.closed = 0
        self.breaks_at = 99

    async def stream(self, messages: Any, model: str, sampling: Sampling) -> AsyncIterator[Delta]:
        self.asked.append(messages[-1]["content"])
        if len(self.asked) > self.breaks_at:
            raise ModelUnavailable("down")
        text = self.says if self.knows in self.asked[-1] else DECLINE
        try:
            for at in range(0, len(text), 3):
                yield Delta(text=text[at : at + 3])
            yield Delta(finish_reason="stop", usage=Usage(prompt_tokens=7, completion_tokens=3))
        finally:
            self.closed += 1


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def assistant(reader: Reader, database: Database, settings: Settings) -> Assistant:
    found: Any = Found()
    unused: Any = None
    model = Replicas([cast(Completions, reader)])
    return Assistant(found, found, model, unused, database, load_style(settings.style), settings)


async def ask(assistant: Assistant) -> tuple[str, Answer]:
    asked = Ask(messages=(Message(role="user", content="When?"),), arm="rag", principal=OPERATOR)
    *deltas, answer = [event async for event in assistant.answer(asked)]
    assert isinstance(answer, Answer)
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)), answer


async def test_it_goes_on_until_a_sentence_answers(assistant: Assistant, reader: Reader, database: Database):
    shown, answer = await ask(assistant)
    assert shown == answer.text == "In March [2]."
    assert not answer.declined
    assert [cited.n for cited in answer.citations] == [2]
    assert [(look.n, look.quote) for look in answer.looks] == [(1, SENTENCES[0]), (2, SENTENCES[1])]
    assert len(reader.asked) == 2
    for prompt, sentence in zip(reader.asked, SENTENCES, strict=False):
        assert [each in prompt for each in SENTENCES] == [each == sentence for each in SENTENCES]
    assert reader.closed == 2  # what was declined does not go on behind the answer's back
    assert (len(answer.passages), answer.usage.prompt_tokens) == (2, 7)
    with database.session() as session:
        assert session.scalars(select(AnswerRow)).one().receipt["looks"] == [
            {"n": 1, "quote": SENTENCES[0]},
            {"n": 2, "quote": SENTENCES[1]},
        ]


async def test_it_declines_once_when_none_does(assistant: Assistant, reader: Reader):
    reader.knows = "something else"
    shown, answer = await ask(assistant)
    assert shown == answer.text == DECLINE
    assert answer.declined
    assert answer.citations == ()
    assert len(answer.looks) == len(reader.asked) == 3


@pytest.mark.parametrize("says", ["I", "I can't say [1].", "", "Indeed [1]."])
async def test_an_answer_that_begins_like_a_decline_is_one(assistant: Assistant, reader: Reader, says: str):
    reader.knows, reader.says = SENTENCES[0], says
    shown, answer = await ask(assistant)
    assert len(reader.asked) == (1 if says else 3)  # what says nothing has found nothing
    if says:
        assert shown == answer.text == says


async def test_the_passages_are_shown_when_the_model_goes_away_between_two_looks(assistant: Assistant, reader: Reader):
    reader.breaks_at = 1
    _, answer = await ask(assistant)
    assert answer.degraded == "retrieval_only"
    assert SENTENCES[1] in answer.text
