"""The versions of adapters in a folder: immutable, each named by the digest of its files."""

import json
import re
import shutil
import tempfile
from pathlib import Path

from tandem.errors import AdapterError
from tandem.manifest import CONFIG, MANIFEST, WEIGHTS, AdapterRef, Manifest, adapter_digest, read_manifest
from tandem.pointer import Pointer, sync

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")


class Versions:
    """Adapters in a folder, which need not exist yet.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, folder: Path, manifest: Manifest) -> AdapterRef:
        """Takes an adapter in. What is in already stays as it is, its manifest included.

        Args:
            folder: Holds the weights and the configuration in PEFT's layout; it is copied.
            manifest: Its recipe; the digest must be that of the files.

        Raises:
            AdapterError: Name or digest is wrong, a file is missing, or the version is in already and would answer, or
                be judged, otherwise by this manifest.
        """
        _check_name(manifest.name)
        digest = adapter_digest(folder)
        if digest != manifest.digest:
            raise AdapterError(f"The manifest names digest {manifest.digest[:12]!r}, the files have {digest[:12]!r}.")
        home = self.root / manifest.name
        ref = AdapterRef(manifest.name, digest, home / digest)
        home.mkdir(parents=True, exist_ok=True)
        with Pointer(home).lock():
            _sweep(home)
            if ref.path.exists():
                _check_same(ref, manifest)
                return ref
            work = Path(tempfile.mkdtemp(prefix=".adding-", dir=home))
            try:
                for name in (WEIGHTS, CONFIG):
                    shutil.copyfile(folder / name, work / name)
                (work / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
                for path in (*work.iterdir(), work):
                    sync(path)
                work.chmod(0o755)
                work.rename(ref.path)
                sync(home)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return ref

    def names(self) -> list[str]:
        """Names of all adapters."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if path.is_dir() and NAME.fullmatch(path.name))

    def list(self) -> list[AdapterRef]:
        """All versions of all adapters, newest first within a name."""
        found = []
        for name in self.names():
            home = self.root / name
            refs = [AdapterRef(name, p.name, p) for p in home.iterdir() if DIGEST.fullmatch(p.name)]
            found.extend(sorted(refs, key=lambda ref: (_created(ref), ref.digest), reverse=True))
        return found

    def manifest(self, ref: AdapterRef) -> Manifest:
        """The recipe of a version.

        Raises:
            AdapterError: It is missing or unreadable.
        """
        return read_manifest(ref)

    def verify(self, ref: AdapterRef, *, base_digest: str | None = None) -> None:
        """Checks that a version is what was registered and, if asked, made for this base model.

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

    def ref(self, name: str, digest: str) -> AdapterRef:
        """A version by its whole digest, whether it is there or not."""
        return AdapterRef(name, digest, self.root / name / digest)

    def remove(self, ref: AdapterRef) -> None:
        """Removes a version's folder; to be called under the lock of its pointer."""
        # Renamed first: a process that is killed leaves the whole version, or none of it under its name.
        ref.path.rename(ref.path.with_name(f".deleting-{ref.digest}"))
        sync(ref.path.parent)
        _sweep(ref.path.parent)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise AdapterError(
            f"{name!r} is no name for an adapter: take small letters, digits, '.', '_' and '-', 64 at most."
        )


def _check_same(ref: AdapterRef, manifest: Manifest) -> None:
    """Refuses another recipe for a version that is in: by its name everybody knows how it answers and was judged.

    When it was made and how the gate's figures came out may differ: a run that was killed comes here a second time.
    """
    known = read_manifest(ref)
    differing = []
    if known.threshold != manifest.threshold:
        differing.append("threshold for declining")
    if (known.gate and known.gate.passed) != (manifest.gate and manifest.gate.passed):
        differing.append("verdict of the gate")
    if differing:
        raise AdapterError(
            f"The adapter {ref.served} is in the registry already, with another {' and another '.join(differing)}, and "
            f"a version never changes: delete it first (`tandem adapters delete {ref.served}`), or train one of its "
            "own with another TANDEM_TRAINING__SEED."
        )


def _created(ref: AdapterRef) -> str:
    try:
        return str(json.loads((ref.path / MANIFEST).read_text(encoding="utf-8")).get("created_at", ""))
    except (OSError, ValueError):
        return ""


def _sweep(home: Path) -> None:
    """Removes what killed processes left; to be called under the lock, which those that are at work hold."""
    for pattern in (".adding-*", ".deleting-*"):
        for path in home.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
