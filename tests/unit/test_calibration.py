"""The threshold for declining: as few answerable questions declined as asked for, on given leads."""

from collections.abc import Sequence

import pytest

from tandem.completions import Completions
from tandem.manifest import Threshold
from tandem.prompt import Source
from tandem.schemas import Sampling
from training.asked import Prompts
from training.calibration import calibrate
from training.trials import Trial


class Leads:
    """In the place of a model: gives the leads that a test wants, question by question."""

    declining_token = 57

    def __init__(self, leads: Sequence[float], odds: Sequence[float | None] | None = None) -> None:
        self._leads = list(leads)
        self._odds = odds or [None] * len(self._leads)

    def declining(self, asked: Sequence[Prompts]) -> list[float]:
        return self._leads[: len(asked)]

    def odds(self, asked: Sequence[Prompts]) -> list[float | None]:
        return list(self._odds[: len(asked)])


def trials(answerable: int, unanswerable: int = 3) -> list[Trial]:
    kinds = [True] * answerable + [False] * unanswerable
    return [Trial("q", (Source("t", "h", "x"),), "===", "a", answerable=kind) for kind in kinds]


@pytest.mark.parametrize("most", [0.0, 0.1, 0.25, 0.5])
def test_no_more_answerable_questions_are_declined_than_asked_for(most: float):
    leads = [-2.0, -1.0, -0.5, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 3.0]
    threshold = calibrate(Leads(leads), trials(10), most, 0.0)  # type: ignore[arg-type]
    assert threshold is not None
    assert threshold.token == 57
    assert sum(lead + threshold.bias > 0 for lead in leads) <= most * len(leads)
    looser = threshold.bias + 0.45  # and it is held back no more than that needs
    assert sum(lead + looser > 0 for lead in leads) > most * len(leads) or most == 0.5


def test_a_model_that_hardly_declines_is_left_alone():
    assert calibrate(Leads([-3.0, -2.0, -1.0, 0.5]), trials(4), 0.25, 0.0) is None  # type: ignore[arg-type]
    assert calibrate(Leads([]), trials(0), 0.25, 0.0) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("held", [0.0, 0.1, 0.2, 0.3])
def test_no_more_are_declined_than_asked_for_where_the_cross_encoder_tells(held: float):
    leads = [-2.0, -1.0, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 3.0, 1.0]
    odds = [-3.0, 2.0, -1.0, -6.0, 1.0, -2.0, 3.0, 0.5, -1.5, -0.2]
    threshold = calibrate(Leads(leads, odds), trials(10), 1.0, held)  # type: ignore[arg-type]
    assert threshold is not None
    assert threshold.odds is not None

    def declined(threshold: Threshold) -> int:
        return sum(lead + threshold.held_back(odd) > 0 for lead, odd in zip(leads, odds, strict=True))

    assert declined(threshold) == held * len(leads)
    one_more = sorted(odd - lead for lead, odd in zip(leads, odds, strict=True) if lead > 0)[round(held * 10)]
    assert declined(threshold.model_copy(update={"odds": one_more + 0.01})) > held * len(leads)


def test_declining_is_held_back_no_further_than_even_odds():
    threshold = calibrate(Leads([-1.0, -2.0], [4.0, 5.0]), trials(2), 0.0, 0.0)  # type: ignore[arg-type]
    assert threshold == Threshold(token=57, bias=0.0, odds=0.0)
    assert [threshold.held_back(odds) for odds in (2.5, 0.0, -3.0, None)] == [-2.5, 0.0, 0.0, 0.0]
    assert Threshold(token=57, bias=-0.5).held_back(2.5) == -0.5


def test_the_model_server_is_asked_for_it():
    completions = Completions("http://127.0.0.1:9/v1", None, 1.0)
    assert completions._body([], "m", Sampling(bias=((57, -1.5),)))["logit_bias"] == {"57": -1.5}
    assert "logit_bias" not in completions._body([], "m", Sampling())
