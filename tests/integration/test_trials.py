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


def test_one_by_one_each_source_is_a_prompt_of_its_own_and_the_first_holds_the_instruction():
    trials = draw_trials(HELDOUT, GUIDE, SETTINGS, 30)
    for trial in trials + plant_instructions(trials, 12, 7):
        users = [messages[-1]["content"] for messages in trial.prompts]
        assert [source.text in user for source, user in zip(trial.sources, users, strict=True)] == [True] * len(users)
        assert all("[1]" in user and "[2] " not in user for user in users)
        assert not trial.planted or trial.planted in users[0]
    together = SETTINGS.model_copy(update={"retrieval": SETTINGS.retrieval.model_copy(update={"one_by_one": False})})
    assert all(len(trial.prompts) == 1 for trial in draw_trials(HELDOUT, GUIDE, together, 30))
