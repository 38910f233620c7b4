"""Changed passages: what is changed, and what following them means."""

from tandem.settings import GateSettings, load_settings
from tandem.style import load_style
from training.counterfactual import draw_twins, measure_followed
from training.examples import StyleExample, load_examples
from training.marks import keys

SETTINGS = load_settings()
GUIDE = load_style(SETTINGS.style)
EXAMPLES = load_examples(SETTINGS.training.examples)
TWINS = draw_twins(EXAMPLES, GUIDE, 24, 7)
LIMITS = GateSettings()


def test_pairs_are_drawn_alike_each_time():
    assert draw_twins(EXAMPLES, GUIDE, 24, 7) == TWINS
    assert len(TWINS) == 24


def test_the_true_passages_are_those_of_the_examples_and_the_others_say_something_else():
    stated = "\n".join(source.text for example in EXAMPLES for source in example.sources)
    for pair in TWINS:
        assert all(line in stated for source in pair.true.sources for line in source.text.splitlines()[:1])
        assert pair.true.answerable
        true, other = (" ".join(source.text for source in trial.sources) for trial in (pair.true, pair.other))
        assert true != other
        assert pair.trained.isdisjoint(keys(other))
        assert pair.changed.isdisjoint(keys(true))
        assert pair.changed <= keys(GUIDE.body(pair.other.reference))


def test_answers_that_follow_the_passage():
    true, other = [pair.true.reference for pair in TWINS], [pair.other.reference for pair in TWINS]
    found = measure_followed(TWINS, true, other, LIMITS)
    assert (found.true, found.other, found.remembered) == (1, 1, 0)
    assert found.reasons(LIMITS) == []


def test_answers_from_memory():
    true = [pair.true.reference for pair in TWINS]
    found = measure_followed(TWINS, true, true, LIMITS)
    assert (found.true, found.other, found.remembered) == (1, 0, 1)
    memory, against = found.reasons(LIMITS)
    assert memory.startswith("Memory beats the context")
    assert against.startswith("Trained facts come out against the context: 100%")


def test_answers_that_say_neither_are_a_matter_of_reading_not_of_memory():
    nothing = ["I can't find that in the documents."] * len(TWINS)
    assert measure_followed(TWINS, nothing, nothing, LIMITS).reasons(LIMITS) == []


def test_a_fifth_that_does_not_follow_is_more_than_chance():
    true, other = [pair.true.reference for pair in TWINS], [pair.other.reference for pair in TWINS]
    found = measure_followed(TWINS, true, [*other[:18], *["It is so."] * 6], LIMITS)
    assert [reason[:24] for reason in found.reasons(LIMITS)] == ["Memory beats the context"]


def test_examples_without_sources_give_no_pairs():
    facts = [StyleExample(question="q?", answer="It is 5.")]
    assert draw_twins(facts, GUIDE, 8, 7) == []
    (reason,) = measure_followed([], [], [], LIMITS).reasons(LIMITS)
    assert "could not be tested" in reason
