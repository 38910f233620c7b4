"""The adapter registry: a folder of immutable adapters, each with the recipe it was made by.

    ROOT/NAME/DIGEST/adapter_model.safetensors, adapter_config.json, manifest.json
    ROOT/NAME/active          the digest that answers, replaced atomically
    ROOT/NAME/history.jsonl   who promoted what when

An adapter is served as `NAME@DIGEST12`, so that other weights never come under a known name: vLLM's prefix cache is
keyed by the name.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from tandem.errors import AdapterError, NotFound
from tandem.schemas import Value

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Gate(Value):
    """What the gate found.

    Attributes:
        passed: Whether the adapter may be promoted.
        reasons: Why not, or what was found, a sentence each.
        examples: Held-out questions that were asked.
        metrics: For each arm (candidate, base, active) the mean of each measure, 0 to 1.
        differences: For each comparison, such as `candidate-base`, and measure: mean, low and high of the difference.
    """

    passed: bool
    reasons: tuple[str, ...] = ()
    examples: int = 0
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    differences: dict[str, dict[str, tuple[float, float, float]]] = Field(default_factory=dict)


class Manifest(Value):
    """The recipe of an adapter.

    Attributes:
        digest: SHA-256 over weights and configuration.
        base_digest: Of the base model's weights; an adapter answers on no other.
        data_digest: Of the examples, after the guards.
        data: How many examples were read, refused and used.
        prompt_version: Of the template it was trained on.
        lora, training: Configuration.
        metrics: Of the training: loss, steps, tokens, seconds.
        parent: The adapter that was active when it was made, or None.
        versions: Of the libraries.
    """

    name: str
    digest: str
    base_model: str
    base_digest: str
    data_digest: str
    data: dict[str, int] = Field(default_factory=dict)
    prompt_version: str
    style: str = ""
    lora: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    gate: Gate | None = None
    parent: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    created_at: datetime

    @property
    def served(self) -> str:
        return f"{self.name}@{self.digest[:12]}"


@dataclass(frozen=True)
class AdapterRef:
    """One version of an adapter: its name, its digest, its folder."""

    name: str
    digest: str
    path: Path

    @property
    def served(self) -> str:
        """The name the model server knows it by."""
        return f"{self.name}@{self.digest[:12]}"


class Promotion(Value):
    """One change of the pointer."""

    at: datetime
    by: str
    digest: str
    previous: str | None = None
    kind: Literal["promote", "rollback"] = "promote"


def adapter_digest(folder: Path) -> str:
    """SHA-256 over an adapter's weights and configuration.

    Raises:
        AdapterError: A file is missing.
    """
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        try:
            digest.update(f"{name}\n".encode())
            digest.update((folder / name).read_bytes())
        except OSError as exc:
            raise AdapterError(
                f"The adapter in {str(folder)!r} has no readable {name}: train it again, or roll back."
            ) from exc
    return digest.hexdigest()


class Registry:
    """Adapters in a folder, which need not exist yet.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, folder: Path, manifest: Manifest) -> AdapterRef:
        """Takes an adapter in. What is in already stays as it is.

        Args:
            folder: Holds the weights and the configuration in PEFT's layout; it is copied.
            manifest: Its recipe; the digest must be that of the files.

        Raises:
            AdapterError: Name or digest is wrong, or a file is missing.
        """
        _check_name(manifest.name)
        digest = adapter_digest(folder)
        if digest != manifest.digest:
            raise AdapterError(f"The manifest names digest {manifest.digest[:12]!r}, the files have {digest[:12]!r}.")
        home = self.root / manifest.name
        ref = AdapterRef(manifest.name, digest, home / digest)
        if ref.path.exists():
            return ref
        home.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".adding-", dir=home))
        try:
            for name in (WEIGHTS, CONFIG):
                shutil.copyfile(folder / name, work / name)
            (work / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
            for path in work.iterdir():
                _sync(path)
            work.chmod(0o755)
            try:
                work.rename(ref.path)
            except OSError:
                if not ref.path.exists():  # another process was first
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return ref

    def names(self) -> list[str]:
        """Names of all adapters."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if path.is_dir() and _NAME.fullmatch(path.name))

    def list(self) -> list[AdapterRef]:
        """All versions of all adapters, newest first within a name."""
        found = []
        for name in self.names():
            home = self.root / name
            refs = [AdapterRef(name, p.name, p) for p in home.iterdir() if _DIGEST.fullmatch(p.name)]
            found.extend(sorted(refs, key=lambda ref: (_created(ref), ref.digest), reverse=True))
        return found

    def get(self, ref: str) -> AdapterRef:
        """The version that a string names.

        Args:
            ref: `NAME@DIGEST12` (six digits or more are enough), or `NAME` for its active version.

        Raises:
            NotFound: There is none, or several begin like this.
        """
        name, _, start = ref.partition("@")
        if not start:
            active = self.active(name) if _NAME.fullmatch(name) else None
            if active is None:
                raise NotFound(f"No version of the adapter {name!r} is active: see `tandem adapters list`.")
            return active
        found = [r for r in self.list() if r.name == name and r.digest.startswith(start)] if len(start) >= 6 else []
        if len(found) != 1:
            problem = "is not in the registry" if not found else "is ambiguous"
            raise NotFound(f"The adapter {ref!r} {problem}: `tandem adapters list` shows what there is.")
        return found[0]

    def manifest(self, ref: AdapterRef) -> Manifest:
        """The recipe of a version.

        Raises:
            AdapterError: It is missing or unreadable.
        """
        try:
            return Manifest.model_validate_json((ref.path / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError) as exc:
            raise AdapterError(
                f"The adapter {ref.served} has no readable {MANIFEST}: train it again, or roll back."
            ) from exc

    def active(self, name: str) -> AdapterRef | None:
        """The version that answers; None when none was promoted.

        Raises:
            AdapterError: The pointer names a version that is not there.
        """
        try:
            digest = (self.root / name / "active").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as exc:
            raise AdapterError(f"The pointer {str(self.root / name / 'active')!r} cannot be read: {exc}.") from exc
        ref = AdapterRef(name, digest, self.root / name / digest)
        if not _DIGEST.fullmatch(digest) or not ref.path.is_dir():
            raise AdapterError(
                f"The active version {digest[:12]!r} of the adapter {name!r} is not in {str(self.root)!r}: "
                f"promote another with `tandem adapters promote`, or `tandem adapters rollback {name}`."
            )
        return ref

    def verify(self, ref: AdapterRef, *, base_digest: str | None = None) -> None:
        """Checks that a version is whole and, if asked, made for this base model.

        Raises:
            AdapterError: It is not.
        """
        if adapter_digest(ref.path) != ref.digest:
            raise AdapterError(
                f"The files of the adapter {ref.served} are not those it was registered with: roll back or train again."
            )
        made_for = self.manifest(ref).base_digest
        if base_digest is not None and made_for != base_digest:
            raise AdapterError(
                f"The adapter {ref.served} was trained on another base model ({made_for[:12]}) than the one that is "
                f"served ({base_digest[:12]}): train one with `tandem train`."
            )

    def promote(self, ref: AdapterRef, by: str) -> None:
        """Makes a version the one that answers, after verifying it.

        Args:
            ref: The version.
            by: Who does it, for the history.

        Raises:
            AdapterError: It is broken.
        """
        self.verify(ref)
        with self._lock(ref.name):
            previous = self._read(ref.name)
            self._point(ref.name, Promotion(at=datetime.now(UTC), by=by, digest=ref.digest, previous=previous))

    def rollback(self, name: str, by: str = "") -> AdapterRef:
        """Goes back to the version that was active before; again, and it goes back further.

        Raises:
            AdapterError: There is none before.
        """
        _check_name(name)
        with self._lock(name):
            stack: list[str] = []
            for entry in self.history(name):
                if entry.kind == "rollback" and stack:
                    stack.pop()
                elif entry.kind == "promote" and (not stack or stack[-1] != entry.digest):
                    stack.append(entry.digest)
            if len(stack) < 2:
                raise AdapterError(f"No version of the adapter {name!r} was active before: nothing to go back to.")
            ref = AdapterRef(name, stack[-2], self.root / name / stack[-2])
            self.verify(ref)
            entry = Promotion(
                at=datetime.now(UTC), by=by, digest=ref.digest, previous=self._read(name), kind="rollback"
            )
            self._point(name, entry)
        return ref

    def history(self, name: str) -> Sequence[Promotion]:
        """All changes of the pointer, oldest first."""
        try:
            lines = (self.root / name / "history.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                found.append(Promotion.model_validate_json(line))
            except ValidationError:  # the last line of a process that was killed
                continue
        return found

    def _point(self, name: str, entry: Promotion) -> None:
        home = self.root / name
        with (home / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(entry.model_dump_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        work = home / f".active-{os.getpid()}"
        work.write_text(entry.digest + "\n", encoding="utf-8")
        _sync(work)
        work.replace(home / "active")

    def _read(self, name: str) -> str | None:
        path = self.root / name / "active"
        return path.read_text(encoding="utf-8").strip() if path.is_file() else None

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        home = self.root / name
        if not home.is_dir():
            raise NotFound(f"There is no adapter {name!r} in {str(self.root)!r}: see `tandem adapters list`.")
        with (home / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise AdapterError(
            f"{name!r} is no name for an adapter: take small letters, digits, '.', '_' and '-', 64 at most."
        )


def _created(ref: AdapterRef) -> str:
    try:
        return str(json.loads((ref.path / MANIFEST).read_text(encoding="utf-8")).get("created_at", ""))
    except (OSError, ValueError):
        return ""


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
