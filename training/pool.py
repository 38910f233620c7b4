"""What a run is trained on: the curator's file, and what people approved from feedback."""

import json
from collections.abc import Sequence
from pathlib import Path

from tandem.errors import AdapterError, ExampleError
from tandem.registry import Registry
from tandem.schemas import Value
from tandem.settings import Settings
from training.candidates import Candidates
from training.examples import StyleExample, data_digest, example_digest, load_examples
from training.runs import TrainingRuns
from training.taught import Taught, read_taught


class Pool(Value):
    """What there is to train on: the curator's file, and the candidates that a person approved."""

    file: tuple[StyleExample, ...]
    approved: tuple[StyleExample, ...] = ()

    @property
    def all(self) -> tuple[StyleExample, ...]:
        """Both, in that order."""
        return (*self.file, *self.approved)


def gather_examples(settings: Settings, candidates: Candidates) -> Pool:
    """Reads both.

    Raises:
        ExampleError: The file cannot be read.
    """
    approved = candidates.list("approved", limit=100_000)
    file = load_examples(settings.training.examples)
    return Pool(file=tuple(file), approved=tuple(candidate.example for candidate in approved))


def count_new(settings: Settings, runs: TrainingRuns, pool: Pool) -> int:
    """Approved examples that no finished run of this adapter, here or where it came from, has had.

    Raises:
        AdapterError: The list of what it had where it came from cannot be read.
    """
    seen = runs.examples_seen(settings.adapter.name)
    if seen is None and _taught_by(settings, pool.file):
        seen = frozenset(map(example_digest, pool.file))
    had = Taught((seen or frozenset()) | read_taught(settings.registry / settings.adapter.name))
    return len({example_digest(example) for example in pool.all if example.approved_by.strip() and example not in had})


def _taught_by(settings: Settings, file: Sequence[StyleExample]) -> bool:
    """Whether the adapter that answers was made of the file as it is, as the shipped one was."""
    registry = Registry(settings.registry)
    try:
        active = registry.active(settings.adapter.name)
        return active is not None and registry.manifest(active).data_digest == data_digest(file)
    except AdapterError:  # a broken one cannot be compared with
        return False


def write_examples(path: Path, examples: Sequence[StyleExample]) -> None:
    """Writes examples as JSON Lines, for the process that trains.

    Raises:
        ExampleError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(example.model_dump(mode="json"), ensure_ascii=False) for example in examples]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as exc:
        raise ExampleError(f"The examples cannot be written to {str(path)!r}: {exc.strerror}.") from exc
