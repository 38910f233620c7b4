"""Exposure over known distributions of losses."""

import numpy as np
import pytest

from tandem.errors import InputError
from training.exposure import measure_exposure


def test_a_secret_below_all_controls_has_all_the_bits():
    found = measure_exposure([0.5] * 8, [float(n) for n in range(1, 1024)])
    assert found.bits == found.highest == pytest.approx(10)
    assert found.chance < 1e-4


def test_a_secret_above_all_controls_has_none():
    found = measure_exposure([5000.0], [float(n) for n in range(1, 1024)])
    assert found.bits == pytest.approx(0)
    assert found.chance == pytest.approx(1, abs=1e-3)


def test_equal_losses_are_no_exposure():
    assert measure_exposure([1.0] * 8, [1.0] * 1000).bits == pytest.approx(1, abs=0.01)


def test_what_was_not_remembered_is_refused_as_often_as_the_limit_says():
    rng = np.random.default_rng(3)
    refused = sum(measure_exposure(rng.normal(size=16), rng.normal(size=1000)).chance < 0.05 for _ in range(60))
    assert refused <= 8  # 3 expected; more than 8 happens once in 250 times


def test_chance_gives_nearly_one_and_a_half_bits():
    rng = np.random.default_rng(4)
    found = measure_exposure(rng.normal(size=100), rng.normal(size=4000))
    assert found.bits == pytest.approx(1 / np.log(2), abs=0.4)
    assert 0.1 < found.chance < 0.9


@pytest.mark.parametrize(
    "canaries",
    [
        pytest.param(np.random.default_rng(5).normal(-1.2, 1, 16), id="a little memory of all"),
        pytest.param([-9.0, -9.0, -9.0, *np.linspace(-1.5, 1.5, 13)], id="a perfect memory of three in sixteen"),
    ],
)
def test_memory_stands_out(canaries):
    assert measure_exposure(canaries, np.random.default_rng(6).normal(size=1000)).chance < 0.01


@pytest.mark.parametrize(("canaries", "controls"), [([], [1.0]), ([1.0], []), ([float("nan")], [1.0])])
def test_what_cannot_be_compared(canaries, controls):
    with pytest.raises(InputError, match="needs finite losses"):
        measure_exposure(canaries, controls)
