"""The adapter registry: a folder of immutable adapters, each with the recipe it was made by.

    ROOT/NAME/DIGEST/adapter_model.safetensors, adapter_config.json, manifest.json
    ROOT/NAME/active          the digest that answers, replaced atomically
    ROOT/NAME/canary.json     the candidate that answers a share of the conversations
    ROOT/NAME/history.jsonl   who promoted what when
    ROOT/NAME/taught.txt      examples that it was taught before it came here (`training.pool`), if it came so

An adapter is served as `NAME@DIGEST12`, so that other weights never come under a known name: vLLM's prefix cache is
keyed by the name.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from tandem.canary import Canary
from tandem.errors import AdapterError, InputError, NotFound, Overtaken
from tandem.manifest import CONFIG, MANIFEST, WEIGHTS, AdapterRef, Gate, Manifest, adapter_digest
from tandem.pointer import Kind, Pointer, Promotion
from tandem.serving import Serving, serving_of
from tandem.settings import Settings
from tandem.versions import DIGEST, NAME, Versions

__all__ = [
    "CONFIG",
    "MANIFEST",
    "NONE_ACTIVE",
    "WEIGHTS",
    "AdapterRef",
    "Gate",
    "Manifest",
    "Promotion",
    "Registry",
    "adapter_digest",
]

NONE_ACTIVE = ""  # in the place of the active version's digest


class Registry(Versions):
    """Adapters in a folder, which need not exist yet.

    Args:
        root: The folder.
        serving: Asked, at the first check of an adapter, what it must fit. Without it, only the files are checked.
    """

    def __init__(self, root: Path, serving: Callable[[], Serving] = Serving) -> None:
        super().__init__(root)
        self._read_serving = serving

    @classmethod
    def open(cls, settings: Settings) -> "Registry":
        """The registry of these settings, which checks that what may answer can be served by their model."""
        return cls(settings.registry, lambda: serving_of(settings))

    def get(self, ref: str) -> AdapterRef:
        """The version that a string names.

        Args:
            ref: `NAME@DIGEST12` (six digits or more are enough), or `NAME` for its active version.

        Raises:
            NotFound: There is none, or several begin like this.
        """
        name, _, start = ref.partition("@")
        if not start:
            active = self.active(name) if NAME.fullmatch(name) else None
            if active is None:
                raise NotFound(f"No version of the adapter {name!r} is active: see `tandem adapters list`.")
            return active
        found = [r for r in self.list() if r.name == name and r.digest.startswith(start)] if len(start) >= 6 else []
        if len(found) != 1:
            problem = "is not in the registry" if not found else "is ambiguous"
            raise NotFound(f"The adapter {ref!r} {problem}: `tandem adapters list` shows what there is.")
        return found[0]

    def active(self, name: str) -> AdapterRef | None:
        """The version that answers; None when none was promoted.

        Raises:
            AdapterError: The pointer names a version that is not there.
        """
        digest = self._pointer(name).read()
        if digest is None:
            return None
        ref = self.ref(name, digest)
        if not DIGEST.fullmatch(digest) or not ref.path.is_dir():
            raise AdapterError(
                f"The active version {digest[:12]!r} of the adapter {name!r} is not in {str(self.root)!r}: "
                f"promote another with `tandem adapters promote`, or `tandem adapters rollback {name}`."
            )
        return ref

    def canary(self, name: str) -> tuple[Canary, AdapterRef] | None:
        """The trial that is under way, and its candidate; None when there is none."""
        canary = self._pointer(name).canary()
        if canary is None or not DIGEST.fullmatch(canary.digest):
            return None
        ref = self.ref(name, canary.digest)
        return (canary, ref) if ref.path.is_dir() else None

    def speaking(self, name: str) -> Sequence[AdapterRef]:
        """What gives answers now: the active version and the candidate on trial, as far as there are such."""
        trial = self.canary(name)
        try:
            active = self.active(name)
        except AdapterError:
            active = None
        return [ref for ref in (active, trial and trial[1]) if ref]

    def check(self, ref: AdapterRef) -> None:
        """Checks all that must hold before a version may answer: what `verify` checks, and that it can be served.

        Raises:
            AdapterError: It may not; the message says why.
        """
        from tandem.soundness import check_sound  # loads numpy, which only looking at the registry needs not

        serving = self._serving
        self.verify(ref, base_digest=serving.base_digest)
        if serving.like_active:
            serving = self._like_active(ref, serving)
        check_sound(ref.served, ref.path, serving)

    def pointed_at(self, name: str) -> str:
        """The digest that the pointer names, whether that version is there or not; `NONE_ACTIVE` for none.

        Raises:
            AdapterError: The pointer cannot be read.
        """
        return self._pointer(name).read() or NONE_ACTIVE

    def promote(self, ref: AdapterRef, by: str, *, expected: str | None = None, trial: Canary | None = None) -> None:
        """Makes a version the one that answers, after checking it. A trial that is under way ends; the history says so.

        Args:
            ref: The version.
            by: Who does it, for the history.
            expected: Promote only if this is what `pointed_at` gives still. For whoever promotes by themselves: they
                decide on what they saw a while ago, and must not undo what a person did meanwhile.
            trial: Promote only if this trial is under way still.

        Raises:
            AdapterError: It is broken, or made for another model.
            Overtaken: Another version is active than was expected, or the trial has ended.
        """
        self.check(ref)
        pointer = self._pointer(ref.name)
        with pointer.lock():
            self._check_there(ref)
            active, running = pointer.read(), self.canary(ref.name)
            if expected is not None and (active or NONE_ACTIVE) != expected:
                now = f"{ref.name}@{active[:12]} is active" if active else "none is active"
                raise Overtaken(f"{ref.served} is not promoted: {now} by now, with which it was not compared.")
            if trial is not None and (running is None or running[0] != trial):
                raise Overtaken(f"{ref.served} is not promoted: its trial was ended meanwhile.")
            reason = f"It ended the trial of {running[1].served}." if running and running[1] != ref else ""
            pointer.move(_entry(ref.digest, by, active, "promote", reason))

    def rollback(self, name: str, by: str = "", *, expected: str | None = None) -> AdapterRef:
        """Goes back to the version that was active before; again, and it goes back further. A trial ends.

        Args:
            name: Of the adapter.
            by: Who does it, for the history.
            expected: Go back only from this version, a digest or its beginning: asking twice goes one step.

        Raises:
            AdapterError: There is none before.
            Overtaken: Another version is active than was expected.
        """
        pointer = self._pointer(name)
        with pointer.lock():
            ref = self.predecessor(name, expected=expected)
            self.check(ref)
            pointer.move(_entry(ref.digest, by, pointer.read(), "rollback"))
        return ref

    def predecessor(self, name: str, *, expected: str | None = None) -> AdapterRef:
        """The version that a rollback goes to: the last one before that is still there.

        Raises:
            AdapterError: There is none.
            Overtaken: Another version is active than was expected.
        """
        pointer = self._pointer(name)
        active = pointer.read()
        if expected is not None and not (active or "").startswith(expected):
            now = f"{name}@{active[:12]} is active" if active else "none is active"
            raise Overtaken(f"Nothing was rolled back: {now}, not {name}@{expected[:12]}.")
        refs = [self.ref(name, digest) for digest in pointer.before() if digest != active]
        there = [ref for ref in refs if ref.path.is_dir()]
        if not there:
            raise AdapterError(f"No version of the adapter {name!r} was active before: nothing to go back to.")
        return there[-1]

    def start_canary(self, ref: AdapterRef, share: float, by: str) -> Canary:
        """Has a version answer a share of the conversations, after checking it. It replaces another trial.

        Args:
            ref: The candidate.
            share: Of conversations, over 0 and below 1.
            by: Who does it.

        Raises:
            InputError: That is no such share.
            AdapterError: It is broken, or there is no other version to compare it with.
        """
        if not 0 < share < 1:
            raise InputError(
                f"A candidate cannot answer a share of {share:g} of the conversations: take a number over 0 and below "
                "1, so that the active version has some to be compared by."
            )
        self.check(ref)
        pointer = self._pointer(ref.name)
        with pointer.lock():
            self._check_there(ref)
            active = self.active(ref.name)
            if active is None or active.digest == ref.digest:
                problem = "is active" if active else "has no active version to be compared with"
                raise AdapterError(
                    f"The adapter {ref.served} {problem}: a trial needs an active version and another one."
                )
            entry = _entry(ref.digest, by, active.digest, "canary", f"It answers {share:.0%} of the conversations.")
            canary = Canary(digest=ref.digest, against=active.digest, share=share, by=by, started_at=entry.at)
            pointer.begin(canary, entry)
        return canary

    def withdraw_canary(self, name: str, by: str, reason: str = "", *, digest: str | None = None) -> AdapterRef:
        """Ends the trial: the active version answers every conversation.

        Args:
            name: The adapter.
            by: Who does it.
            reason: Why.
            digest: End it only if this is the candidate.

        Raises:
            NotFound: No trial is under way.
        """
        pointer = self._pointer(name)
        with pointer.lock():
            running = self.canary(name)
            if running is None or digest not in (None, running[0].digest):
                raise NotFound(f"No canary of the adapter {name!r} is under way: `tandem adapters canary` starts one.")
            pointer.withdraw(_entry(running[0].digest, by, pointer.read(), "withdraw", reason))
        return running[1]

    def delete(self, ref: AdapterRef, by: str) -> None:
        """Removes a version for good.

        Raises:
            AdapterError: It is active, or on trial.
        """
        pointer = self._pointer(ref.name)
        with pointer.lock():
            self.check_deletable(ref)
            self._check_there(ref)
            pointer.deleting(_entry(ref.digest, by, pointer.read(), "delete"))
            self.remove(ref)

    def check_deletable(self, ref: AdapterRef) -> None:
        """Raises AdapterError when a version answers, and so cannot be deleted."""
        if self._pointer(ref.name).read() == ref.digest:
            raise AdapterError(f"The adapter {ref.served} is active: promote another or roll back before deleting it.")
        running = self.canary(ref.name)
        if running is not None and running[0].digest == ref.digest:
            raise AdapterError(f"The adapter {ref.served} is on trial: stop its canary before deleting it.")

    def history(self, name: str) -> Sequence[Promotion]:
        """All changes of what answers, oldest first."""
        return self._pointer(name).history()

    @cached_property
    def _serving(self) -> Serving:
        return self._read_serving()

    def _like_active(self, ref: AdapterRef, serving: Serving) -> Serving:
        """Where the base model cannot be seen: an adapter must fit what the active version fits."""
        from tandem.soundness import adapter_modules

        try:
            active = self.active(ref.name)
            made_for = self.manifest(active).base_digest if active else None
        except AdapterError:
            return serving
        if active is None or made_for is None:
            return serving
        if made_for != self.manifest(ref).base_digest:
            raise AdapterError(
                f"The adapter {ref.served} was trained on another base model than the active {active.served}. If the "
                "model server has that base model now, name its folder here in TANDEM_MODEL__PATH."
            )
        return serving.model_copy(update={"modules": adapter_modules(active.path)})

    def _check_there(self, ref: AdapterRef) -> None:
        if not ref.path.is_dir():
            raise AdapterError(f"The adapter {ref.served} has just been deleted.")

    def _pointer(self, name: str) -> Pointer:
        if not NAME.fullmatch(name):
            raise NotFound(f"There is no adapter {name!r}: see `tandem adapters list`.")
        return Pointer(self.root / name)


def _entry(digest: str, by: str, previous: str | None, kind: Kind, reason: str = "") -> Promotion:
    return Promotion(at=datetime.now(UTC), by=by, digest=digest, previous=previous, kind=kind, reason=reason)
