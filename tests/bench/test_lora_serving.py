"""What an adapter costs in serving on the CPU, beside the base model, with Tandem's plugin for vLLM and without it.

Both models are asked in turn by the same server, with prompts that differ from the first token on, so that no prefix
cache helps. Printed are medians: time to first token of a prompt of 1,000 tokens, and time per token after it; then how
much longer several answers take that are asked for at once than one alone.
"""

import asyncio
import random
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from services.model.lora_plugin import AT_WORK
from services.model.server import ModelServer, on_cpu
from tandem.registry import Registry
from tandem.settings import load_settings

PROMPT_TOKENS = 1000
ANSWER_TOKENS = 33
ROUNDS = {"with": 9, "without": 3}  # without it an adapter's first token takes seconds
AT_MOST = 1.3
AT_ONCE = 4
SHORT_PROMPT_TOKENS = 50

pytestmark = pytest.mark.model


class Cost(NamedTuple):
    """Seconds to the first token, and for each further one."""

    first: float
    further: float


@pytest.mark.parametrize("plugin", ["without", "with"])
async def test_an_adapter_costs_little_more_than_the_base_model(
    plugin: str, tmp_path: Path, base_model: Path, monkeypatch: pytest.MonkeyPatch
):
    if not on_cpu():
        pytest.skip("the plugin is for the CPU")
    # Tests have OpenMP's threads sleep between two operators; a server's do not.
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if plugin == "without":
        monkeypatch.setenv("VLLM_PLUGINS", "")
    settings = load_settings(data_dir=tmp_path / "data")
    assert settings.adapter.shipped is not None
    shipped = Registry(settings.adapter.shipped)
    active = shipped.active(settings.adapter.name)
    assert active is not None
    registry = Registry(settings.registry)
    adapter = registry.add(active.path, shipped.manifest(active))
    registry.promote(adapter, "bench")
    server = ModelServer(settings, base_model, registry)
    await server.start()
    try:
        await server.wait_ready()
        costs = await measure(server.url, ("base", adapter.served), ROUNDS[plugin])
        alone, several = await measure_several(server.url, adapter.served, ROUNDS[plugin])
    finally:
        await server.stop()
    assert (AT_WORK in server.log_path.read_text(encoding="utf-8", errors="replace")) == (plugin == "with")
    base, adapted = costs
    first, further = adapted.first / base.first, adapted.further / base.further
    print(
        f"\n{plugin:>7} the plugin: first token of a {PROMPT_TOKENS}-token prompt {base.first:.2f} s base, "
        f"{adapted.first:.2f} s adapter ({first:.2f}x); a token {base.further * 1e3:.1f} ms base, "
        f"{adapted.further * 1e3:.1f} ms adapter ({further:.2f}x); one short answer {alone:.2f} s, {AT_ONCE} at once "
        f"{several:.2f} s ({several / alone:.2f}x)"
    )
    if plugin == "with":
        assert first <= AT_MOST
        assert further <= AT_MOST
        assert several < AT_ONCE / 2 * alone


async def measure(url: str, models: tuple[str, ...], rounds: int) -> list[Cost]:
    """The median of each model; the first round is not counted."""
    rng = random.Random(4)
    costs: dict[str, list[Cost]] = {model: [] for model in models}
    async with httpx.AsyncClient(base_url=url, timeout=120.0) as client:
        for turn in range(rounds + 1):
            for model in models if turn % 2 else models[::-1]:
                cost = await one(client, model, [rng.randrange(1000, 40_000) for _ in range(PROMPT_TOKENS)])
                if turn:
                    costs[model].append(cost)
    return [
        Cost(statistics.median(cost.first for cost in each), statistics.median(cost.further for cost in each))
        for each in costs.values()
    ]


async def measure_several(url: str, model: str, rounds: int) -> tuple[float, float]:
    """Seconds until one answer has ended, and until all have of several that are asked for at once."""
    rng = random.Random(5)
    taken: dict[int, list[float]] = {1: [], AT_ONCE: []}
    async with httpx.AsyncClient(base_url=url, timeout=120.0) as client:
        for _ in range(rounds):
            for count, seconds in taken.items():
                prompts = [[rng.randrange(1000, 40_000) for _ in range(SHORT_PROMPT_TOKENS)] for _ in range(count)]
                started = time.perf_counter()
                await asyncio.gather(*(one(client, model, prompt) for prompt in prompts))
                seconds.append(time.perf_counter() - started)
    return statistics.median(taken[1]), statistics.median(taken[AT_ONCE])


async def one(client: httpx.AsyncClient, model: str, prompt: list[int]) -> Cost:
    body = {"model": model, "prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0, "stream": True}
    came: list[float] = []
    started = time.perf_counter()
    async with client.stream("POST", "completions", json=body | {"ignore_eos": True}) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                came.append(time.perf_counter())
    return Cost(came[0] - started, (came[-1] - came[0]) / (ANSWER_TOKENS - 1))
