import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.confidence import paired_difference
from tandem.errors import InputError

SHARES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30)


@given(SHARES)
def test_the_interval_holds_the_mean_and_turns_with_its_sides(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    interval = paired_difference(first, second, resamples=200)
    assert interval.low <= interval.mean <= interval.high
    assert interval.mean == pytest.approx(np.mean(first) - np.mean(second), abs=1e-9)
    turned = paired_difference(second, first, resamples=200)
    assert turned.mean == pytest.approx(-interval.mean, abs=1e-9)
    assert turned.low == pytest.approx(-interval.high, abs=1e-6)


def test_the_same_seed_gives_the_same_interval_and_another_one_differs() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.random(40).tolist(), generator.random(40).tolist()
    assert paired_difference(first, second) == paired_difference(first, second)
    assert paired_difference(first, second, seed=8) != paired_difference(first, second)


def test_it_covers_the_true_difference_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for run in range(200):
        differences = generator.normal(0.1, 0.3, size=60)
        interval = paired_difference(differences.tolist(), [0.0] * 60, resamples=500, seed=run)
        covered += interval.low <= 0.1 <= interval.high
    assert 0.89 <= covered / 200 <= 0.99


def test_a_clear_gain_and_a_clear_loss_are_told_and_a_tie_is_neither() -> None:
    ones, zeros = [1.0] * 20, [0.0] * 20
    mixed = [1.0, 0.0] * 10
    assert paired_difference(ones, mixed).gain
    assert paired_difference(zeros, mixed).loss
    tie = paired_difference(mixed, mixed)
    assert (tie.mean, tie.gain, tie.loss) == (0, False, False)


@pytest.mark.parametrize(("n", "reach"), [(4, 0.39), (20, 0.106), (100, 0.023)])
def test_ties_are_no_certainty_and_less_so_the_fewer_they_are(n: int, reach: float) -> None:
    """The reach is Bonett's and Price's: 1.645 times the square root of 2, over n + 2."""
    tie = paired_difference([1.0] * n, [1.0] * n, level=0.9)
    assert tie.mean == 0
    assert tie.high == pytest.approx(reach, rel=0.3)
    assert tie.low == -tie.high


def test_few_pairs_hold_the_true_difference_as_often_as_asked_for() -> None:
    """Twelve pairs of rights and wrongs, of which one in ten differs: plain resampling holds it in 70 of 100 runs."""
    generator = np.random.default_rng(3)
    held = 0
    for run in range(100):
        differences = generator.choice([-1.0, 0.0, 1.0], p=[0.1, 0.9, 0.0], size=12)
        interval = paired_difference(differences.tolist(), [0.0] * 12, resamples=500, seed=run)
        held += interval.low <= -0.1 <= interval.high
    assert held >= 93


def test_cases_of_a_group_count_together() -> None:
    values = [1.0, 0.0] * 10
    apart = paired_difference(values, [0.5] * 20)
    first = [value for value in values for _ in range(5)]
    groups = [n // 5 for n in range(100)]
    together = paired_difference(first, [0.5] * 100, groups=groups)
    alone = paired_difference(first, [0.5] * 100)
    assert alone.high - alone.low < 0.6 * (apart.high - apart.low)
    assert together.high - together.low == pytest.approx(apart.high - apart.low, rel=0.2)


def test_pairing_makes_it_narrower_than_the_spread_of_the_cases() -> None:
    hard = np.random.default_rng(2).random(50)
    paired = paired_difference((hard + 0.05).tolist(), hard.tolist())
    assert paired.gain
    assert not paired_difference((hard + 0.05).tolist(), hard[::-1].tolist()).gain


def test_many_cases_are_drawn_in_blocks_with_one_result() -> None:
    interval = paired_difference([1.0] * 1500 + [0.0] * 1500, [0.5] * 3000, resamples=1000)
    assert interval.n == 3000
    assert -0.03 < interval.low < 0 < interval.high < 0.03


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [([1.0], [1.0, 2.0], "1 and 2"), ([], [], "at least one"), ([float("nan")], [1.0], "finite")],
)
def test_what_cannot_be_compared_is_refused(first: list[float], second: list[float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        paired_difference(first, second)
