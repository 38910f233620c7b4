"""The step boundaries of the writing code, found by wrapping it: a new step is a new boundary, without an edit here.

A boundary is the moment before and after each call of a public method of the classes below, and of each commit. The
ones between which nothing was written leave the same on the disk, so one kill stands for all of them: a `state`.
"""

import functools
import inspect
import os
import signal
from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

import ingest.publish
import ingest.removal
import ingest.repair
import ingest.writer
from tandem.generations import Generations
from tandem.qdrant import Qdrant
from tandem.vectors import VectorIndex

_MODULES = (ingest.publish, ingest.removal, ingest.repair, ingest.writer)
# What the index is only asked. A method that is not named here counts as one that writes.
_READS = {"count", "present", "version_counts", "query", "ping", "close"}
_WRITING = ("INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP")


class Boundaries:
    """Counts the boundaries that this process comes to, and kills it at one of them.

    Args:
        die_at: Number of the boundary; None lives on.
    """

    def __init__(self, die_at: int | None = None) -> None:
        self._die_at = die_at
        self.passed: list[tuple[str, int]] = []
        """Label, and how much had been written by then."""
        self._writes = 0
        self._dirty = False

    def install(self) -> None:
        """Wraps the classes; for good, as this process is to end."""
        for module in _MODULES:
            for _, kind in inspect.getmembers(module, inspect.isclass):
                if kind.__module__ == module.__name__:
                    self._wrap_all(kind)
        self._wrap_all(VectorIndex)
        self._wrap_all(Generations)
        for name in ("create", "point_alias", "drop"):
            setattr(Qdrant, name, self._wrapped(f"Qdrant.{name}", getattr(Qdrant, name)))
        event.listen(Session, "before_commit", lambda session: self._arrive("before commit"))
        event.listen(Session, "after_commit", self._committed)
        event.listen(Engine, "before_cursor_execute", self._executing)

    def states(self) -> list[int]:
        """The first boundary after each write, and the very first."""
        seen: dict[int, int] = {}
        for number, (_, writes) in enumerate(self.passed):
            seen.setdefault(writes, number)
        return list(seen.values())

    def _wrap_all(self, kind: type) -> None:
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_"):
                setattr(kind, name, self._wrapped(f"{kind.__name__}.{name}", method))

    def _wrapped(self, label: str, method: Callable[..., Any]) -> Callable[..., Any]:
        writes = label.startswith("Qdrant.") or (label.startswith("VectorIndex.") and label.split(".")[1] not in _READS)

        @functools.wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            self._arrive(f"before {label}")
            result = method(*args, **options)
            self._writes += writes
            self._arrive(f"after {label}")
            return result

        return call

    def _executing(self, *arguments: Any) -> None:
        self._dirty = self._dirty or str(arguments[2]).lstrip().upper().startswith(_WRITING)

    def _committed(self, session: Session) -> None:
        self._writes += self._dirty
        self._dirty = False
        self._arrive("after commit")

    def _arrive(self, label: str) -> None:
        if len(self.passed) == self._die_at:
            # As a power cut would have it: no handler runs, nothing is flushed.
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed.append((label, self._writes))
