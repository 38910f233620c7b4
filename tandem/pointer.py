"""The small files beside an adapter's versions: which one answers, which one is on trial, and what was before.

Each is replaced atomically, and written only under the lock, after its line in the history: a process that is killed
between two writes leaves the pointer at the old or at the new version, and a line too many in the history, which
`before` passes over.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from tandem.canary import Canary
from tandem.errors import AdapterError, NotFound
from tandem.schemas import Value

_POINTER = "active"
_CANARY = "canary.json"
_HISTORY = "history.jsonl"

Kind = Literal["promote", "rollback", "canary", "withdraw", "delete"]


class Promotion(Value):
    """One change of what answers.

    Attributes:
        digest: The version it is about.
        previous: What was active before it.
        kind: `promote` and `rollback` move the pointer; `canary` and `withdraw` begin and end a trial; `delete`
            removed a version.
        reason: Why, where somebody or something said so.
    """

    at: datetime
    by: str
    digest: str
    previous: str | None = None
    kind: Kind = "promote"
    reason: str = ""


class Pointer:
    """Reads and writes the small files in one adapter's folder.

    Args:
        home: The folder, `ROOT/NAME`.
    """

    def __init__(self, home: Path) -> None:
        self._home = home

    def read(self) -> str | None:
        """The digest that answers, as it is written; None when none was promoted.

        Raises:
            AdapterError: The file cannot be read.
        """
        path = self._home / _POINTER
        try:
            return path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as exc:
            raise AdapterError(f"The pointer {str(path)!r} cannot be read: {exc}.") from exc

    def canary(self) -> Canary | None:
        """The trial that is under way; None when there is none.

        A trial compares with the version that was active when it began, so a moved pointer ends it in that instant.
        """
        try:
            canary = Canary.model_validate_json((self._home / _CANARY).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError):
            return None
        return canary if canary.against == self.read() else None

    def move(self, entry: Promotion) -> None:
        """Points at `entry.digest`. To be called under the lock."""
        self._record(entry)
        self._replace(_POINTER, entry.digest + "\n")
        (self._home / _CANARY).unlink(missing_ok=True)

    def begin(self, canary: Canary, entry: Promotion) -> None:
        """Begins a trial. To be called under the lock."""
        self._record(entry)
        self._replace(_CANARY, canary.model_dump_json() + "\n")

    def withdraw(self, entry: Promotion) -> None:
        """Ends the trial. To be called under the lock."""
        self._record(entry)
        (self._home / _CANARY).unlink(missing_ok=True)

    def deleting(self, entry: Promotion) -> None:
        """Writes down that a version goes. To be called under the lock."""
        self._record(entry)

    def history(self) -> Sequence[Promotion]:
        """All changes, oldest first. A line that cannot be read is left out."""
        try:
            # A byte that the disk spoilt costs at most its line, and in a reason not even that.
            text = (self._home / _HISTORY).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        found = []
        for line in text.split("\n"):  # what else ends a line in Unicode may stand in a reason
            try:
                found.append(Promotion.model_validate_json(line))
            except ValidationError:  # such as the last line of a process that was killed
                continue
        return found

    def before(self) -> list[str]:
        """The versions that were active before this one, the latest last; those that were rolled back are left out."""
        stack: list[str] = []
        for entry in self.history():
            if entry.kind not in ("promote", "rollback"):
                continue
            # What the pointer never came to, because the process was killed, was not active.
            _unwind(stack, entry.previous)
            if entry.kind == "rollback":
                _unwind(stack, entry.digest)
            if not stack or stack[-1] != entry.digest:
                stack.append(entry.digest)
        current = self.read()
        _unwind(stack, current)
        return stack[:-1] if stack and stack[-1] == current else stack

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One writer at a time, across processes. The kernel lets go when the process ends, however it ends.

        Raises:
            NotFound: There is no such adapter.
        """
        if not self._home.is_dir():
            raise NotFound(
                f"There is no adapter {self._home.name!r} in {str(self._home.parent)!r}: see `tandem adapters list`."
            )
        with (self._home / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _record(self, entry: Promotion) -> None:
        with (self._home / _HISTORY).open("a+b") as file:
            if file.tell() and not _ends_a_line(file.name):  # the half line of a process that was killed
                file.write(b"\n")
            file.write(entry.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _replace(self, name: str, content: str) -> None:
        work = self._home / f".{name}-new"
        work.write_text(content, encoding="utf-8")
        sync(work)
        work.replace(self._home / name)
        sync(self._home)


def sync(path: Path) -> None:
    """Waits until a file, or what a folder lists, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _ends_a_line(name: str) -> bool:
    with open(name, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _unwind(stack: list[str], digest: str | None) -> None:
    """Takes off what stands above `digest`, if it is in there."""
    if digest in stack:
        while stack[-1] != digest:
            stack.pop()
