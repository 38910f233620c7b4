"""Which adapter gives an answer, and what the model servers are told. The model servers are doubles, for faults."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

import tandem.adapters
from tandem.adapters import ActiveAdapter
from tandem.assistant import Assistant
from tandem.completions import Completion, Completions, Delta
from tandem.database import Database
from tandem.errors import AdapterError, Busy, ModelUnavailable, TandemError
from tandem.registry import AdapterRef, Registry
from tandem.replicas import Replicas
from tandem.schemas import OPERATOR, Answer, Ask, Message, Sampling
from tandem.settings import Settings
from tandem.style import load_style
from tests.adapter_files import add_adapter

NAME = "house-style"
ASK = [{"role": "user", "content": "How?"}]


@dataclass
class ServerDouble:
    """A model server: says which adapter it answers with, in three pieces; `down` and `refused` are its faults."""

    base_url: str = "http://double/v1"
    loaded: list[str] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    down: bool = False
    breaks_after: int = 99
    fault: type[TandemError] = ModelUnavailable
    hold: asyncio.Event | None = None

    def _called(self, call: str, name: str) -> None:
        if self.down:
            raise ModelUnavailable("down")
        self.calls.append((call, name))

    async def load_adapter(self, name: str, path: Path) -> None:
        self._called("load", name)
        if name in self.refused:
            raise AdapterError(f"The model server refuses the adapter {name!r}.")
        self.loaded.append(name)

    async def unload_adapter(self, name: str) -> None:
        self._called("unload", name)
        if name in self.loaded:
            self.loaded.remove(name)

    async def stream(self, messages: Any, model: str, sampling: Sampling) -> AsyncIterator[Delta]:
        self._called("stream", model)
        if "@" in model and model not in self.loaded:
            raise AdapterError(f"The model server has no adapter {model!r}.")
        for number in range(3):
            if number == self.breaks_after:
                raise self.fault("broke")
            yield Delta(text=f"{model} ")
            if self.hold:
                await self.hold.wait()

    async def complete(self, messages: Any, model: str, sampling: Sampling) -> Completion:
        return Completion(text="".join([delta.text async for delta in self.stream(messages, model, sampling)]))


def replicas(*servers: ServerDouble) -> Replicas:
    return Replicas([cast(Completions, server) for server in servers])


async def said(client: Replicas, model: str) -> list[str]:
    return [delta.text.strip() async for delta in client.stream(ASK, model, Sampling())]


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
    registry.start_canary(refs[2], 1.0, "ada")
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


async def test_adapters_reach_every_server_and_requests_are_spread():
    one, two = ServerDouble(), ServerDouble()
    client = replicas(one, two)
    await client.load_adapter("a@1", Path("/a"))
    assert one.loaded == two.loaded == ["a@1"]
    for _ in range(4):
        assert await said(client, "a@1") == ["a@1"] * 3
    assert one.calls.count(("stream", "a@1")) == two.calls.count(("stream", "a@1")) == 2
    one.hold = asyncio.Event()
    held = client.stream(ASK, "a@1", Sampling())
    await anext(held)  # it is the turn of the first, which is busy from now on
    for _ in range(3):
        await said(client, "a@1")
    assert two.calls.count(("stream", "a@1")) == 2 + 3
    await held.aclose()
    await client.unload_adapter("a@1")
    assert one.loaded == two.loaded == []


async def test_a_server_that_is_down_is_passed_over_and_gets_its_adapters_when_it_is_back():
    one, two = ServerDouble(), ServerDouble()
    client = replicas(one, two)
    one.down = True
    await client.load_adapter("a@1", Path("/a"))
    assert [await said(client, "a@1") for _ in range(4)] == [["a@1"] * 3] * 4
    one.down, two.down = False, True
    assert await said(client, "a@1") == ["a@1"] * 3  # and one has loaded it
    assert one.loaded == ["a@1"]
    one.loaded.clear()  # restarted
    assert (await client.complete(ASK, "a@1", Sampling())).text.split() == ["a@1"] * 3
    one.down = True
    with pytest.raises(ModelUnavailable):
        await said(client, "a@1")
    with pytest.raises(ModelUnavailable):
        await client.load_adapter("b@1", Path("/b"))


async def test_an_answer_is_not_finished_by_another_server():
    one, two = ServerDouble(breaks_after=1), ServerDouble(breaks_after=1)
    client = replicas(one, two)
    deltas = client.stream(ASK, "base", Sampling())
    assert (await anext(deltas)).text == "base "
    with pytest.raises(ModelUnavailable):
        await anext(deltas)
    assert len(one.calls) + len(two.calls) == 1


async def test_one_server_that_refuses_an_adapter_is_enough_to_refuse_it():
    one, two = ServerDouble(refused={"a@1"}), ServerDouble()
    client = replicas(one, two)
    with pytest.raises(AdapterError, match="refuses"):
        await client.load_adapter("a@1", Path("/a"))
    assert two.loaded == []
    with pytest.raises(AdapterError):
        await said(client, "a@1")


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
