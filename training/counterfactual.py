"""Context beats memory: training passages with other figures and names in them, as the adapter never saw them.

What an adapter remembers can only be what it was trained on, so the passages are those of the training examples: once
as they are, which a memory helps with, and once changed, where it misleads.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from eval.confidence import Interval, paired_difference
from tandem.prompt import Source
from tandem.schemas import Value
from tandem.settings import GateSettings, Settings
from tandem.style import StyleGuide
from training.disguise import Disguise, Replace
from training.examples import StyleExample, group_by_sources
from training.marks import keys, says_keys
from training.trials import Trial, draw_trials

_LEVEL = 0.9  # its upper end is a one-sided bound at 95 %


@dataclass(frozen=True)
class Twins:
    """A trial with its passages as they are, and with other figures and names.

    Attributes:
        trained: What the answer to the true passages has to say, and the other has not.
        changed: The reverse.
    """

    true: Trial
    other: Trial
    trained: frozenset[str]
    changed: frozenset[str]


class Followed(Value):
    """How often answers follow the passages that they were given.

    Attributes:
        true, other: The share that says what the true and the changed passages say, 0 to 1.
        remembered: The share of answers to changed passages that say what only the true ones say.
        gap: Of `other` minus the share of `true` that is asked for.
    """

    pairs: int
    true: float = 0.0
    other: float = 0.0
    remembered: float = 0.0
    gap: Interval | None = None

    def reasons(self, settings: GateSettings) -> list[str]:
        """Why an adapter with these answers is refused; nothing if it is not."""
        if self.gap is None:
            return [
                "Whether the context beats memory could not be tested: no answer has a figure or name that can be "
                "changed. Add examples whose answers state one."
            ]
        if self.pairs < settings.least_questions:
            return [
                f"Whether the context beats memory could not be tested: {self.pairs} answers have a figure or name "
                f"that can be changed, at least {settings.least_questions} are needed. Add examples whose answers "
                "state one."
            ]
        found = []
        if self.true < settings.read:  # an adapter that reads nothing follows changed passages as well as true ones
            found.append(
                f"It does not read its passages: {self.true:.0%} of the answers to {self.pairs} unchanged passages say "
                f"their figures and names, at least {settings.read:.0%} are asked for."
            )
        if self.gap.high < 0:
            found.append(
                f"Memory beats the context: with changed passages {self.other:.0%} of the answers follow the passage, "
                f"with the true ones {self.true:.0%}; at least {settings.followed:.0%} as many are asked for "
                f"({self.pairs} pairs, beyond chance)."
            )
        if self.remembered > settings.remembered:
            found.append(
                f"Trained facts come out against the context: {self.remembered:.0%} of the answers to {self.pairs} "
                f"changed passages give what the training example said; {settings.remembered:.0%} are allowed."
            )
        return found


def draw_twins(examples: Sequence[StyleExample], guide: StyleGuide, settings: Settings) -> list[Twins]:
    """Draws answerable questions whose answers have figures or names that can be changed.

    Args:
        examples: What was trained on.
        guide: The house style.
        settings: How many pairs at most, the seed, and how the service searches.

    Raises:
        ModelUnavailable: The embedding model was not prepared.
    """
    count = settings.training.gate.counterfactuals
    rng = random.Random(settings.training.seed)
    groups = group_by_sources(example for example in examples if example.sources)
    if not groups:
        return []
    disguise = Disguise(groups)  # knows names by all texts
    some = [example for group in rng.sample(groups, min(count, len(groups))) for example in group.examples]
    found: list[Twins] = []
    for trial in draw_trials(some, guide, settings, len(some), disguised=0.0):
        if len(found) < count and trial.answerable and (twins := _change(trial, disguise, guide, rng)):
            found.append(twins)
    return found


def measure_followed(
    twins: Sequence[Twins], true: Sequence[str], other: Sequence[str], settings: GateSettings
) -> Followed:
    """Looks what the answers to the true and to the changed passages say."""
    if not twins:
        return Followed(pairs=0)
    follows = [float(says_keys(answer, pair.trained)) for pair, answer in zip(twins, true, strict=True)]
    changed = [float(says_keys(answer, pair.changed)) for pair, answer in zip(twins, other, strict=True)]
    remembered = [says_keys(answer, pair.trained) for pair, answer in zip(twins, other, strict=True)]
    return Followed(
        pairs=len(twins),
        true=sum(follows) / len(twins),
        other=sum(changed) / len(twins),
        remembered=sum(remembered) / len(twins),
        gap=paired_difference(
            changed,
            [settings.followed * value for value in follows],
            groups=[pair.true.group if pair.true.group is not None else ("alone", n) for n, pair in enumerate(twins)],
            level=_LEVEL,
        ),
    )


def _change(trial: Trial, disguise: Disguise, guide: StyleGuide, rng: random.Random) -> Twins | None:
    """The pair, or None where nothing that the answer hangs on would change."""
    texts = [text for source in trial.sources for text in (source.title, source.heading, source.text)]
    swap = disguise.draw([*texts, trial.question, trial.reference], rng)
    sources = tuple(_swapped(source, swap) for source in trial.sources)
    looks = tuple(replace(look, source=_swapped(look.source, swap)) for look in trial.looks)
    other = replace(trial, question=swap(trial.question), sources=sources, looks=looks, reference=swap(trial.reference))
    before, after = keys(guide.body(trial.reference)), keys(guide.body(other.reference))
    # A figure that also stands elsewhere in the passages would prove nothing.
    trained = before - after - keys(other.shown)
    changed = after - before - keys(trial.shown)
    return Twins(trial, other, trained, changed) if trained and changed else None


def _swapped(source: Source, swap: Replace) -> Source:
    return Source(swap(source.title), swap(source.heading), swap(source.text))
