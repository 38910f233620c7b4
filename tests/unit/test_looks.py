"""A small model is asked about the best sentence alone, then about all: what is asked, what is shown, what is kept."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import select

from tandem.assistant import Assistant
from tandem.completions import Completions, Delta
from tandem.database import Database
from tandem.draft import TextDelta
from tandem.errors import AdapterError, ModelUnavailable
from tandem.evidence import Evidence, Look
from tandem.manifest import AdapterRef
from tandem.prompt import DECLINE
from tandem.replicas import Replicas
from tandem.schemas import OPERATOR, Answer, Arm, Ask, Message, Passage, Sampling, Usage
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
        return Evidence(kept, (Look(passage(1, SENTENCES[0]), 0.9), Look(passage(2, SENTENCES[1]), 0.8)))


class Reader:
    """In the place of a model: answers from the sentence it knows, declines without it; token by token."""

    base_url = "http://double/v1"

    def __init__(self) -> None:
        self.knows = SENTENCES[1]
        self.says = "In March [2]."
        self.asked: list[str] = []
        self.closed = 0
        self.breaks_at = 99
        self.leads: dict[str, float | Exception | None] = {}
        self.compared: list[str] = []
        self.fences: list[str] = []

    async def lead(self, messages: Any, model: str, opening: str) -> float | None:
        assert (model, opening) == ("house-style@0123456789ab", DECLINE)
        (sentence,) = shown_in(messages[-1]["content"])
        self.compared.append(sentence)
        self.fences.append(messages[-1]["content"].splitlines()[1])
        lead = self.leads[sentence]
        if isinstance(lead, Exception):
            raise lead
        return lead

    async def stream(self, messages: Any, model: str, sampling: Sampling) -> AsyncIterator[Delta]:
        self.asked.append(messages[-1]["content"])
        self.fences.append(self.asked[-1].splitlines()[1])
        if len(self.asked) > self.breaks_at:
            raise ModelUnavailable("down")
        text = self.says if self.knows in self.asked[-1] else DECLINE
        try:
            for at in range(0, len(text), 3):
                yield Delta(text=text[at : at + 3])
            yield Delta(finish_reason="stop", usage=Usage(prompt_tokens=7, completion_tokens=3))
        finally:
            self.closed += 1


class Adapters:
    """In the place of the adapters that are served: one, which declines as it likes."""

    ref = AdapterRef("house-style", "0123456789ab" + "0" * 52, Path("/nowhere"))

    @asynccontextmanager
    async def speaker(self, conversation: str) -> AsyncIterator[AdapterRef]:
        yield self.ref

    def bias(self, ref: AdapterRef, odds: float | None = None) -> tuple[tuple[int, float], ...]:
        return ()

    def meant_for(self, conversation: str) -> AdapterRef:
        return self.ref

    def forget(self, ref: AdapterRef) -> None:
        pass


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
    adapters: Any = Adapters()
    model = Replicas([cast(Completions, reader)])
    return Assistant(found, found, model, adapters, database, load_style(settings.style), settings)


async def ask(assistant: Assistant, arm: Arm = "rag") -> tuple[str, Answer]:
    asked = Ask(messages=(Message(role="user", content="When?"),), arm=arm, principal=OPERATOR)
    *deltas, answer = [event async for event in assistant.answer(asked)]
    assert isinstance(answer, Answer)
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)), answer


def shown_in(prompt: str) -> list[str]:
    return [sentence for sentence in SENTENCES if sentence in prompt]


async def test_it_is_given_all_where_the_best_sentence_does_not_answer(assistant: Assistant, reader: Reader):
    shown, answer = await ask(assistant)
    assert shown == answer.text == "In March [2]."
    assert not answer.declined
    assert [cited.n for cited in answer.citations] == [2]
    assert answer.read_alone == ""
    assert [shown_in(prompt) for prompt in reader.asked] == [SENTENCES[:1], SENTENCES]
    assert reader.closed == 2  # what was declined does not go on behind the answer's back
    assert (len(answer.passages), answer.usage.prompt_tokens) == (2, 7)


async def test_it_is_asked_once_where_the_best_sentence_answers(
    assistant: Assistant, reader: Reader, database: Database
):
    reader.knows, reader.says = SENTENCES[0], "Free [1], not [2]."
    shown, answer = await ask(assistant)
    assert shown == answer.text == "Free [1], not."  # of what it did not see nothing is cited
    assert [shown_in(prompt) for prompt in reader.asked] == [SENTENCES[:1]]
    assert (answer.read_alone, len(answer.passages), answer.removed_markers) == (SENTENCES[0], 2, 1)
    with database.session() as session:
        assert session.scalars(select(AnswerRow)).one().receipt["read_alone"] == SENTENCES[0]


async def test_it_declines_once_when_nothing_answers(assistant: Assistant, reader: Reader):
    reader.knows = "something else"
    shown, answer = await ask(assistant)
    assert shown == answer.text == DECLINE
    assert answer.declined
    assert (answer.citations, answer.read_alone, len(reader.asked)) == ((), "", 2)


@pytest.mark.parametrize("says", ["I", "I can't say [1].", "", "Indeed [1]."])
async def test_an_answer_that_begins_like_a_decline_is_one(assistant: Assistant, reader: Reader, says: str):
    reader.knows, reader.says = SENTENCES[0], says
    shown, answer = await ask(assistant)
    assert len(reader.asked) == (1 if says else 2)  # what says nothing has found nothing
    if says:
        assert shown == answer.text == says


async def test_an_adapter_is_asked_about_what_it_is_least_likely_to_decline(assistant: Assistant, reader: Reader):
    reader.leads = {SENTENCES[0]: 2.0, SENTENCES[1]: -1.0}
    reader.says = "In March [1]."
    shown, answer = await ask(assistant, "tandem")
    assert shown == answer.text == "In March [1]."
    assert sorted(reader.compared) == sorted(SENTENCES[:2])
    assert [shown_in(prompt) for prompt in reader.asked] == [SENTENCES[1:2]]
    assert answer.read_alone == SENTENCES[1]
    assert [(cited.n, cited.quote) for cited in answer.citations] == [(1, SENTENCES[1])]
    assert [(kept.n, kept.quote) for kept in answer.passages][1] == (2, f"{SENTENCES[0]}\n{SENTENCES[2]}")
    assert "choose" in answer.timings
    assert len(reader.fences) == 3
    assert len(set(reader.fences)) == 1  # what was read for its odds need not be read again


async def test_the_search_counts_too(assistant: Assistant, reader: Reader):
    reader.leads = {SENTENCES[0]: 0.5, SENTENCES[1]: 0.0}  # less than 0.1 of a sentence's score
    reader.knows, reader.says = SENTENCES[0], "Free [1]."
    _, answer = await ask(assistant, "tandem")
    assert (answer.read_alone, [cited.n for cited in answer.citations]) == (SENTENCES[0], [1])


async def test_after_a_decline_all_stands_in_the_order_of_the_search(assistant: Assistant, reader: Reader):
    reader.leads = {SENTENCES[0]: 2.0, SENTENCES[1]: -1.0}
    reader.knows, reader.says = SENTENCES[2], "Washed [1]."
    _, answer = await ask(assistant, "tandem")
    assert [shown_in(prompt) for prompt in reader.asked] == [SENTENCES[1:2], SENTENCES]
    assert [cited.quote for cited in answer.citations] == [f"{SENTENCES[0]}\n{SENTENCES[2]}"]


@pytest.mark.parametrize("lead", [None, ModelUnavailable("down"), AdapterError("gone")], ids=str)
async def test_without_odds_the_search_chooses(assistant: Assistant, reader: Reader, lead: float | Exception | None):
    reader.leads = {SENTENCES[0]: 2.0, SENTENCES[1]: lead}
    reader.knows, reader.says = SENTENCES[0], "Free [1]."
    _, answer = await ask(assistant, "tandem")
    assert (answer.text, answer.read_alone) == ("Free [1].", SENTENCES[0])


async def test_a_fault_of_ours_is_none_of_the_endpoint(assistant: Assistant, reader: Reader):
    reader.leads = {SENTENCES[0]: 2.0, SENTENCES[1]: ZeroDivisionError()}
    with pytest.raises(ZeroDivisionError):
        await ask(assistant, "tandem")


async def test_the_passages_are_shown_when_the_model_goes_away_between_the_two(assistant: Assistant, reader: Reader):
    reader.breaks_at = 1
    _, answer = await ask(assistant)
    assert answer.degraded == "retrieval_only"
    assert SENTENCES[1] in answer.text
