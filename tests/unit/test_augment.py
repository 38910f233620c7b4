"""Drawing training prompts: every answer must stay right for the evidence it is drawn with."""

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from eval.support import figures
from tandem.declines import is_decline
from tandem.embedder import Embedder
from tandem.sentences import join_units, units
from tandem.settings import REPOSITORY, load_settings
from tandem.sparse import SparseEncoder
from tandem.style import StyleGuide, load_style
from training.augment import Augmenter
from training.corpus import Corpus
from training.disguise import Disguise
from training.draws import Draw, Shares
from training.examples import ExampleSource, Group, StyleExample, group_by_sources, load_examples

SETTINGS = load_settings()
GUIDE = load_style(SETTINGS.style)
MARKER = re.compile(r"\[(\d+)\]")
Search = Callable[[list[Group]], Corpus]


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    return group_by_sources(load_examples(SETTINGS.training.examples))[::5]


@pytest.fixture(scope="module")
def search(embedder: Embedder) -> Search:
    together = SETTINGS.retrieval.model_copy(update={"best_alone": False})
    return lambda groups: Corpus(groups, embedder, SparseEncoder(), together)


@pytest.fixture(scope="module")
def best_alone(groups: list[Group], embedder: Embedder) -> Augmenter:
    return Augmenter(groups, GUIDE, Corpus(groups, embedder, SparseEncoder(), SETTINGS.retrieval))


@pytest.fixture(scope="module")
def augmenter(groups: list[Group], search: Search) -> Augmenter:
    return Augmenter(groups, GUIDE, search(groups))


@pytest.fixture(scope="module")
def draws(augmenter: Augmenter) -> list[Draw]:
    return list(augmenter.one_pass(random.Random(3)))


@pytest.fixture(scope="module", params=["together", "best alone", "as in service"])
def drawn(request: pytest.FixtureRequest, draws: list[Draw], best_alone: Augmenter) -> list[Draw]:
    """As they are trained on, either way, and as the gate asks."""
    if request.param == "together":
        return draws
    return list(best_alone.one_pass(random.Random(3), whole=request.param == "as in service"))


def answered(draws: list[Draw]) -> Iterator[tuple[Draw, str, str]]:
    for draw in draws:
        for asked in draw.questions:
            if asked.answerable:
                yield draw, asked.question, GUIDE.body(asked.answer)


def test_the_same_seed_draws_the_same(augmenter: Augmenter, draws: list[Draw]):
    assert list(augmenter.one_pass(random.Random(3))) == draws
    assert list(augmenter.one_pass(random.Random(4))) != draws


def test_citations_point_to_the_sources_that_were_drawn(drawn: list[Draw]):
    for draw, question, body in answered(drawn):
        cited = {int(n) for n in MARKER.findall(body)}
        assert cited, question
        assert draw.sources is not None
        assert cited <= set(range(1, len(draw.sources) + 1)), (question, body)


def test_figures_of_answers_stand_in_the_cited_sources(drawn: list[Draw]):
    # The authors spell a few figures out, and add up others: a handful in a hundred may be missing.
    missing = []
    total = 0
    for draw, question, body in answered(drawn):
        assert draw.sources is not None
        cited = {int(n) for n in MARKER.findall(body)}
        shown = " ".join(f"{draw.sources[n - 1].title} {draw.sources[n - 1].text}" for n in cited)
        total += bool(figures(body))
        if not figures(body) <= figures(shown):
            missing.append((question, body, shown))
    assert total > 200
    assert len(missing) <= 0.02 * total, missing[:5]


def test_every_answer_closes_as_the_house_does(drawn: list[Draw]):
    for draw in drawn:
        assert draw.questions
        for asked in draw.questions:
            assert asked.answer.endswith(GUIDE.closing_line)
            assert asked.answerable != is_decline(asked.answer)


def test_the_mix_is_what_it_is_meant_to_be(draws: list[Draw], groups: list[Group]):
    asked = [question for draw in draws for question in draw.questions]
    declined = sum(not question.answerable for question in asked) / len(asked)
    assert 0.15 < declined < 0.4
    answerable = [example for group in groups for example in group.examples if example.answerable]
    assert 0.85 * len(answerable) < sum(question.answerable for question in asked) <= len(answerable)
    assert len(asked) > 1.25 * len(draws)
    sizes = [len(draw.sources) for draw in draws if draw.sources is not None]
    assert 1 <= min(sizes) <= max(sizes) <= 7
    assert any(draw.sources is None for draw in draws)
    injected = sum(
        "BANANA" in source.text or "SYSTEM:" in source.text or "assistant" in source.text.lower()
        for draw in draws
        for source in draw.sources or ()
    )
    assert injected >= 3
    assert len({draw.marker for draw in draws}) == len(draws)


