"""How many answers are made at once, and how many may wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tandem.errors import Busy


class Admission:
    """Admits `concurrency` requests, lets `queue` more wait in order, and refuses the rest at once.

    Those admitted keep their latency because the model never sees more than `concurrency` at a time.
    """

    def __init__(self, concurrency: int, queue: int) -> None:
        self._free = asyncio.Semaphore(concurrency)
        self._queue = queue
        self._waiting = 0
        self._running = 0

    @property
    def running(self) -> int:
        """Requests being answered now."""
        return self._running

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._waiting

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A turn. A caller that is cancelled while it waits leaves the queue.

        Raises:
            Busy: The queue is full.
        """
        if self._free.locked() and self._waiting >= self._queue:
            raise Busy(
                f"Tandem is answering {self._running} questions and {self._waiting} wait already: "
                f"try again in {Busy.retry_after} seconds."
            )
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._free.release()
