"""One or several model servers with the same base model: requests are spread, and adapters reach each of them."""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tandem.completions import Completion, Completions, Delta
from tandem.errors import AdapterError, ModelUnavailable
from tandem.schemas import Sampling

log = logging.getLogger(__name__)

T = TypeVar("T")

_PAUSE = 5.0  # seconds for which one that failed is asked last
_OTHERS = 1.0  # seconds that the others get for loading an adapter when one has it


@dataclass
class _Replica:
    client: Completions
    running: int = 0
    failed_until: float = 0.0


class Replicas:
    """Speaks to the least busy model server, and to the next one when that does not answer.

    A server that was restarted has lost its adapters: they are loaded there again when the first request misses them.

    Args:
        clients: One for each model server, at least one.
    """

    def __init__(self, clients: Sequence[Completions]) -> None:
        self._replicas = [_Replica(client) for client in clients]
        self._adapters: dict[str, Path] = {}
        self._turns = itertools.count()
        self._calls: set[asyncio.Task[Exception | None]] = set()  # those that nobody waits for any more, too

    async def aclose(self) -> None:
        """Closes the connections."""
        for call in self._calls:
            call.cancel()
        for replica in self._replicas:
            await replica.client.aclose()

    async def stream(
        self, messages: Sequence[Mapping[str, str]], model: str, sampling: Sampling
    ) -> AsyncIterator[Delta]:
        """Completes a conversation, piece by piece, on one server: once there is text, another does not go on with it.

        Args and errors are those of `Completions.stream`.
        """
        problem: ModelUnavailable | None = None
        for replica in self._in_turn():
            spoke = False
            replica.running += 1
            try:
                for again in (False, True):
                    try:
                        deltas = replica.client.stream(messages, model, sampling)
                        async with aclosing(deltas):  # type: ignore[type-var]
                            async for delta in deltas:
                                spoke = spoke or bool(delta.text)
                                yield delta
                        return
                    except AdapterError:
                        if spoke or again or not await self._reload(replica, model):
                            raise
            except ModelUnavailable as exc:
                if spoke:
                    raise
                problem = self._failed(replica, exc)
            finally:
                replica.running -= 1
        assert problem is not None
        raise problem

    async def complete(self, messages: Sequence[Mapping[str, str]], model: str, sampling: Sampling) -> Completion:
        """Completes a conversation at once. Raises what `stream` raises."""
        return await self._somewhere(lambda client: client.complete(messages, model, sampling), model)

    async def lead(self, messages: Sequence[Mapping[str, str]], model: str, opening: str) -> float | None:
        """How far one beginning is ahead of any other, as `Completions.lead`."""
        return await self._somewhere(lambda client: client.lead(messages, model, opening), model)

    async def _somewhere(self, call: Callable[[Completions], Awaitable[T]], model: str) -> T:
        problem: ModelUnavailable | None = None
        for replica in self._in_turn():
            replica.running += 1
            try:
                try:
                    return await call(replica.client)
                except AdapterError:
                    if not await self._reload(replica, model):
                        raise
                    return await call(replica.client)
            except ModelUnavailable as exc:
                problem = self._failed(replica, exc)
            finally:
                replica.running -= 1
        assert problem is not None
        raise problem

    async def load_adapter(self, name: str, path: Path) -> None:
        """Has every server load an adapter. One that does not answer, or not soon, gets it when it is back.

        Raises:
            AdapterError: A server refuses it; then none keeps it. One that says so late is not heard.
            ModelUnavailable: No server answers.
        """
        try:
            await self._everywhere(lambda client: client.load_adapter(name, path))
        except AdapterError:
            await self._everywhere(lambda client: client.unload_adapter(name))
            raise
        self._adapters[name] = path

    async def unload_adapter(self, name: str) -> None:
        """Has every server forget an adapter. Raises what `load_adapter` raises."""
        self._adapters.pop(name, None)
        await self._everywhere(lambda client: client.unload_adapter(name))

    async def _everywhere(self, call: Callable[[Completions], Awaitable[None]]) -> None:
        async def one(replica: _Replica) -> Exception | None:
            try:
                await call(replica.client)
            except AdapterError as exc:
                return exc
            except ModelUnavailable as exc:
                return self._failed(replica, exc)
            return None

        calls = [asyncio.create_task(one(replica)) for replica in self._replicas]
        for each in calls:
            self._calls.add(each)
            each.add_done_callback(self._calls.discard)
        # A frozen server must not hold up the answers that the others can give: once one has said something, the
        # others have a moment left. What they missed is made up for by the next request there, see `_reload`.
        while (waiting := [each for each in calls if not each.done()]) and not any(map(_said_something, calls)):
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(calls, timeout=_OTHERS)
        problems = [each.result() for each in calls if each.done()]
        for problem in problems:
            if isinstance(problem, AdapterError):
                raise problem
        if len(problems) == len(calls) and problems[0] is not None and all(problems):
            raise problems[0]

    async def _reload(self, replica: _Replica, name: str) -> bool:
        """Loads an adapter that a server should have and does not. Gives whether it is one."""
        if name not in self._adapters:
            return False
        log.info("the model server at %s has lost %s: it is loaded again", replica.client.base_url, name)
        await replica.client.load_adapter(name, self._adapters[name])
        return True

    def _in_turn(self) -> list[_Replica]:
        """Those that answer first, of them the least busy, of them each in turn."""
        start, now = next(self._turns) % len(self._replicas), time.monotonic()
        turned = self._replicas[start:] + self._replicas[:start]
        return sorted(turned, key=lambda replica: (replica.failed_until > now, replica.running))

    def _failed(self, replica: _Replica, exc: ModelUnavailable) -> ModelUnavailable:
        if len(self._replicas) > 1:
            log.warning("%s", exc.message)
        replica.failed_until = time.monotonic() + _PAUSE
        return exc


def _said_something(call: "asyncio.Task[Exception | None]") -> bool:
    return call.done() and not isinstance(call.result(), ModelUnavailable)
