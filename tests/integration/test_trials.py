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
        whole = trial.prompts.whole[-1]["content"]
        assert all(source.text in whole for source in trial.sources)
        assert not trial.planted or trial.planted in whole
        for look, alone in zip(trial.looks, trial.prompts.alone, strict=True):
            user = alone.messages[-1]["content"]
            assert look.source.text in user
            assert "[2] " not in user
            assert trial.planted in user
            source = trial.sources[alone.number - 1]
            assert (look.source.title, look.source.heading) == (source.title, source.heading)
            assert set(look.source.text.splitlines()[:1]) <= set(source.text.splitlines())
    assert sum(len(trial.looks) == SETTINGS.retrieval.compared for trial in trials) > 25
    retrieval = SETTINGS.retrieval.model_copy(update={"best_alone": False})
    at_once = draw_trials(HELDOUT, GUIDE, SETTINGS.model_copy(update={"retrieval": retrieval}), 30)
    assert all(trial.prompts.alone == () for trial in at_once)
