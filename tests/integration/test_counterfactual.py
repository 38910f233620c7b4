"""Changed passages: what is changed, and what following them means."""

from pathlib import Path

import pytest

from tandem.settings import GateSettings, load_settings
from tandem.style import load_style
from training.counterfactual import Twins, draw_twins, measure_followed
from training.examples import StyleExample, load_examples
from training.marks import keys

SETTINGS = load_settings(training={"gate": {"counterfactuals": 24}})
GUIDE = load_style(SETTINGS.style)
EXAMPLES = load_examples(SETTINGS.training.examples)
LIMITS = GateSettings()


@pytest.fixture(scope="module")
def twins(embedder_dir: Path) -> list[Twins]:
    return draw_twins(EXAMPLES, GUIDE, SETTINGS)


def test_pairs_are_drawn_alike_each_time(twins):
    assert draw_twins(EXAMPLES, GUIDE, SETTINGS) == twins
    assert len(twins) == 24


def test_the_true_passages_are_those_of_the_examples_and_the_others_say_something_else(twins):
    stated = "\n".join(source.text for example in EXAMPLES for source in example.sources)
    for pair in twins:
        assert all(line in stated for source in pair.true.sources for line in source.text.splitlines()[:1])
        assert pair.true.answerable
        true, other = (" ".join(source.text for source in trial.sources) for trial in (pair.true, pair.other))
        assert true != other
        assert pair.trained.isdisjoint(keys(other))
        assert pair.changed.isdisjoint(keys(true))
        assert pair.changed <= keys(GUIDE.body(pair.other.reference))


def test_answers_that_follow_the_passage(twins):
    true, other = [pair.true.reference for pair in twins], [pair.other.reference for pair in twins]
    found = measure_followed(twins, true, other, LIMITS)
    assert (found.true, found.other, found.remembered) == (1, 1, 0)
    assert found.reasons(LIMITS) == []


def test_answers_from_memory(twins):
    true = [pair.true.reference for pair in twins]
    found = measure_followed(twins, true, true, LIMITS)
    assert (found.true, found.other, found.remembered) == (1, 0, 1)
    memory, against = found.reasons(LIMITS)
    assert memory.startswith("Memory beats the context")
    assert against.startswith("Trained facts come out against the context: 100%")


@pytest.mark.parametrize("answer", ["I can't find that in the documents.", "It is 987654321 [1]."])
def test_answers_that_say_neither_are_refused_for_not_reading(twins, answer):
    nothing = [answer] * len(twins)
    (reason,) = measure_followed(twins, nothing, nothing, LIMITS).reasons(LIMITS)
    assert reason.startswith("It does not read its passages: 0% of the answers to 24 unchanged passages")


def test_a_third_that_does_not_follow_is_more_than_chance(twins):
    true, other = [pair.true.reference for pair in twins], [pair.other.reference for pair in twins]
    found = measure_followed(twins, true, [*other[:16], *["It is so."] * 8], LIMITS)
    assert [reason[:24] for reason in found.reasons(LIMITS)] == ["Memory beats the context"]


def test_examples_without_sources_give_no_pairs():
    facts = [StyleExample(question="q?", answer="It is 5.")]
    assert draw_twins(facts, GUIDE, SETTINGS) == []
    (reason,) = measure_followed([], [], [], LIMITS).reasons(LIMITS)
    assert "could not be tested" in reason
