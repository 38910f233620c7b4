"""Promotion and rollback while people chat: the real service, the real vLLM, the official client."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tandem.canary import conversation_key
from tandem.registry import WEIGHTS, AdapterRef, Registry

pytestmark = pytest.mark.model

CLIENTS = 8
LIVE_WITHIN = 1.0  # seconds
QUESTIONS = (
    "How much is the daily meal allowance for domestic trips?",
    "How long is the warranty period for Brook 2 meters?",
    "How many days of annual leave do I have?",
    "When must a security incident be reported?",
)


@dataclass(frozen=True)
class Given:
    """An answer: when it was asked for, when its first text came, and what its receipt says."""

    asked: float
    began: float
    adapter: str | None
    degraded: str | None
    text: str


@dataclass
class Crowd:
    """Clients that chat until they are told to stop."""

    url: str
    given: list[Given] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Crowd":
        self._threads = [threading.Thread(target=self._chat, args=(n,)) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(120)

    def wait_for(self, count: int, *, asked_after: float, timeout: float = 90) -> None:
        """Waits until some answers that were asked for after a moment have been given."""
        deadline = time.monotonic() + timeout
        while sum(given.asked > asked_after for given in self.given) < count and not self.failures:
            assert time.monotonic() < deadline, f"{count} answers took over {timeout} s"
            time.sleep(0.1)

    def _chat(self, number: int) -> None:
        client = OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=90)
        turn = number
        while not self.stop.is_set():
            try:
                self.given.append(self._ask(client, QUESTIONS[turn % len(QUESTIONS)]))
            except BaseException as exc:
                self.failures.append(exc)
            turn += 1

    def _ask(self, client: OpenAI, question: str) -> Given:
        asked, began, text, receipt = time.monotonic(), 0.0, "", None
        messages = [{"role": "user", "content": question}]
        shorter = {"tandem": {"top_k": 1}}
        stream = client.chat.completions.create(
            model="tandem", messages=messages, max_tokens=12, stream=True, extra_body=shorter
        )
        for chunk in stream:
            piece = chunk.choices[0].delta.content or ""
            began = began or (time.monotonic() if piece else 0.0)
            text += piece
            receipt = getattr(chunk, "tandem", receipt)
        assert receipt is not None, "a stream without a receipt"
        return Given(asked, began, receipt["adapter"], receipt["degraded"], text)


@pytest.fixture
def two(up, base_model, tmp_path: Path, make_adapter) -> Iterator[tuple[AdapterRef, AdapterRef]]:
    """The active version of the running service, and a candidate that speaks otherwise."""
    registry = Registry(up.data_dir / "adapters")
    old = registry.active("house-style")
    assert old is not None
    new = make_adapter(registry, tmp_path / "candidate", seed=11, scale=0.02)
    yield old, new
    if registry.active("house-style") != old:
        registry.promote(old, "tests")
    httpx.post(f"{up.url}/v1/chat/completions", json=_body("Where is the office?"), timeout=60)  # loads it again


def _body(question: str, **tandem: object) -> dict[str, object]:
    messages = [{"role": "user", "content": question}]
    return {"model": "tandem", "messages": messages, "max_tokens": 8, "tandem": tandem}


def test_a_promotion_and_a_rollback_under_load(up, two):
    old, new = two
    changes = [(0.0, 0.0, old.served)]  # begun, done, what is active then
    with Crowd(up.url) as crowd:
        crowd.wait_for(4, asked_after=0)
        for path, body, served in (
            (f"{up.url}/v1/adapters/house-style/promote", {"digest": new.digest}, new.served),
            (f"{up.url}/v1/adapters/house-style/rollback", None, old.served),
            (f"{up.url}/v1/adapters/house-style/promote", {"digest": new.digest}, new.served),
        ):
            begun = time.monotonic()
            answer = httpx.post(path, json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            assert answer.json()["served"] == served
            changes.append((begun, time.monotonic(), served))
            crowd.wait_for(4, asked_after=time.monotonic() + LIVE_WITHIN)
    assert crowd.failures == []
    assert {given.adapter for given in crowd.given} == {old.served, new.served}
    assert all(given.degraded is None and given.text for given in crowd.given)
    for given in crowd.given:
        # Asked for over a second after a change: then it is the new one's. Before that, the old one may still be.
        settled = [served for _, done, served in changes if done + LIVE_WITHIN <= given.asked]
        moving = [
            served for begun, done, served in changes if done + LIVE_WITHIN > given.asked and begun <= given.began
        ]
        assert given.adapter in (settled[-1:] + moving), (given, changes)
    told = {"answers": len(crowd.given), "seconds": round(crowd.given[-1].began - crowd.given[0].asked, 1)}
    for begun, done, served in changes[1:]:
        first = min(given.began for given in crowd.given if given.adapter == served and given.began >= begun)
        told[f"change at {begun - changes[1][0]:.0f} s"] = (
            f"took {done - begun:.2f} s, first text at {first - begun:.2f} s"
        )
    sys.stderr.write(f"{json.dumps(told)}\n")  # the figures, shown by pytest -s


def test_a_canary_keeps_to_its_conversations_and_is_stopped(up, two):
    old, new = two
    started = up.cli("adapters", "canary", new.served, "--share", "0.5", "--json")
    assert started.returncode == 0, started.stderr
    assert json.loads(started.stdout)["canary"] == 0.5

    canary, _ = Registry(up.data_dir / "adapters").canary("house-style")
    names = [f"conversation {number}" for number in range(40)]
    taken = [name for name in names if canary.takes(conversation_key("local", "", name))][:2]
    left = [name for name in names if not canary.takes(conversation_key("local", "", name))][:2]

    def adapter(conversation: str, question: str, model: str = "tandem") -> str:
        body = _body(question, conversation=conversation, top_k=1) | {"model": model}
        return httpx.post(f"{up.url}/v1/chat/completions", json=body, timeout=90).json()["tandem"]["adapter"]

    for question, model in ((QUESTIONS[0], "tandem"), (QUESTIONS[1], "tandem-style")):
        assert {adapter(name, question, model) for name in taken} == {new.served}
        assert {adapter(name, question, model) for name in left} == {old.served}
    state = httpx.get(f"{up.url}/v1/adapters/house-style/canary").json()["running"]
    assert (state["candidate"]["conversations"], state["active"]["conversations"]) == (2, 2)
    assert (state["enough"], state["behind"]) == (False, [])
    stopped = up.cli("adapters", "canary", "house-style", "--stop")
    assert "on trial no more" in stopped.stdout, stopped.stderr
    assert {adapter(name, QUESTIONS[0], "tandem-style") for name in taken} == {old.served}


def test_a_truncated_adapter_is_refused_while_the_old_one_answers(up, two):
    old, new = two
    whole = (new.path / WEIGHTS).read_bytes()
    (new.path / WEIGHTS).write_bytes(whole[:-1000])
    try:
        refused = up.cli("adapters", "promote", new.served)
        assert refused.returncode == 1
        assert "not those it was registered with" in refused.stderr
        answered = httpx.post(f"{up.url}/v1/chat/completions", json=_body(QUESTIONS[0]), timeout=60).json()
        assert (answered["tandem"]["adapter"], answered["tandem"]["degraded"]) == (old.served, None)
    finally:
        (new.path / WEIGHTS).write_bytes(whole)
