"""Which adapter speaks now: the registry's pointer, followed without a restart."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from tandem.errors import AdapterError, Busy, TandemError, Unavailable
from tandem.manifest import Threshold
from tandem.registry import AdapterRef, Registry
from tandem.replicas import Replicas

log = logging.getLogger(__name__)

_REFUSED_FOR = 30.0  # seconds until an adapter that was refused is tried again
_LAST_ANSWERS = 30.0  # seconds that a deletion waits for answers that are being given


class ActiveAdapter:
    """Follows the pointer `NAME/active` and keeps the model servers in step with it.

    The pointer and the canary beside it are read for each answer (two small files), so a promotion made by any process
    is live with the next question. A version is named to the model servers once; each has a name of its own, because
    vLLM's prefix cache is keyed by the name. One that is done with is unloaded after its last answer, because a model
    server has room for a few only.
    """

    def __init__(self, registry: Registry, completions: Replicas, name: str) -> None:
        self._registry = registry
        self._completions = completions
        self._name = name
        self._thresholds: dict[str, Threshold | None] = {}
        self._loaded: dict[str, AdapterRef] = {}
        self._refused: dict[str, tuple[float, AdapterError]] = {}
        self._answers: Counter[str] = Counter()
        self._last: AdapterRef | None = None
        self._lock = asyncio.Lock()
        self._tidying: asyncio.Task[None] | None = None
        self.problem: str | None = None

    @property
    def name(self) -> str:
        """The adapter that is followed."""
        return self._name

    def reference(self) -> AdapterRef | None:
        """The active version by the registry; None when nothing was promoted.

        Raises:
            AdapterError: The pointer names a version that is missing or broken.
        """
        return self._registry.active(self._name)

    @asynccontextmanager
    async def speaker(self, conversation: str) -> AsyncIterator[AdapterRef | None]:
        """The version that gives one answer, loaded, and kept loaded until the answer is given.

        That is the candidate of a canary for its share of conversations, else the active version. When that one does
        not load, the last that did speaks on; the reason is in `problem` and in the log.

        Args:
            conversation: Its key, see `tandem.canary.conversation_key`.

        Yields:
            The version, or None when there is none that works: the base model answers then.

        Raises:
            ModelUnavailable: The model server does not answer.
        """
        ref = await self._first_that_loads(conversation)
        if ref is None:
            yield None
            return
        with self._counted(ref):
            yield ref

    @asynccontextmanager
    async def ready(self, ref: AdapterRef) -> AsyncIterator[None]:
        """Keeps a version loaded for a while, so that the answer after its promotion need not wait.

        Raises:
            AdapterError: It is broken, or a model server refuses it.
            ModelUnavailable: No model server answers.
        """
        self._refused.pop(ref.served, None)
        with self._counted(ref):
            await self._load(ref)
            yield

    def meant_for(self, conversation: str) -> AdapterRef | None:
        """The version whose turn a conversation is, whether it loads or not; None when there is none."""
        return self._candidate(conversation) or self._active()[0]

    def bias(self, ref: AdapterRef, odds: float | None = None) -> tuple[tuple[int, float], ...]:
        """What is added to the logits when a version answers from sources: its threshold for declining.

        Args:
            ref: The version.
            odds: How likely one of the best sentences answers, see `Evidence.odds`.

        Raises:
            AdapterError: Its manifest is missing or unreadable.
        """
        if ref.digest not in self._thresholds:
            self._thresholds[ref.digest] = self._registry.manifest(ref).threshold
        threshold = self._thresholds[ref.digest]
        held_back = threshold.held_back(odds) if threshold else 0.0
        return ((threshold.token, held_back),) if threshold and held_back else ()

    def refusal(self, ref: AdapterRef) -> str | None:
        """Why a version was not loaded when it was last tried; None when it was, or was not tried."""
        refused = self._refused.get(ref.served)
        return refused[1].message if refused else None

    def forget(self, ref: AdapterRef) -> None:
        """Has a version loaded again before its next answer."""
        self._loaded.pop(ref.served, None)

    async def unload(self, ref: AdapterRef) -> None:
        """Has the model servers forget a version, once its last answers are given.

        Raises:
            Busy: They take too long.
            ModelUnavailable: No model server answers.
        """
        deadline = time.monotonic() + _LAST_ANSWERS
        while self._answers[ref.served]:
            if time.monotonic() > deadline:
                raise Busy(f"The adapter {ref.served} is still answering: try again in a moment.")
            await asyncio.sleep(0.1)
        async with self._lock:
            self._loaded.pop(ref.served, None)
            self._last = None if self._last == ref else self._last
            await self._completions.unload_adapter(ref.served)

    async def prepare(self) -> None:
        """Loads the newest version if its gate let it pass: likely the next one promoted, and then it need not load."""
        ref = await asyncio.to_thread(self._next)
        if ref is not None:
            with suppress(AdapterError, Unavailable):  # its promotion says why
                await self._load(ref)

    async def tidy(self) -> None:
        """Unloads what gives no answer and is neither active, nor on trial, nor likely to be active next."""
        async with self._lock:
            wanted = await asyncio.to_thread(self._wanted)
            for ref in list(self._loaded.values()):
                if ref in wanted or self._answers[ref.served]:
                    continue
                del self._loaded[ref.served]
                try:
                    await self._completions.unload_adapter(ref.served)
                except TandemError as exc:  # it goes when the model server needs its room
                    log.info("the adapter %s is not unloaded: %s", ref.served, exc.message)

    async def _first_that_loads(self, conversation: str) -> AdapterRef | None:
        candidate = self._candidate(conversation)
        active, problem = self._active()
        for ref in dict.fromkeys((candidate, active, self._last)):
            if ref is None:
                continue
            try:
                await self._load(ref)
            except AdapterError as exc:
                problem = problem or exc.message
                continue
            self._blame(problem)
            if ref == active:
                self._last = ref
            return ref
        self._blame(problem)
        return None

    def _candidate(self, conversation: str) -> AdapterRef | None:
        trial = self._registry.canary(self._name)
        return trial[1] if trial is not None and trial[0].takes(conversation) else None

    def _active(self) -> tuple[AdapterRef | None, str | None]:
        """The active version, or why there is none."""
        try:
            active = self.reference()
        except AdapterError as exc:
            return None, exc.message
        return active, None if active else f"no version of the adapter {self._name!r} was promoted"

    async def _load(self, ref: AdapterRef) -> None:
        if ref.served in self._loaded:
            return
        async with self._lock:
            if ref.served in self._loaded:
                return
            until, refusal = self._refused.get(ref.served, (0.0, None))
            if refusal is not None and time.monotonic() < until:
                raise refusal
            try:
                await asyncio.to_thread(self._registry.check, ref)
                await self._completions.load_adapter(ref.served, ref.path)
            except AdapterError as exc:
                self._refused[ref.served] = (time.monotonic() + _REFUSED_FOR, exc)
                raise
            self._loaded[ref.served] = ref
            self._refused.pop(ref.served, None)

    @contextmanager
    def _counted(self, ref: AdapterRef) -> Iterator[None]:
        self._answers[ref.served] += 1
        try:
            yield
        finally:
            self._answers[ref.served] -= 1
            if not self._answers[ref.served] and ref not in self._registry.speaking(self._name):
                self._tidying = asyncio.get_running_loop().create_task(self.tidy())

    def _wanted(self) -> set[AdapterRef | None]:
        """What stays loaded: what speaks, what a rollback would go back to, and what is promoted next."""
        wanted = {*self._registry.speaking(self._name), self._last, self._next()}
        with suppress(TandemError):  # there is none
            wanted.add(self._registry.predecessor(self._name))
        return wanted

    def _next(self) -> AdapterRef | None:
        """The newest version, if it passed its gate."""
        newest = next((ref for ref in self._registry.list() if ref.name == self._name), None)
        if newest is None:
            return None
        with suppress(AdapterError):
            gate = self._registry.manifest(newest).gate
            return newest if gate is not None and gate.passed else None
        return None

    def _blame(self, problem: str | None) -> None:
        if problem is not None and problem != self.problem:
            log.warning("the adapter %s does not answer: %s", self._name, problem)
        self.problem = problem
