"""What a run came to, in a file that is there before its adapter is promoted.

Whoever finds one does not train again: the process that was to write the verdict into the database was ended, or the
database was away, and a second promotion would undo what a person did since the first one.
"""

from pathlib import Path

from pydantic import ValidationError

from tandem.pointer import sync
from tandem.registry import Manifest, Registry
from tandem.settings import Settings


def result_path(settings: Settings, run: str) -> Path:
    """Where the result of a run is, from its verdict until that is in the database."""
    return settings.runs_dir / f"result-{run}.json"


def write_result(path: Path, manifest: Manifest) -> None:
    """Writes it, whole or not at all."""
    work = path.with_suffix(".new")
    work.write_text(manifest.model_dump_json() + "\n", encoding="utf-8")
    sync(work)
    work.replace(path)
    sync(path.parent)


def read_result(path: Path) -> Manifest | None:
    """The result; None where there is none."""
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def complete(registry: Registry, manifest: Manifest, by: str) -> None:
    """Does what its process may have had no time for: promotes what passed, unless the pointer was moved since.

    Raises:
        AdapterError: The version may not answer.
    """
    if manifest.gate is None or not manifest.gate.passed:
        return
    moves = [entry for entry in registry.history(manifest.name) if entry.kind in ("promote", "rollback")]
    ref = registry.ref(manifest.name, manifest.digest)
    # A kill between the line in the history and the pointer leaves a last move to what is not active.
    half = bool(moves) and moves[-1].digest == ref.digest and registry.active(manifest.name) != ref
    if half or not any(entry.at >= manifest.created_at for entry in moves):
        registry.promote(ref, by)
