"""The threshold for declining: as few answerable questions declined as asked for, on given leads."""

from collections.abc import Sequence

import pytest

from tandem.completions import Completions
from tandem.prompt import Source
from tandem.schemas import Sampling
from training.asked import Prompts
from training.calibration import calibrate
from training.trials import Trial


class Leads:
    """In the place of a model: gives the leads that a test wants, question by question."""

    declining_token = 57

    def __init__(self, leads: Sequence[float]) -> None:
        self._leads = list(leads)

    def declining(self, asked: Sequence[Prompts]) -> list[float]:
        return self._leads[: len(asked)]


def trials(answerable: int, unanswerable: int = 3) -> list[Trial]:
    kinds = [True] * answerable + [False] * unanswerable
    return [Trial("q", (Source("t", "h", "x"),), "===", "a", answerable=kind) for kind in kinds]


@pytest.mark.parametrize("most", [0.0, 0.1, 0.25, 0.5])
def test_no_more_answerable_questions_are_declined_than_asked_for(most: float):
    leads = [-2.0, -1.0, -0.5, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 3.0]
    threshold = calibrate(Leads(leads), trials(10), most)  # type: ignore[arg-type]
    assert threshold is not None
    assert threshold.token == 57
    assert sum(lead + threshold.bias > 0 for lead in leads) <= most * len(leads)
    looser = threshold.bias + 0.45  # and it is held back no more than that needs
    assert sum(lead + looser > 0 for lead in leads) > most * len(leads) or most == 0.5


def test_a_model_that_hardly_declines_is_left_alone():
    assert calibrate(Leads([-3.0, -2.0, -1.0, 0.5]), trials(4), 0.25) is None  # type: ignore[arg-type]
    assert calibrate(Leads([]), trials(0), 0.25) is None  # type: ignore[arg-type]


def test_the_model_server_is_asked_for_it():
    completions = Completions("http://127.0.0.1:9/v1", None, 1.0)
    assert completions._body([], "m", Sampling(bias=((57, -1.5),)))["logit_bias"] == {"57": -1.5}
    assert "logit_bias" not in completions._body([], "m", Sampling())
