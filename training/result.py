"""What a run came to, in a file that is there before its adapter is promoted.

Whoever finds one does not train again: the process that was to write the verdict into the database was ended, or the
database was away, and a second promotion would undo what a person did since the first one.
"""

from pathlib import Path

from pydantic import ValidationError

from tandem.errors import Overtaken
from tandem.pointer import sync
from tandem.registry import Manifest, Registry
from tandem.schemas import Value
from tandem.settings import Settings


class Result(Value):
    """What a run came to.

    Attributes:
        manifest: Of the adapter, gate verdict included.
        expected: What the pointer named when the gate began, as `Registry.pointed_at` has it: what a person did since
            is not undone by a promotion.
        promoted: Whether the adapter was made active; None until that is decided.
        overtaken: Why it was not, though the gate let it through.
    """

    manifest: Manifest
    expected: str
    promoted: bool | None = None
    overtaken: str | None = None


def result_path(settings: Settings, run: str) -> Path:
    """Where the result of a run is, from its verdict until that is in the database."""
    return settings.runs_dir / f"result-{run}.json"


def write_result(path: Path, result: Result) -> None:
    """Writes it, whole or not at all."""
    work = path.with_suffix(".new")
    work.write_text(result.model_dump_json() + "\n", encoding="utf-8")
    sync(work)
    work.replace(path)
    sync(path.parent)


def read_result(path: Path) -> Result | None:
    """The result; None where there is none."""
    try:
        return Result.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def settle(registry: Registry, result: Result, by: str) -> Result:
    """Promotes what passed the gate, unless a person moved the pointer since it began. Doing it again changes nothing.

    Args:
        registry: Where the adapter is.
        result: Of a run, whose process may have been ended at any step of this.
        by: Who is written into the promotion's history.

    Returns:
        The result with `promoted` decided.

    Raises:
        AdapterError: The version may not answer.
    """
    manifest = result.manifest
    if manifest.gate is None or not manifest.gate.passed:
        return result.model_copy(update={"promoted": False})
    ref = registry.ref(manifest.name, manifest.digest)
    moves = [entry for entry in registry.history(ref.name) if entry.kind in ("promote", "rollback")]
    # A kill between the line in the history and the pointer leaves a last move to what is not active.
    half = bool(moves) and moves[-1].digest == ref.digest and registry.active(ref.name) != ref
    if half or all(entry.digest != ref.digest for entry in moves):
        try:
            registry.promote(ref, by, expected=result.expected)
        except Overtaken as exc:
            return result.model_copy(update={"promoted": False, "overtaken": exc.message})
    # Else it was promoted before a kill, and what became of the pointer since is a person's doing.
    return result.model_copy(update={"promoted": True})
