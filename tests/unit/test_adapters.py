"""Which adapter gives an answer, and what the model servers are told. The model servers are doubles, for faults."""

import asyncio
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

import tandem.adapters
from eval.canary import judge
from services.chat.admission import Admission
from services.chat.completion import CompletionResponse
from services.chat.metrics import Metrics
from tandem.adapters import ActiveAdapter
from tandem.assistant import Assistant
from tandem.canary import conversation_key
from tandem.database import Database
from tandem.errors import AdapterError, Busy, ModelUnavailable
from tandem.evidence import Evidence, Look
from tandem.manifest import Threshold
from tandem.registry import AdapterRef, Gate, Registry
from tandem.schemas import OPERATOR, Answer, Ask, Message, Passage
from tandem.settings import Settings
from tandem.style import load_style
from tandem.tables import AnswerRow
from tests.adapter_files import NOW, add_adapter
from tests.server_double import ServerDouble, replicas

NAME = "house-style"


async def speaks(active: ActiveAdapter, conversation: str = "c") -> AdapterRef | None:
    async with active.speaker(conversation) as ref:
        return ref


@pytest.fixture
def server() -> ServerDouble:
    return ServerDouble()


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
def refs(registry: Registry, tmp_path: Path) -> list[AdapterRef]:
    """Four versions, none of them active."""
    return [add_adapter(registry, tmp_path / str(seed), seed) for seed in range(4)]


@pytest.fixture
def active(registry: Registry, server: ServerDouble) -> ActiveAdapter:
    return ActiveAdapter(registry, replicas(server), NAME)


async def test_the_pointer_is_followed_and_each_version_is_loaded_once(active, registry, server, refs):
    assert await speaks(active) is None
    assert "promoted" in active.problem
    for ref in (refs[0], refs[1], refs[0]):
        registry.promote(ref, "ada")
        assert [await speaks(active) for _ in range(3)] == [ref] * 3
    assert [name for call, name in server.calls if call == "load"] == [refs[0].served, refs[1].served]
    assert active.problem is None


async def test_an_answer_keeps_its_adapter_loaded_and_what_is_done_with_is_unloaded(active, registry, server, refs):
    registry.promote(refs[0], "ada")
    async with active.speaker("c") as speaking:
        assert speaking == refs[0]
        for ref in refs[1:]:
            registry.promote(ref, "ada")
            await speaks(active)
            await active.tidy()
        assert refs[0].served in server.loaded  # the answer is still being given
    await asyncio.sleep(0.05)
    # What answers, and what a rollback goes back to at once.
    assert set(server.loaded) == {refs[3].served, refs[2].served}


async def test_what_does_not_load_leaves_the_old_one_speaking_with_the_reason(active, registry, server, refs):
    registry.promote(refs[0], "ada")
    await speaks(active)
    server.refused.add(refs[1].served)
    registry.promote(refs[1], "ada")
    assert [await speaks(active) for _ in range(5)] == [refs[0]] * 5
    assert "refuses the adapter" in active.problem
    assert "refuses" in active.refusal(refs[1])
    assert server.calls.count(("load", refs[1].served)) == 1  # not tried again with every answer
    (registry.root / NAME / "active").write_text("0" * 64)
    assert await speaks(active) == refs[0]
    assert "is not in" in active.problem


async def test_what_does_not_load_at_the_first_start_leaves_the_base_model(active, registry, server, refs):
    registry.promote(refs[0], "ada")
    server.refused.add(refs[0].served)
    assert await speaks(active) is None
    assert "refuses" in active.problem


async def test_a_version_is_ready_before_it_is_promoted(active, registry, server, refs):
    registry.promote(refs[0], "ada")
    await speaks(active)
    async with active.ready(refs[1]):
        await active.tidy()
        assert refs[1].served in server.loaded
        registry.promote(refs[1], "ada")
    assert await speaks(active) == refs[1]
    server.refused.add(refs[2].served)
    with pytest.raises(AdapterError, match="refuses"):
        async with active.ready(refs[2]):
            raise AssertionError("a refused adapter must not become active")


async def test_the_newest_that_passed_its_gate_is_loaded_before_anybody_promotes_it(active, registry, server, tmp_path):
    made = [NOW + timedelta(days=n) for n in range(4)]
    old, passed = (
        add_adapter(registry, tmp_path / str(n), n, created_at=made[n], gate=Gate(passed=True)) for n in (0, 1)
    )
    registry.promote(old, "ada")
    for _ in range(2):
        await active.prepare()
        await active.tidy()
        assert server.loaded == [passed.served]
    failed = add_adapter(registry, tmp_path / "2", 2, created_at=made[2], gate=Gate(passed=False))
    await active.prepare()
    assert failed.served not in server.loaded
    refused = add_adapter(registry, tmp_path / "3", 3, created_at=made[3], gate=Gate(passed=True))
    server.refused.add(refused.served)
    await active.prepare()
    assert await speaks(active) == old


