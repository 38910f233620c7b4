"""A model server for tests that force its faults."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tandem.completions import Completion, Completions, Delta
from tandem.errors import AdapterError, ModelUnavailable, TandemError
from tandem.replicas import Replicas
from tandem.schemas import Sampling

ASK = [{"role": "user", "content": "How?"}]


@dataclass
class ServerDouble:
    """A model server: says which adapter it answers with, in three pieces; `down` and `refused` are its faults."""

    base_url: str = "http://double/v1"
    loaded: list[str] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    down: bool = False
    breaks_after: int = 99
    fault: type[TandemError] = ModelUnavailable
    faulty: str = ""  # the only model that breaks; empty: all
    hold: asyncio.Event | None = None
    frozen: asyncio.Event | None = None  # calls about adapters wait for it

    def _called(self, call: str, name: str) -> None:
        if self.down:
            raise ModelUnavailable("down")
        self.calls.append((call, name))

    async def load_adapter(self, name: str, path: Path) -> None:
        if self.frozen:
            await self.frozen.wait()
        self._called("load", name)
        if name in self.refused:
            raise AdapterError(f"The model server refuses the adapter {name!r}.")
        self.loaded.append(name)

    async def unload_adapter(self, name: str) -> None:
        if self.frozen:
            await self.frozen.wait()
        self._called("unload", name)
        if name in self.loaded:
            self.loaded.remove(name)

    async def stream(self, messages: Any, model: str, sampling: Sampling) -> AsyncIterator[Delta]:
        self._called("stream", model)
        self.samplings.append(sampling)
        if "@" in model and model not in self.loaded:
            raise AdapterError(f"The model server has no adapter {model!r}.")
        for number in range(3):
            if number == self.breaks_after and self.faulty in ("", model):
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
