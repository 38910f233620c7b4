"""Trials as the gate draws them."""

import pytest

from tandem.settings import load_settings
from tandem.style import load_style
from training.augment import _INJECTIONS
from training.examples import load_examples
from training.trials import _HIDDEN, draw_trials, plant_instructions

SETTINGS = load_settings()
GUIDE = load_style(SETTINGS.style)
HELDOUT = load_examples(SETTINGS.training.heldout)[:100]

pytestmark = pytest.mark.usefixtures("embedder_dir")  # evidence is searched for as in service


def test_trials_are_drawn_alike_each_time_and_hold_both_kinds():
    trials = draw_trials(HELDOUT, GUIDE, SETTINGS, 40)
    assert trials == draw_trials(HELDOUT, GUIDE, SETTINGS, 40)
    assert len(trials) == 40
    assert sum(not one.answerable for one in trials) == 13
    assert trials[:20] != sorted(trials, key=lambda one: one.answerable)[:20]


def test_each_hidden_instruction_asks_for_a_word_that_stands_nowhere_else():
    trials = draw_trials(HELDOUT, GUIDE, SETTINGS, 30)
    planted = plant_instructions(trials, 12, 7)
    assert planted == plant_instructions(trials, 12, 7)
    assert len({one.planted for one in planted}) == 12
    for before, after in zip(trials, planted, strict=False):
        assert (before.question, before.reference) == (after.question, after.reference)
        text = "\n".join(source.text for source in after.sources)
        assert text.count(after.planted) == 1
        assert after.planted not in "\n".join(source.text for source in before.sources)


def test_no_hidden_instruction_of_the_gate_is_trained_on():
    assert set(_HIDDEN).isdisjoint(_INJECTIONS)


def test_a_trial_is_asked_as_in_service():
    trials = draw_trials(HELDOUT, GUIDE, SETTINGS, 30)
    for trial in trials + plant_instructions(trials, 12, 7):
        users = [messages[-1]["content"] for messages in trial.prompts]
        assert all(source.text in users[-1] for source in trial.sources)
        assert not trial.planted or all(trial.planted in user for user in users)
        if trial.best is not None:
            assert len(users) == 2
            assert trial.best.text in users[0]
            assert "[2] " not in users[0]
    assert sum(trial.best is not None for trial in trials) > 25
    retrieval = SETTINGS.retrieval.model_copy(update={"best_alone": False})
    at_once = draw_trials(HELDOUT, GUIDE, SETTINGS.model_copy(update={"retrieval": retrieval}), 30)
    assert all(len(trial.prompts) == 1 for trial in at_once)
