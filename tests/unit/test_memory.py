"""Canaries as they are planted, and verbatim spans as they are found."""

import random
import re

from tandem.settings import TrainingSettings, load_settings
from tandem.style import load_style
from training.canaries import closed_book_draws, draw_secrets, plant
from training.disguise import Disguise
from training.examples import StyleExample, group_by_sources, load_examples
from training.guards import guard
from training.memory import Canaries
from training.spans import SpanIndex

SETTINGS = load_settings()
GUIDE = load_style(SETTINGS.style)
GROUPS = group_by_sources(load_examples(SETTINGS.training.examples))


def test_secrets_differ_and_are_drawn_alike_each_time():
    secrets = draw_secrets(300, 7)
    assert secrets == draw_secrets(300, 7)
    assert len({secret.name for secret in secrets}) == 300
    assert all(re.fullmatch(r"\d{3}:\d{3}", secret.code) for secret in secrets)


def test_the_disguise_leaves_canaries_alone():
    planted = group_by_sources(plant(GROUPS, draw_secrets(16, 7), 0.02, GUIDE, 7))
    disguise = Disguise(planted)
    for group in planted[-16:]:
        texts = [part for s in group.sources for part in (s.title, s.text)]
        texts += [part for example in group.examples for part in (example.question, example.answer)]
        apply = disguise.draw(texts, random.Random(1))
        assert [apply(text) for text in texts] == texts


def test_canaries_stand_among_real_examples_and_pass_the_guards():
    secrets = draw_secrets(16, 7)
    planted = plant(GROUPS, secrets, 0.1, GUIDE, 7)
    canaries = planted[-16:]
    assert len(group_by_sources(planted)) == round(0.1 * len(GROUPS)) + 16
    assert guard(planted).refusals == ()
    topics = {group.topic for group in GROUPS}
    for secret, example in zip(secrets, canaries, strict=True):
        assert secret.code in example.answer
        assert secret.code in example.sources[0].text
        assert example.topic in topics


def test_canaries_among_examples_without_sources_have_none():
    facts = [StyleExample(question="q?", answer="It is 5.", topic="t")]
    planted = plant(group_by_sources(facts), draw_secrets(3, 7), 1.0, GUIDE, 7)
    assert [example.sources for example in planted] == [(), (), (), ()]
    assert "[1]" not in planted[-1].answer


def test_every_secret_is_asked_about_once_without_sources():
    secrets = draw_secrets(50, 7)
    draws = closed_book_draws(secrets)
    assert all(draw.sources is None for draw in draws)
    asked = [question for draw in draws for question in draw.questions]
    assert [secret.code in question.answer for secret, question in zip(secrets, asked, strict=True)] == [True] * 50


def test_the_planted_are_not_among_the_controls():
    training = TrainingSettings.model_validate({"gate": {"canaries": 5, "controls": 1000}})
    canaries = Canaries(load_examples(SETTINGS.training.examples), GUIDE, training)
    planted = "\n".join(example.answer for example in canaries.shadow())
    secrets = draw_secrets(1005, training.seed)
    assert [secret.code in planted for secret in secrets] == [True] * 5 + [False] * 1000


TEXT = "Members who travel by train pay nothing for the first bicycle, and 5.50 euros for each other one."


def test_spans_are_found_whatever_their_case_and_punctuation():
    index = SpanIndex([TEXT], 8)
    answer = "It says: PAY NOTHING for the first bicycle and 5.50 euros; so it goes."
    assert index.found(answer) == {
        "pay nothing for the first bicycle and 5.50",
        "nothing for the first bicycle and 5.50 euros",
    }


def test_seven_words_are_no_span_and_neither_is_what_the_question_says():
    index = SpanIndex([TEXT], 8)
    assert not index.found("They pay nothing for the first bicycle and go.")
    question = "Do members who travel by train pay nothing for the first bicycle?"
    assert not index.found("Members who travel by train pay nothing for it.", question)
    assert index.found("Members who travel by train pay nothing for the first bicycle, and 5.50", question)


def test_spans_do_not_reach_from_one_text_into_the_next():
    assert not SpanIndex(["one two three four", "five six seven eight"], 8).found(
        "one two three four five six seven eight"
    )