async def test_a_candidate_gets_its_share_and_a_refused_one_gets_none(active, registry, server, refs):
    registry.promote(refs[0], "ada")
    registry.start_canary(refs[1], 0.3, "ada")
    conversations = [f"ada\nQuestion {n}?" for n in range(200)]
    first = [await speaks(active, key) for key in conversations]
    assert 40 <= first.count(refs[1]) <= 80
    assert first == [await speaks(active, key) for key in conversations]
    await active.tidy()
    assert {refs[0].served, refs[1].served} == set(server.loaded)
    registry.withdraw_canary(NAME, "ada")
    assert {await speaks(active, key) for key in conversations} == {refs[0]}
    server.refused.add(refs[2].served)
    registry.start_canary(refs[2], 0.999, "ada")
    assert {await speaks(active, key) for key in conversations} == {refs[0]}
    assert "refuses" in active.refusal(refs[2])


async def test_a_deletion_waits_for_answers(active, registry, server, refs, monkeypatch):
    monkeypatch.setattr(tandem.adapters, "_LAST_ANSWERS", 0.3)
    registry.promote(refs[0], "ada")
    async with active.speaker("c"):
        registry.promote(refs[1], "ada")
        with pytest.raises(Busy, match="still answering"):
            await active.unload(refs[0])
        assert refs[0].served in server.loaded
    await active.unload(refs[0])
    assert refs[0].served not in server.loaded


@pytest.fixture
def assistant(active: ActiveAdapter, server: ServerDouble, settings: Settings) -> Iterator[Assistant]:
    database = Database(settings.database)
    database.migrate()
    unused: Any = None
    yield Assistant(unused, unused, replicas(server), active, database, load_style(settings.style), settings)
    database.close()


async def answer_of(assistant: Assistant, **options: Any) -> Answer:
    ask = Ask(messages=(Message(role="user", content="How?"),), arm="style", principal=OPERATOR, **options)
    *_, answer = [event async for event in assistant.answer(ask)]
    assert isinstance(answer, Answer)
    return answer


class OnePassage:
    """In the place of retriever and evidence: finds the same passage for every question."""

    def retrieve(self, question: str, *_: object) -> list[Passage]:
        passage = Passage(n=1, document_id="d", version_id="v", chunk_id="c", title="T", quote="So.", similarity=0.9)
        return [passage]

    def select(self, question: str, passages: list[Passage]) -> Evidence:
        return Evidence(tuple(passages))


@pytest.mark.parametrize(
    ("arm", "bias"), [("tandem", ((57, -0.5),)), ("style", ()), ("rag", ()), ("base", ())], ids=lambda each: str(each)
)
async def test_the_threshold_for_declining_is_the_adapters_and_for_answers_from_sources(
    active, registry, server, settings, tmp_path, arm, bias
):
    registry.promote(add_adapter(registry, tmp_path / "new", 9, threshold=Threshold(token=57, bias=-0.5)), "ada")
    database = Database(settings.database)
    database.migrate()
    found: Any = OnePassage()
    house = Assistant(found, found, replicas(server), active, database, load_style(settings.style), settings)
    ask = Ask(messages=(Message(role="user", content="How?"),), arm=arm, principal=OPERATOR)
    assert [event async for event in house.answer(ask)]
    assert [sampling.bias for sampling in server.samplings] == [bias]
    database.close()


class OneLook(OnePassage):
    """A passage whose one sentence is asked about alone, and is likely to answer."""

    def select(self, question: str, passages: list[Passage]) -> Evidence:
        return Evidence(tuple(passages), (Look(passages[0], 0.9, 1.5),))


async def test_an_answer_is_asked_for_with_what_its_evidence_tells(active, registry, server, settings, tmp_path):
    threshold = Threshold(token=57, bias=-0.5, odds=-2.0)
    registry.promote(add_adapter(registry, tmp_path / "new", 9, threshold=threshold), "ada")
    database = Database(settings.database)
    database.migrate()
    found: Any = OneLook()
    house = Assistant(found, found, replicas(server), active, database, load_style(settings.style), settings)
    ask = Ask(messages=(Message(role="user", content="How?"),), arm="tandem", principal=OPERATOR)
    assert [event async for event in house.answer(ask)]
    assert [sampling.bias for sampling in server.samplings] == [((57, -3.5),)]
    database.close()


