"""Base model and two adapters in the same steps of vLLM: each answers as it does alone, and the plugin is at work."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import httpx
import pytest

from services.model.lora_plugin import AT_WORK
from tandem.registry import AdapterRef

TOKENS = 48
QUESTIONS = ("Why is the sky blue?", "Tell me a story about a lighthouse.", "How do I boil an egg?")
# The number of rows decides how a matrix product is split, and bfloat16 rounds by it, layer after layer: a lead was
# seen to move by 0.75. A row with another adapter's weights is off by more, which the test sees for itself.
MOVED = 1.5
STEPS = "vllm:iteration_tokens_total_count"

pytestmark = pytest.mark.model


class Token(NamedTuple):
    """A token with its lead (log probability) over the next best."""

    text: str
    lead: float


@pytest.fixture(scope="module")
def second(
    model_server, make_adapter: Callable[..., AdapterRef], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AdapterRef]:
    """Another adapter, the last of as many as fill vLLM's slots beside the active one: the last slot is at stake."""
    refs = []
    for seed in range(1, model_server.settings.model.max_loras):
        folder = tmp_path_factory.mktemp(f"other-{seed}")
        refs.append(make_adapter(model_server.registry, folder, seed=seed + 8, scale=0.1))
    with httpx.Client(base_url=model_server.url, timeout=120.0) as client:
        for ref in [model_server.adapter, *refs]:
            model_server.run(model_server.server.load_adapter(ref))
            question = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
            client.post("chat/completions", json={"model": ref.served} | question).raise_for_status()  # takes its slot
    yield refs[-1]
    for ref in refs:
        model_server.run(model_server.server.unload_adapter(ref))


def test_the_plugin_is_at_work_in_the_running_server(model_server):
    log = model_server.server.log_path.read_text(encoding="utf-8", errors="replace")
    worker = [line for line in log.splitlines() if AT_WORK in line]
    assert worker, "vLLM runs without Tandem's plugin: its entry point is new; run `make install`"


async def test_in_one_batch_each_answers_as_alone(model_server, second: AdapterRef):
    models = ("base", model_server.adapter.served, second.served)
    told_apart = set()
    async with httpx.AsyncClient(base_url=model_server.url, timeout=120.0) as client:
        for turn, question in enumerate(QUESTIONS):
            alone = [await answer(client, model, question) for model in models]
            said = ["".join(token.text for token in each) for each in alone]
            assert len(set(said)) == len(models), "answers that are the same prove nothing"
            # Whichever comes first gets the first rows: each model has its turn.
            order = [*models[turn:], *models[:turn]]
            answers = dict(zip(order, await together(client, order, question), strict=True))
            for model, expected in zip(models, alone, strict=True):
                assert_same(expected, answers[model], model)
                told_apart |= {(model, other) for other in models if not is_same(expected, answers[other], model)}
    # Leaked weights would look like the other's answer, which one of the questions at least finds out.
    assert told_apart == set(permutations(models, 2))


async def test_base_rows_before_between_and_behind(model_server, second: AdapterRef):
    models = ("base", second.served, "base", model_server.adapter.served, "base")
    async with httpx.AsyncClient(base_url=model_server.url, timeout=120.0) as client:
        alone = {model: await answer(client, model, QUESTIONS[0]) for model in set(models)}
        for model, mixed in zip(models, await together(client, models, QUESTIONS[0]), strict=True):
            assert_same(alone[model], mixed, model)


async def together(client: httpx.AsyncClient, models: Sequence[str], question: str) -> list[list[Token]]:
    """Asks all at once, and sees that they were answered in the same steps."""
    before = await steps(client)
    answers = await asyncio.gather(*(answer(client, model, question) for model in models))
    taken = await steps(client) - before
    alone = len(models) * TOKENS
    assert taken < alone / 2, f"{taken} steps for {len(models)} answers of {TOKENS} tokens: one after the other"
    return answers


async def steps(client: httpx.AsyncClient) -> int:
    """The forward passes that vLLM has made."""
    metrics = (await client.get("../metrics")).raise_for_status().text
    counts = [line.rsplit(" ", 1)[1] for line in metrics.splitlines() if line.startswith(f"{STEPS}{{")]
    return round(sum(map(float, counts)))


async def answer(client: httpx.AsyncClient, model: str, question: str) -> list[Token]:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": TOKENS}
    body |= {"temperature": 0, "stream": True, "logprobs": True, "top_logprobs": 2, "ignore_eos": True}
    tokens: list[Token] = []
    async with client.stream("POST", "chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            for entry in (json.loads(line[6:])["choices"][0].get("logprobs") or {"content": []})["content"]:
                best, next_best = (each["logprob"] for each in entry["top_logprobs"])
                tokens.append(Token(entry["token"], best - next_best))
    assert len(tokens) == TOKENS
    return tokens


def is_same(alone: list[Token], mixed: list[Token], model: str) -> bool:
    try:
        assert_same(alone, mixed, model)
    except AssertionError:
        return False
    return True


def assert_same(alone: list[Token], mixed: list[Token], model: str) -> None:
    """The same tokens as surely, up to the first that another one overtook within what a lead may move."""
    for number, (expected, got) in enumerate(zip(alone, mixed, strict=True)):
        overtaken = expected.text != got.text
        moved = expected.lead + got.lead if overtaken else abs(expected.lead - got.lead)
        assert moved <= MOVED, (
            f"{model} says {got.text!r} at token {number} with a lead of {got.lead:.2f}, and alone {expected.text!r} "
            f"with one of {expected.lead:.2f}: {''.join(token.text for token in mixed)!r}"
        )
        if overtaken:
            return
