"""How sure a measured difference is: paired bootstrap over the cases.

Where all differences are equal, resampling them shows no spread at all, and four cases would prove as much as four
hundred. So two further cases are drawn among the others, one won and one lost, as Bonett and Price (2012) add them to
paired shares, by as much as any case was, or outright where none was: the interval of n ties reaches some 2 / n to
either side.
"""

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from eval.outcome import Outcome
from tandem.errors import InputError
from tandem.schemas import Arm, Value

_BLOCK = 1_000_000  # indices drawn at once, to bound memory


class Interval(Value):
    """A mean with its bootstrap percentile interval. It has width where all values are equal."""

    mean: float
    low: float
    high: float
    n: int
    level: float = 0.95

    @property
    def gain(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.low > 0

    @property
    def loss(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.high < 0


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 7,
) -> Interval:
    """The mean of `first - second` over the same cases, with its interval.

    Args:
        first, second: One value from 0 to 1 a case, in the same order.
        groups: What each case belongs to: those of a group are drawn together, for they are not independent. None: each
            case by itself.
        resamples: Bootstrap samples.
        level: Coverage of the interval, between 0 and 1.
        seed: The same seed gives the same interval.

    Raises:
        InputError: The lengths differ, there are no values, one is not finite, or an option is out of range.
    """
    if len(first) != len(second):
        raise InputError(
            f"A paired comparison needs as many values on both sides, and there are {len(first)} and {len(second)}: "
            "pair them by case."
        )
    if not len(first):
        raise InputError("A paired comparison needs at least one case that was scored on both sides.")
    if not 0 < level < 1 or resamples < 1:
        raise InputError(f"Take a level between 0 and 1 (it is {level!r}) and at least one resample ({resamples!r}).")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if not np.isfinite(differences).all():
        raise InputError("A paired comparison needs finite values: leave out the cases that were not scored.")
    most = float(np.abs(differences).max()) or 1.0
    means = _resampled_means(*_by_group(differences, groups), most, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    mean = float(differences.mean())
    # The two further cases draw the interval towards zero: a mean near 1 may lie outside.
    return Interval(mean=mean, low=min(float(low), mean), high=max(float(high), mean), n=len(differences), level=level)


def compare_arms(
    outcomes: Sequence[Outcome],
    first: Arm,
    second: Arm,
    measure: Callable[[Outcome], float | None],
    *,
    seed: int = 7,
) -> Interval | None:
    """The paired difference `first - second` of one measure.

    Args:
        outcomes: Of a whole run; others than these two arms' are passed over.
        first, second: The arms.
        measure: The value of an outcome, None where it has none. A case counts where both arms have a value.
        seed: The same seed gives the same interval.

    Returns:
        The interval, or None when no case was scored in both.
    """
    sides: dict[Arm, dict[str, float]] = {first: {}, second: {}}
    for outcome in outcomes:
        if outcome.arm in sides and outcome.answer is not None:
            value = measure(outcome)
            if value is not None:
                sides[outcome.arm][outcome.case.id] = float(value)
    ids = [id for id in sides[first] if id in sides[second]]
    if not ids:
        return None
    return paired_difference([sides[first][id] for id in ids], [sides[second][id] for id in ids], seed=seed)


def _by_group(values: np.ndarray, groups: Sequence[Hashable] | None) -> tuple[np.ndarray, np.ndarray]:
    """The sums and the sizes of the groups."""
    if groups is None:
        return values, np.ones(len(values))
    places: dict[Hashable, int] = {}
    which = np.array([places.setdefault(group, len(places)) for group in groups])
    return np.bincount(which, weights=values), np.bincount(which).astype(np.float64)


def _resampled_means(
    sums: np.ndarray, sizes: np.ndarray, most: float, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """Means of groups drawn anew, among them a case won and one lost by `most`."""
    sizes = np.append(sizes, [1.0, 1.0])
    # Both ways round, so that the interval turns exactly with its sides.
    won_first, lost_first = np.append(sums, [most, -most]), np.append(sums, [-most, most])
    n = len(sizes)
    rows = max(1, _BLOCK // n)
    means = []
    for start in range(0, resamples, rows):
        drawn = generator.integers(0, n, size=(min(rows, resamples - start), n))
        cases = sizes[drawn].sum(axis=1)
        means += [won_first[drawn].sum(axis=1) / cases, lost_first[drawn].sum(axis=1) / cases]
    return np.concatenate(means)
