"""Several model servers behind one client, and what it does when one of them fails."""

import asyncio
from pathlib import Path

import pytest

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
