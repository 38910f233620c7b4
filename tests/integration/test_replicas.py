"""Two real vLLM servers behind one client: adapters reach both, and one alone answers when the other is gone."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from services.model.server import ModelServer
from tandem.adapters import ActiveAdapter
from tandem.completions import Completions
from tandem.errors import ModelUnavailable
from tandem.registry import AdapterRef, Registry
from tandem.replicas import Replicas
from tandem.schemas import Sampling
from tandem.settings import load_settings

QUESTION = [{"role": "user", "content": "Name three colours."}]
SHORT = Sampling(max_tokens=8)


@pytest.fixture
async def second(model_server, base_model: Path, tmp_path: Path) -> AsyncIterator[ModelServer]:
    server = ModelServer(load_settings(data_dir=tmp_path / "second"), base_model, Registry(tmp_path / "none"))
    await server.start()
    await server.wait_ready()
    yield server
    await server.stop()


async def answer(client: Replicas, ref: AdapterRef) -> str:
    return "".join([delta.text async for delta in client.stream(QUESTION, ref.served, SHORT)])


@pytest.mark.model
async def test_a_promotion_reaches_both_and_one_alone_answers(
    model_server, second: ModelServer, make_adapter: Callable[..., AdapterRef], tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "registry")
    old, new = (make_adapter(registry, tmp_path / str(seed), seed=seed) for seed in (31, 32))
    clients = [Completions(url, None, 60.0) for url in (model_server.url, second.url)]
    both = Replicas(clients)
    active = ActiveAdapter(registry, both, "house-style")
    try:
        for ref in (old, new):
            async with active.ready(ref):
                registry.promote(ref, "tests")
            assert all([ref.served in await client.models() for client in clients])
        async with active.speaker("a conversation") as speaking:
            assert speaking == new
            assert all([await answer(both, new) for _ in range(4)])
        for client in clients:  # each of them speaks with it
            base = await client.complete(QUESTION, "base", SHORT)
            assert (await client.complete(QUESTION, new.served, SHORT)).text != base.text
        await clients[1].unload_adapter(new.served)  # as if it had been restarted
        assert all([await answer(both, new) for _ in range(2)])
        assert new.served in await clients[1].models()
        await second.stop()
        assert all([await answer(both, new) for _ in range(3)])
        with pytest.raises(ModelUnavailable):
            await clients[1].models()
    finally:
        for ref in (old, new):
            await clients[0].unload_adapter(ref.served)
        await both.aclose()
