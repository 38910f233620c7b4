"""Which adapter speaks now: the registry's pointer, followed without a restart."""

import asyncio
import logging

from tandem.completions import Completions
from tandem.errors import AdapterError
from tandem.registry import AdapterRef, Registry

log = logging.getLogger(__name__)


class ActiveAdapter:
    """Follows the pointer `NAME/active` and keeps the model server in step with it.

    The pointer is read for each answer (one small file), so a promotion made by any process is live with the next
    question. A version is named to the model server once; each version has a name of its own, because vLLM's prefix
    cache is keyed by the name.
    """

    def __init__(self, registry: Registry, completions: Completions, name: str) -> None:
        self._registry = registry
        self._completions = completions
        self._name = name
        self._loaded: set[str] = set()
        self._lock = asyncio.Lock()
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

    async def current(self) -> AdapterRef | None:
        """The active version, loaded into the model server; None when there is none that works.

        A broken adapter is no reason to say nothing: the reason is kept in `problem` and logged, and the base model
        answers.

        Raises:
            ModelUnavailable: The model server does not answer.
        """
        try:
            ref = self.reference()
            if ref is None:
                self.problem = f"no version of the adapter {self._name!r} was promoted"
                return None
            async with self._lock:
                if ref.served not in self._loaded:
                    self._registry.verify(ref)
                    await self._completions.load_adapter(ref.served, ref.path)
                    self._loaded.add(ref.served)
        except AdapterError as exc:
            if self.problem != exc.message:
                log.warning("the adapter %s does not answer: %s", self._name, exc.message)
            self.problem = exc.message
            return None
        self.problem = None
        return ref

    def forget(self) -> None:
        """Drops what is known of the model server, after it restarted or lost an adapter."""
        self._loaded.clear()