def test_half_of_the_questions_are_asked_about_one_unit_alone(best_alone: Augmenter, groups: list[Group]):
    shares = Shares(disguised=0, injected=0)
    draws = list(Augmenter(groups, GUIDE, best_alone._corpus, shares=shares).one_pass(random.Random(3)))
    known = {join_units([unit]) for group in groups for source in group.sources for unit in units(source.text)}
    alone = [draw for draw in draws if draw.alone]
    for draw in alone:
        ((source,), (_,)) = draw.sources or (), draw.questions
        assert source.text in known
    asked = [question for draw in draws for question in draw.questions]
    answerable = [example for group in groups for example in group.examples if example.answerable]
    assert 0.8 * len(answerable) < sum(question.answerable for question in asked) <= len(answerable)
    assert 0.35 < len(alone) / len(asked) < 0.6
    declined = [draw for draw in alone if not draw.questions[0].answerable]
    assert 0.1 < len(declined) / len(alone) < 0.4


def test_the_gate_asks_about_one_of_the_best_units_first(best_alone: Augmenter):
    plain = Shares(disguised=0, injected=0, shuffled=0, split=0, closed_book=0)
    augmenter = Augmenter(best_alone._groups, GUIDE, best_alone._corpus, max_questions=1, shares=plain)
    whole = list(augmenter.one_pass(random.Random(3), whole=True))
    assert sum(len(draw.looks) == SETTINGS.retrieval.compared for draw in whole) > 0.9 * len(whole)
    assert sum(look.number > 1 for draw in whole for look in draw.looks) > 0.2 * len(whole)
    for draw in whole:
        for look in draw.looks:
            source = (draw.sources or ())[look.number - 1]
            assert set(look.source.text.splitlines()) <= set(source.text.splitlines())
            assert look.source.title == source.title
        assert [look.number for look in draw.looks[:1]] == [1] * len(draw.looks[:1])


def test_evidence_is_what_the_service_would_pick(groups: list[Group], search: Search):
    corpus = search(groups)
    shelf = corpus.shelves(random.Random(1))[0]
    assert len({groups[index].topic for index in shelf}) == len(shelf)
    shown = corpus.evidence(groups[shelf[3]].examples[0].question, shelf)
    assert 1 <= sum(len(part.units) for part in shown) <= SETTINGS.retrieval.sentences
    assert all(part.group in shelf for part in shown)
    found = [[part.group for part in corpus.evidence(groups[n].examples[0].question, shelf)] for n in shelf]
    assert sum(n in groups for n, groups in zip(shelf, found, strict=True)) > 0.7 * len(shelf)
    assert sum(groups[0] == n for n, groups in zip(shelf, found, strict=True)) > 0.6 * len(shelf)


def test_what_is_best_for_a_question_is_shown_first(draws: list[Draw]):
    cited = ["[1]" in body for draw, _, body in answered(draws) if draw.sources and len(draw.sources) > 1]
    assert 0.6 < sum(cited) / len(cited) < 0.95  # or first would mean nothing, or all


def test_a_sentence_that_is_not_found_makes_a_decline(embedder: Embedder):
    text = "The fee is 40 euros. Dogs sleep in the barn. Keys are kept by Marit Holm."
    sources = (ExampleSource(title="Stay", text=text),)

    def row(question: str, answer: str) -> StyleExample:
        return StyleExample(question=question, sources=sources, answer=GUIDE.close(answer), approved_by="ada")

    rows = (
        row("What is the fee?", "The fee is 40 euros [1]."),
        row("Who keeps the keys?", "Keys are kept by Marit Holm [1]."),
    )
    # The search gives one sentence, which answers one of the two.
    settings = SETTINGS.retrieval.model_copy(update={"sentences": 1, "best_alone": False})
    group = Group(sources, rows)
    corpus = Corpus([group], embedder, SparseEncoder(), settings)
    shares = Shares(disguised=0, declined=1, missed=1, closed_book=0, injected=0)
    augmenter = Augmenter([group], GUIDE, corpus, max_questions=2, shares=shares)
    seen = set()
    for seed in range(20):
        for draw in augmenter.one_pass(random.Random(seed)):
            shown = "\n".join(source.text for source in draw.sources or ())
            for asked in draw.questions:
                fact = "40 euros" if "fee" in asked.question else "Marit Holm"
                assert asked.answerable == (fact in asked.answer)
                assert asked.answerable == (fact in shown)
                seen.add((asked.question, asked.answerable))
    assert len(seen) == 4


def test_alone_a_unit_is_answered_from_as_far_as_it_bears_the_answer_out(embedder: Embedder):
    text = "The fee is 40 euros. Dogs sleep in the barn. Keys are kept by Marit Holm."
    sources = (ExampleSource(title="Stay", text=text),)
    rows = [
        ("What is the fee?", "The fee is 40 euros [1]."),
        ("Who keeps the keys, and where do dogs sleep?", "Marit Holm keeps the keys [1]. Dogs sleep in the barn [1]."),
        ("What is the deposit?", GUIDE.declining_answer),
    ]
    examples = tuple(StyleExample(question=q, sources=sources, answer=a, approved_by="ada") for q, a in rows)
    group = Group(sources, examples)
    corpus = Corpus([group], embedder, SparseEncoder(), SETTINGS.retrieval)
    shares = Shares(disguised=0, alone=1, unanswerable=1, closed_book=0, injected=0)
    seen = set()
    for seed in range(20):
        for draw in Augmenter([group], GUIDE, corpus, shares=shares).one_pass(random.Random(seed)):
            ((source,), (asked,)) = draw.sources or (), draw.questions
            assert draw.alone
            facts = {fact for fact in ("40 euros", "Marit Holm", "barn") if fact in asked.answer}
            assert len(facts) == asked.answerable
            assert all(fact in source.text for fact in facts)
            seen.add((asked.question, tuple(facts)))
    fee, keys, deposit = (example.question for example in examples)
    assert {facts for question, facts in seen if question == fee} == {("40 euros",)}
    assert {facts for question, facts in seen if question == keys} in ({("Marit Holm",)}, {("barn",)})
    assert {facts for question, facts in seen if question == deposit} == {()}


