"""Which examples an adapter has had: in the run that made it, in those that it goes on from, and where it came from."""

import random
from collections.abc import Sequence
from pathlib import Path

from tandem.database import Database
from tandem.errors import AdapterError, NotFound
from tandem.registry import Registry
from tandem.settings import Settings
from tandem.tables import TrainingRunRow
from training.examples import StyleExample, example_digest, group_by_sources
from training.runs import TrainingRuns

TAUGHT = "taught.txt"  # in the registry, beside the versions of an adapter
_SHORT = 16  # digits of a digest in it


class Taught:
    """Examples that an adapter has had, by their digests."""

    def __init__(self, digests: frozenset[str]) -> None:
        self._digests = frozenset(digest[:_SHORT] for digest in digests)

    def __contains__(self, example: StyleExample) -> bool:
        return example_digest(example)[:_SHORT] in self._digests


def write_taught(folder: Path, examples: Sequence[StyleExample]) -> None:
    """Lists, for those who install an adapter, which examples it has had, by it or by what it goes on from.

    Args:
        folder: `NAME` of the registry that is handed on.
        examples: What it was trained on, and what the adapters were that it goes on from.
    """
    digests = sorted({example_digest(example)[:_SHORT] for example in examples})
    (folder / TAUGHT).write_text("".join(f"{digest}\n" for digest in digests), encoding="utf-8")


def read_taught(folder: Path) -> frozenset[str]:
    """Beginnings of the digests of what the adapters in `folder` had where they came from.

    Raises:
        AdapterError: The list cannot be read.
    """
    path = folder / TAUGHT
    try:
        return frozenset(path.read_text(encoding="utf-8", errors="replace").split())  # a broken byte costs its line
    except FileNotFoundError:
        return frozenset()
    except OSError as exc:
        raise AdapterError(
            f"{str(path)!r}, which lists the examples that the adapter has had, cannot be read: {exc.strerror}. "
            "Make it readable, or remove it: all examples count as new then."
        ) from exc


def taught_to(settings: Settings, served: str) -> Taught:
    """What an adapter has had, as far as the runs on record and the list beside it tell.

    A run that made another adapter says nothing about this one, though it may have been given the same file.

    Args:
        settings: Where registry and state database are.
        served: `NAME@DIGEST12`.

    Raises:
        AdapterError: The list beside it cannot be read.
        DatabaseUnavailable: The state database does not answer.
    """
    name, _, _ = served.partition("@")
    digests = read_taught(settings.registry / name)
    line = _line(Registry.open(settings), served)
    database = Database(settings.database)
    try:
        if not database.holds(TrainingRunRow.__tablename__):
            return Taught(digests)
        return Taught(digests.union(*(TrainingRuns(database).examples_of(each) for each in line)))
    finally:
        database.close()


def drawn_again(examples: Sequence[StyleExample], taught: Taught, share: float, seed: int) -> tuple[StyleExample, ...]:
    """All groups in which something is new, and a share of the others; the same ones for equal arguments.

    Args:
        examples: In the order of their file, which is kept.
        taught: What the adapter has had.
        share: Of the groups that hold nothing new, above 0, at most 1. Any at all gives one group at least.
        seed: Chooses them.
    """
    groups = group_by_sources(examples)
    had = [group for group in groups if all(example in taught for example in group.examples)]
    rested = random.Random(seed).sample(had, len(had) - max(1, round(share * len(had)))) if had else []
    left_out = {group.sources for group in rested}
    return tuple(example for example in examples if example.sources not in left_out)


def _line(registry: Registry, served: str) -> list[str]:
    """An adapter, the one that it goes on from, and so on, as far as they are in the registry."""
    line: list[str] = []
    wanted: object = served
    while isinstance(wanted, str) and wanted not in line:
        line.append(wanted)
        try:
            wanted = registry.manifest(registry.get(wanted)).training.get("start_from")
        except (AdapterError, NotFound):
            break
    return line
