"""Exposure of planted secrets (Carlini et al., The Secret Sharer, 2019), and whether it is more than chance gives.

A canary's exposure is log2(n + 1) - log2(rank): its rank by loss, from 1, among itself and n sequences of the same
format that were not trained on. A secret that left no trace has any rank with equal chance, and an exposure of 1.44
bits on average. The mean over several canaries is compared with what as many evenly drawn ranks give, so that both a
little memory of all and a perfect memory of a few stand out.

Instead of the loss itself, its change in training can be given: some secrets are easier than others for any model.
"""

from collections.abc import Sequence

import numpy as np

from tandem.errors import InputError
from tandem.schemas import Value

_SIMULATED = 100_000
_SEED = 7


class Exposure(Value):
    """How far canaries stand out among controls.

    Attributes:
        bits: Mean exposure of the canaries.
        highest: That of the most exposed one; log2(controls + 1) at most.
        chance: How probable a mean this high is if nothing was remembered, 0 to 1.
    """

    canaries: int
    controls: int
    bits: float
    highest: float
    chance: float


def measure_exposure(canaries: Sequence[float], controls: Sequence[float]) -> Exposure:
    """Compares the losses of planted sequences with those of sequences never seen.

    Args:
        canaries: Losses of what was trained on.
        controls: Losses of the same kind of text, not trained on.

    Raises:
        InputError: One side is empty, or a loss is not finite.
    """
    planted, unseen = np.asarray(canaries, dtype=np.float64), np.asarray(controls, dtype=np.float64)
    if not len(planted) or not len(unseen) or not np.isfinite([*planted, *unseen]).all():
        raise InputError(
            f"Exposure needs finite losses of canaries and controls; there are {len(planted)} and {len(unseen)}: "
            "see whether the shadow run's loss diverged."
        )
    below = (unseen[None, :] < planted[:, None]).sum(axis=1)
    equal = (unseen[None, :] == planted[:, None]).sum(axis=1)
    bits = _bits(1 + below + equal / 2, len(unseen))
    return Exposure(
        canaries=len(planted),
        controls=len(unseen),
        bits=float(bits.mean()),
        highest=float(bits.max()),
        chance=_chance(float(bits.mean()), len(planted), len(unseen)),
    )


def _bits(ranks: np.ndarray, controls: int) -> np.ndarray:
    return np.asarray(np.log2(controls + 1) - np.log2(ranks))


def _chance(mean: float, canaries: int, controls: int) -> float:
    """The share of draws of even ranks whose mean exposure is at least `mean`."""
    ranks = np.random.default_rng(_SEED).integers(1, controls + 2, size=(_SIMULATED, canaries))
    means = _bits(ranks, controls).mean(axis=1)
    return float((1 + (means >= mean - 1e-12).sum()) / (1 + _SIMULATED))
