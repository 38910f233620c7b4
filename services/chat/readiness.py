"""Whether the parts that an answer needs do answer."""

import asyncio
import logging
import time
from typing import Literal

from pydantic import BaseModel

from tandem.bootstrap import Container
from tandem.errors import AdapterError, TandemError
from tandem.schemas import Message, Sampling

log = logging.getLogger(__name__)

PROBE = [Message(role="user", content="Hi").model_dump()]
PROBE_TIMEOUT = 10.0
GOOD_FOR = 20.0  # seconds; a probe costs the model a token
BAD_FOR = 2.0


class Readiness(BaseModel):
    """The state of each part: `ok`, or the code of its error. Messages are for the log: this needs no key."""

    status: Literal["ready", "degraded", "unavailable"]
    parts: dict[str, str]
    adapter: str | None = None


class ReadinessProbe:
    """Asks the database, the index and the model. The model's last answer is kept for a while."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._lock = asyncio.Lock()
        self._model = "model_unavailable"
        self._asked_at = float("-inf")

    async def check(self) -> Readiness:
        """Asks all parts at once. Without the model Tandem is degraded, not down: it still shows passages."""
        container = self._container
        database, index, model = await asyncio.gather(
            self._blocking("database", container.database.ping),
            self._blocking("index", container.generations.ping),
            self._model_state(),
        )
        status: Literal["ready", "degraded", "unavailable"] = "ready"
        if database != "ok" or index != "ok":
            status = "unavailable"
        elif model != "ok":
            status = "degraded"
        parts = {"database": database, "index": index, "model": model}
        return Readiness(status=status, parts=parts, adapter=await asyncio.to_thread(self.adapter))

    async def _blocking(self, part: str, ping: object) -> str:
        assert callable(ping)
        try:
            await asyncio.wait_for(asyncio.to_thread(ping), PROBE_TIMEOUT)
        except TandemError as exc:
            log.warning("%s is not ready: %s", part, exc.message)
            return exc.code
        except TimeoutError:
            log.warning("%s did not answer within %.0f s", part, PROBE_TIMEOUT)
            return "timeout"
        return "ok"

    async def _model_state(self) -> str:
        async with self._lock:  # many callers, one probe
            keep = GOOD_FOR if self._model == "ok" else BAD_FOR
            if time.monotonic() - self._asked_at > keep:
                self._model = await self._ask_model()
                self._asked_at = time.monotonic()
            return self._model

    async def _ask_model(self) -> str:
        settings, completions = self._container.settings, self._container.completions
        try:
            await asyncio.wait_for(
                completions.complete(PROBE, settings.model.name, Sampling(max_tokens=1)), PROBE_TIMEOUT
            )
        except TandemError as exc:
            log.info("the model is not ready: %s", exc.message)
            return exc.code
        except TimeoutError:
            return "timeout"
        return "ok"

    def adapter(self) -> str | None:
        """The active adapter by the registry; None when there is none that works. Reads one small file."""
        try:
            ref = self._container.adapters.reference()
        except AdapterError:
            return None
        return ref.served if ref else None
