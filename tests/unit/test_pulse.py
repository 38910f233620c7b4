"""A vLLM that runs and gives no token is started again; one that is only busy is left alone."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.model.pulse import tokens_given
from services.model.server import ModelServer
from tandem.registry import Registry
from tandem.settings import load_settings
from tests import model_process_double

pytestmark = pytest.mark.filterwarnings("error")


class Jammed(ModelServer):
    """A supervised process that stops answering while a file is there."""

    jam: Path

    def command(self) -> list[str]:
        return [sys.executable, "-S", model_process_double.__file__, str(self._port), str(self.jam)]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Any]:
    (tmp_path / "config.json").write_text("{}")
    model = {"hang_timeout": 0.6, "startup_timeout": 5.0}
    settings = load_settings(data_dir=tmp_path / "data", model=model)
    server = Jammed(settings, tmp_path, Registry(settings.registry))
    server.jam = tmp_path / "jam"
    await server.start()
    try:
        await server.wait_ready()
        yield server
    finally:
        await server.stop()


async def restarted(server: ModelServer, times: int) -> None:
    async with asyncio.timeout(40):
        while server.restarts < times:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("how", ["idle", "mute"])
async def test_one_that_hangs_is_started_again(server: Jammed, how: str):
    before = server.pid
    await asyncio.sleep(1.0)
    assert server.restarts == 0  # it is asked again and again, and answers
    server.jam.write_text(how)
    await restarted(server, 1)
    server.jam.unlink()
    await server.wait_ready()
    assert server.pid not in (None, before)


async def test_one_that_gives_tokens_to_others_is_not(server: Jammed):
    server.jam.write_text("busy")
    await asyncio.sleep(3.0)
    assert server.restarts == 0
    server.jam.write_text("idle")
    await restarted(server, 1)


async def test_one_that_hangs_at_its_second_start_is_started_once_more(server: Jammed):
    server.jam.write_text("idle")
    await restarted(server, 2)
    server.jam.unlink()
    await server.wait_ready()


async def test_how_many_tokens_it_has_given(server: Jammed):
    async with httpx.AsyncClient() as client:
        assert await tokens_given(client, server.url) == 1.0
        assert await tokens_given(client, "http://127.0.0.1:9/v1") is None


async def test_nothing_goes_on_after_the_end(server: Jammed):
    await server.stop()
    await asyncio.sleep(0.1)
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("vllm")] == []