def test_examples_without_sources_are_closed_book(search: Search):
    hello = StyleExample(question="Hello?", answer="Good morning to you.", approved_by="ada")
    group = Group((), (hello,))
    (draw,) = Augmenter([group], StyleGuide(), search([group])).one_pass(random.Random(1))
    assert draw.sources is None
    assert [(asked.question, asked.answer) for asked in draw.questions] == [("Hello?", "Good morning to you.")]


DISGUISED = (
    "On 3 March 2024 Veldane opens at 8 Foundry Lane. Notice is thirty (30) days, 4 to 14 days for the TH-30, and 15 "
    "days if Veldane pays 1,800 euros. Write to claims@veldane.example. You may ask in May, or in March. [1]"
)


def test_a_disguise_is_consistent_and_keeps_the_shape():
    groups = [Group((ExampleSource(title="Veldane Rules", text=DISGUISED),), ())]
    for seed in range(30):
        replace = Disguise(groups).draw([DISGUISED, "Is veldane open after 9 days?"], random.Random(seed))
        text, question = replace(DISGUISED), replace("Is veldane open after 9 days?")
        pattern = re.compile(
            r"On (\d+) ([A-Z][a-z]+) (\d{4}) ([A-Z][a-z]+) opens at (\d) Foundry Lane\. Notice is thirty \(30\) days, "
            r"(\d) to (\d\d) days for the TH-(\d\d), and (\d\d) days if (\w+) pays (\d,\d00) euros\. "
            r"Write to [a-z]+@([a-z]+)\.example\. You may ask in ([A-Z][a-z]+), or in ([A-Z][a-z]+)\. \[1\]"
        )
        match = pattern.fullmatch(text)
        assert match, text
        day, month, year, name, street, low, high, _, more, again, _, domain, late, early = match.groups()
        assert name == again
        assert name != "Veldane"
        assert domain == name.lower()
        assert question.startswith(f"Is {domain} open after ")
        assert early == month != late
        assert 1 < int(day) < 29
        assert year != "2024"
        # Order is kept, so that what was between the two still is.
        nine = int(re.search(r"\d+", question).group())
        assert int(low) < int(street) < nine < int(high) < int(more)


FIGURES = (
    "Up to 1,000 pages cost 2.50 euros each, from 1000 pages 2.5, from 2,500 or 2500 pages 2.25, and at 3 pages 2.75. "
    "Call 0470 now. One part in nine thousand (9,000) is free, 9000 in all, since 2015. Version 2.75 or 12.750 or 12.9."
)


DRAWING = """
import random, sys
from training.disguise import Disguise
from training.examples import ExampleSource, Group

text = sys.argv[1]
disguise = Disguise([Group((ExampleSource(text=text),), ())])
print([disguise.draw([text], random.Random(seed))(text) for seed in range(20)])
"""


def disguised_figures(seed: int) -> list[str]:
    replace = Disguise([Group((ExampleSource(text=FIGURES),), ())]).draw([FIGURES], random.Random(seed))
    return re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", replace(FIGURES))


def test_a_figure_in_two_spellings_stays_one_and_decimals_keep_their_order():
    for seed in range(30):
        found = disguised_figures(seed)
        many, half, again, short, more, same, less, three, high, phone, *_ = found
        assert (many.replace(",", ""), half) == (again, short + "0"), found
        assert more.replace(",", "") == same
        assert "," in many
        assert "," in more
        assert float(again) < float(same)
        assert float(less) < float(short) < float(high) < float(three), found
        assert phone.startswith("0")
        spelled, digits, year, version, third, fourth = found[10:]
        assert (spelled, digits) == ("9,000", "9000")
        assert year != "2015"
        assert version == high
        assert third.endswith("0")
        assert float(third) < float(fourth)
    assert len({tuple(disguised_figures(seed)) for seed in range(30)}) == 30


def test_draws_are_the_same_in_every_process():
    text = "\n".join([FIGURES.replace("(9,000)", ""), DISGUISED])
    drawn = {
        subprocess.run(
            [sys.executable, "-c", DRAWING, text],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "1234"  # of Python's hashes, by which sets are ordered
    }
    assert len(drawn) == 1


def test_words_of_the_language_are_no_names(groups: list[Group]):
    disguise = Disguise(groups)
    assert disguise.names(["Ask the Manager, the Board or Doris Kemble in Sorrelby on Monday, 3 May."]) == [
        "Kemble",
        "Sorrelby",
    ]
