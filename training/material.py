"""What a run has to work with: the examples that passed the guards, those held out, the house style."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tandem.database import Database
from tandem.errors import ExampleError
from tandem.settings import Settings
from tandem.style import StyleGuide, load_style
from training.corpus_facts import CorpusFacts
from training.events import Say
from training.examples import StyleExample, load_examples
from training.guards import Refusal, guard
from training.launch import is_main_process
from training.preferences import Preference, guard_preferences, load_preferences
from training.taught import drawn_again, taught_to

_LISTED = 20  # refused examples in a run's log; a file beside it lists all


@dataclass(frozen=True)
class Material:
    """What is trained on, and what a candidate is examined with.

    Attributes:
        trained: The examples that passed the guards.
        heldout: Examples on other sources: what the gate asks about.
        tuning: More of them, on other topics, for the held-out loss and the threshold, so that the gate judges by what
            decided nothing.
        guide: The house style.
        refused: How many did not pass.
        rested: How many are not drawn again, for the adapter that training goes on from has had them.
        preferences: Pairs of answers for the second stage.
    """

    trained: Sequence[StyleExample]
    heldout: Sequence[StyleExample]
    guide: StyleGuide
    tuning: Sequence[StyleExample] = ()
    refused: int = 0
    rested: int = 0
    preferences: Sequence[Preference] = ()

    @property
    def chosen(self) -> list[StyleExample]:
        """The preferred answers as examples."""
        return [preference.as_example(preference.chosen) for preference in self.preferences]

    @property
    def rejected(self) -> list[StyleExample]:
        """The answers that they were preferred to."""
        return [preference.as_example(preference.rejected) for preference in self.preferences]


def read_material(settings: Settings, examples: Path, say: Say) -> Material:
    """Reads and guards the examples of a run.

    Args:
        settings: Where the held-out examples, the style and the ingested documents are.
        examples: JSON Lines.
        say: Told what is refused, and why; `refused.jsonl` in the runs' folder lists all.

    Raises:
        ExampleError: A file cannot be read, or no example is left.
        SettingsError: The house style cannot be read.
        AdapterError: What the adapter has had that training goes on from cannot be read.
        DatabaseUnavailable: The state database does not answer.
    """
    guide = load_style(settings.style)
    facts = _facts(settings, say)
    rows = load_examples(examples)
    guarded = guard(rows, facts)
    listing = settings.runs_dir / "refused.jsonl"
    if is_main_process():
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("".join(refusal.model_dump_json() + "\n" for refusal in guarded.refusals), encoding="utf-8")
    _list("Example", guarded.refusals, f"are listed in {str(listing)!r}", say)
    if not guarded.examples:
        raise ExampleError(
            f"None of the {len(rows)} examples in {examples.name!r} passed the guards. "
            f"The first: {guarded.refusals[0].message} All are listed in {str(listing)!r}."
        )
    say("guard", _counted(guarded.refusals, len(rows)))
    trained = _replayed(guarded.examples, settings, say)
    rested = len(guarded.examples) - len(trained)
    asked, tuning = halve(_heldout(settings, facts, say))
    preferences = _preferences(settings, facts, say)
    return Material(trained, asked, guide, tuning, len(guarded.refusals), rested, preferences)


def halve(examples: Sequence[StyleExample]) -> tuple[list[StyleExample], list[StyleExample]]:
    """Every second topic, in order of first appearance, and the others; without a topic, the sources are one."""
    places: dict[object, int] = {}
    halves: tuple[list[StyleExample], list[StyleExample]] = ([], [])
    for example in examples:
        halves[places.setdefault(example.topic or example.sources, len(places)) % 2].append(example)
    return halves


def _replayed(examples: Sequence[StyleExample], settings: Settings, say: Say) -> Sequence[StyleExample]:
    """All that is new to the adapter that training goes on from, and as much of the rest as is wanted."""
    training = settings.training
    if training.replay == 1:
        return examples
    if training.start_from is None:
        say("guard", "TANDEM_TRAINING__REPLAY has no effect: all is drawn without TANDEM_TRAINING__START_FROM.")
        return examples
    taught = taught_to(settings, training.start_from)
    drawn = drawn_again(examples, taught, training.replay, training.seed)
    had = sum(example in taught for example in examples)
    say("guard", f"{training.start_from} has had {had} of them; {len(drawn)} are drawn from, all new ones with them.")
    return drawn


def _heldout(settings: Settings, facts: CorpusFacts | None, say: Say) -> Sequence[StyleExample]:
    rows = load_examples(settings.training.heldout)
    guarded = guard(rows, facts)
    _list("Held-out example", guarded.refusals, "are left out", say)
    if guarded.refusals:
        say("guard", f"Of the held-out ones, {_counted(guarded.refusals, len(rows))}")
    return guarded.examples


def _preferences(settings: Settings, facts: CorpusFacts | None, say: Say) -> Sequence[Preference]:
    path = settings.training.preferences
    if path is None:
        return ()
    guarded = guard_preferences(load_preferences(path), facts)
    _list("Pair", guarded.refusals, "are left out", say)
    say("guard", f"{len(guarded.preferences)} pairs of answers pass the guards, {len(guarded.refusals)} do not.")
    return guarded.preferences


def _list(what: str, refused: Sequence[Refusal], others: str, say: Say) -> None:
    for refusal in refused[:_LISTED]:
        say("guard", f"{what} {refusal.number} is left out ({refusal.reason}): {refusal.message}")
    if len(refused) > _LISTED:
        say("guard", f"{len(refused) - _LISTED} more {others}.")


def _counted(refused: Sequence[Refusal], read: int) -> str:
    counts = ", ".join(f"{count} {reason}" for reason, count in Counter(r.reason for r in refused).most_common())
    left_out = f"; left out: {counts}" if counts else ""
    return f"{read - len(refused)} of {read} examples pass the guards{left_out}."


def _facts(settings: Settings, say: Say) -> CorpusFacts | None:
    database = Database(settings.database)
    try:
        facts = CorpusFacts.of(database)
    finally:
        database.close()
    if facts is None:
        say("guard", "No documents are ingested here: the examples are not compared with any.")
    else:
        say("guard", f"The examples are compared with the {facts.documents} documents that are live.")
    return facts
