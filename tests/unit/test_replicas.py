"""Several model servers behind one client, and what it does when one of them fails."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import tandem.completions
import tandem.replicas
from tandem.completions import Completions
from tandem.errors import AdapterError, ModelUnavailable
from tandem.schemas import Sampling
from tests.server_double import ASK, ServerDouble, replicas, said


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


async def test_a_frozen_server_keeps_nobody_waiting_and_gets_the_adapter_later(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tandem.replicas, "_OTHERS", 0.05)
    one, two = ServerDouble(frozen=asyncio.Event()), ServerDouble()
    client = replicas(one, two)
    async with asyncio.timeout(1):
        await client.load_adapter("a@1", Path("/a"))
        assert (one.loaded, two.loaded) == ([], ["a@1"])
        assert one.frozen
        one.frozen.set()
        assert [await said(client, "a@1") for _ in range(4)] == [["a@1"] * 3] * 4
        assert "a@1" in one.loaded
        one.frozen.clear()
        await client.unload_adapter("a@1")
        assert two.loaded == []
        one.down = True
        one.frozen.set()
        two.down = True
        with pytest.raises(ModelUnavailable):
            await client.load_adapter("b@1", Path("/b"))
    await asyncio.sleep(0)


async def test_a_refusal_is_not_kept_waiting_by_a_frozen_server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tandem.replicas, "_OTHERS", 0.05)
    one, two = ServerDouble(frozen=asyncio.Event()), ServerDouble(refused={"a@1"})
    async with asyncio.timeout(1):
        with pytest.raises(AdapterError, match="refuses"):
            await replicas(one, two).load_adapter("a@1", Path("/a"))


@asynccontextmanager
async def endpoint(status: int | None) -> AsyncIterator[Completions]:
    """A real client of a real server, which answers each call with this status, or never."""
    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.current_task())
        if status is None:
            await reader.read()  # until the client hangs up
        else:
            head = await reader.readuntil(b"\r\n\r\n")  # closed with something unread, a connection is reset
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            body = b'{"error": {"message": "Engine core is dead"}}'
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    client = Completions(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", None, 30.0)
    try:
        yield client
    finally:
        await client.aclose()
        server.close()
        await asyncio.gather(*answering, return_exceptions=True)  # else a connection may outlive its loop


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_a_server_that_fails_has_not_refused_the_adapter(status: int):
    async with endpoint(status) as client:
        for call in (client.load_adapter("a@1", Path("/a")), client.unload_adapter("a@1")):
            with pytest.raises(ModelUnavailable, match=f"status {status}.*Engine core is dead"):
                await call


async def test_a_server_that_refuses_an_adapter_does():
    async with endpoint(400) as client:
        with pytest.raises(AdapterError, match="refuses the adapter 'a@1': Engine core is dead"):
            await client.load_adapter("a@1", Path("/a"))


async def test_a_server_that_falls_silent_is_not_waited_for_as_long_as_for_an_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tandem.completions, "_ADAPTER_TIMEOUT", 0.2)
    async with endpoint(None) as client:
        started = time.monotonic()
        with pytest.raises(ModelUnavailable, match=r"did not load or unload an adapter within 0\.2 s"):
            await client.load_adapter("a@1", Path("/a"))
        assert time.monotonic() - started < 10