async def test_declining_is_held_back_by_how_likely_a_sentence_answers(active, registry, tmp_path):
    first = add_adapter(registry, tmp_path / "new", 9, threshold=Threshold(token=57, bias=-0.5, odds=-2.0))
    assert active.bias(first) == ((57, -0.5),)
    assert active.bias(first, 1.5) == ((57, -3.5),)
    assert active.bias(first, -2.5) == ()
    plain = add_adapter(registry, tmp_path / "other", 8)
    assert active.bias(plain, 1.5) == ()


async def test_the_receipt_names_the_one_adapter_that_spoke(assistant, registry, server, refs):
    registry.promote(refs[0], "ada")
    registry.start_canary(refs[1], 0.5, "ada")
    seen = set()
    for number in range(12):
        answer = await answer_of(assistant, conversation=f"conversation {number}")
        assert set(answer.text.split()) == {answer.adapter}
        assert (await answer_of(assistant, conversation=f"conversation {number}")).adapter == answer.adapter
        seen.add(answer.adapter)
    assert seen == {refs[0].served, refs[1].served}


async def test_the_base_model_answers_for_an_adapter_that_fails_but_never_finishes_its_answer(
    assistant, registry, server, refs
):
    registry.promote(refs[0], "ada")
    server.breaks_after, server.fault = 0, AdapterError
    with pytest.raises(AdapterError):  # the double fails for the base model too
        await answer_of(assistant)
    assert [name for call, name in server.calls if call == "stream"][-1] == "base"
    server.calls.clear()
    server.breaks_after = 1
    with pytest.raises(AdapterError):
        await answer_of(assistant)
    assert "base" not in [name for _, name in server.calls]


@pytest.mark.parametrize(
    ("fault", "breaks_after", "degraded"),
    [(AdapterError, 0, "no_adapter"), (ModelUnavailable, 0, "retrieval_only"), (ModelUnavailable, 1, "broken")],
)
@pytest.mark.parametrize("loaded", [True, False])
async def test_the_receipt_of_a_failure_names_the_candidate_whose_turn_it_was(
    active, registry, server, refs, settings, fault, breaks_after, degraded, loaded
):
    registry.promote(refs[0], "ada")
    registry.start_canary(refs[1], 0.5, "ada")
    trial = registry.canary(NAME)
    name = next(str(n) for n in range(99) if trial[0].takes(conversation_key(OPERATOR.user, "How?", str(n))))
    assert active.meant_for(conversation_key(OPERATOR.user, "How?", name)) == refs[1]
    server.breaks_after, server.fault, server.faulty = breaks_after, fault, refs[1].served
    if not loaded:  # every call to the model server fails
        server.down, degraded = True, "retrieval_only"
    database = Database(settings.database)
    database.migrate()
    found: Any = OnePassage()
    house = Assistant(found, found, replicas(server), active, database, load_style(settings.style), settings)
    ask = Ask(messages=(Message(role="user", content="How?"),), arm="tandem", principal=OPERATOR, conversation=name)
    with suppress(ModelUnavailable) if degraded == "broken" else nullcontext():
        assert [event async for event in house.answer(ask)]
    with database.session() as session:
        (row,) = session.scalars(select(AnswerRow)).all()
        assert row.adapter is None
        assert (row.receipt["failed_adapter"], row.receipt["degraded"]) == (refs[1].served, degraded)
    judgement = judge(database, registry, NAME, settings.canary)
    assert (judgement.candidate.failed, judgement.candidate.conversations, judgement.active.conversations) == (1, 1, 0)
    database.close()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("arm", "counted"), [("style", 1.0), ("base", None)])
async def test_an_answer_that_an_adapter_breaks_off_is_counted(assistant, registry, server, refs, stream, arm, counted):
    registry.promote(refs[0], "ada")
    server.breaks_after = 1
    metrics = Metrics()
    ask = Ask(messages=(Message(role="user", content="How?"),), arm=arm, principal=OPERATOR)
    response = CompletionResponse(assistant, ask, "tandem", Admission(1, 1), metrics, stream=stream)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    with nullcontext() if stream else pytest.raises(ModelUnavailable):
        await response({"type": "http"}, asyncio.Event().wait, send)
    assert metrics.registry.get_sample_value("tandem_degraded_total", {"reason": "broken"}) == counted
    assert metrics.registry.get_sample_value("tandem_requests_total", {"arm": arm, "status": "503"}) == 1
    assert (b"broke" in b"".join(message.get("body", b"") for message in sent)) == stream
    assert metrics.registry.get_sample_value("tandem_total_seconds_count", {"arm": arm}) is None  # it was not whole
