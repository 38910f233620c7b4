from datetime import date

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from eval.matching import contains, found, holds_all, strip_markers, tokens
from eval.metrics import is_right, judge_citations, measure_arm
from eval.outcome import Outcome
from eval.style import StyleScore
from eval.suite import Case
from eval.support import cited_sentences, claims, supported_share, supports
from tandem.schemas import Answer, Passage

DAY = date(2026, 3, 1)
WORDS = st.text(st.characters(categories=("L",), max_codepoint=0x24F), min_size=1, max_size=8)


def case(**fields: object) -> Case:
    return Case.model_validate({"id": "c", "question": "q?", "all_of": [["45"]], "answerable": True} | fields)


def passage(n: int, quote: str, document: str = "travel.md") -> Passage:
    return Passage(n=n, document_id=document, version_id="v", chunk_id=f"c{n}", title="Travel", quote=quote)


def answer(text: str, passages: tuple[Passage, ...] = (), *, declined: bool = False) -> Answer:
    return Answer(
        answer_id="a", text=text, arm="rag", as_of=DAY, declined=declined, passages=passages, citations=passages
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("It is € 45 a day.", "€45"),
        ("It is €45 a day.", "€ 45"),
        ("It is EUR 45.", "45 euro"),
        ("It is 45 euros.", "€45"),
        ("It is US$5,000.", "$5000"),
        ("up to USD 5,000.00 at most", "US $5,000"),
        ("10\u202f000 readings", "10000"),
        ("after 24 months", "24-month"),
        ("ten\u201114 days", "14 DAYS"),
        ("95 per cent of it", "95%"),
        ("99,5 %", "99.5 percent"),
        ("within forty-five (45) days", "45 days"),
        ("see the transparency reports", "Transparency Report"),
        ("write to dpo[at]github[dot]com", "dpo[at]github"),
        ("a 10GB disk", "10 GB"),
        ("stra\u00dfe 5", "STRASSE 5"),
    ],
)
def test_says_it_in_another_spelling(text: str, key: str) -> None:
    assert contains(text, key)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("45 days", "5"),
        ("45 days", "4"),
        ("5,000 days", "5"),
        ("5.5 days", "5"),
        ("0.5 days", "5"),
        ("2026-11-05", "2026 1"),
        ("in 10 minutes", "10 m"),
        ("it is not", "no"),
        ("anatomy", "atom"),
        ("unlimited", "limited"),
        ("EUR 45", "$45"),
        ("45 or 60 days", "45 days"),
        ("protected to IP67", "67"),
        ("", "x"),
        ("anything", ""),
    ],
)
def test_does_not_say_it(text: str, key: str) -> None:
    assert not contains(text, key)


@given(st.integers(0, 10**9), st.integers(0, 9), st.booleans())
def test_a_figure_is_not_found_in_a_longer_one(figure: int, digit: int, before: bool) -> None:
    longer = f"{digit}{figure}" if before else f"{figure}{digit}"
    assert not contains(f"it is {longer} in all", str(figure))


@given(WORDS, WORDS, st.integers(0, 10**7), st.sampled_from(["€", "EUR ", "eur", "$", "USD ", "£"]))
def test_an_amount_is_found_between_any_words_however_written(left: str, right: str, amount: int, sign: str) -> None:
    text = f"{left}, {sign}{amount:,}. {right}"
    assert contains(text, f"{sign}{amount}")
    assert contains(text, f"{amount} {sign}")


@given(st.text(max_size=60), st.text(max_size=60), WORDS)
def test_more_text_around_a_word_hides_nothing(before: str, after: str, key: str) -> None:
    assume(tokens(key))
    assert contains(f"{before} and, {key} . and {after}", key)


@given(WORDS)
def test_case_does_not_matter(word: str) -> None:
    assert contains(word.upper(), word) == contains(word, word.upper())


@given(st.lists(WORDS, max_size=4), st.text(max_size=80))
def test_found_are_those_that_it_contains(keys: list[str], text: str) -> None:
    assert found(text, keys) == tuple(key for key in keys if contains(text, key))
    assert holds_all(text, [[key] for key in keys]) == (len(found(text, keys)) == len(keys))


def test_a_marker_is_no_figure_of_the_answer() -> None:
    assert not is_right(case(all_of=[["2"]]), "It is 5 days [2].", declined=False)
    assert is_right(case(all_of=[["30 days"]]), "Within 30 [1] days.", declined=False)
    assert strip_markers("A [1][2]. B [3]") == "A. B"


def test_right_needs_every_group_and_nothing_forbidden() -> None:
    both = case(all_of=[["€45"], ["a day", "daily"]], none_of=["€52"])
    assert is_right(both, "EUR 45 daily.", declined=False)
    assert not is_right(both, "EUR 45.", declined=False)
    assert not is_right(both, "EUR 45 daily, soon EUR 52.", declined=False)


def test_unanswerable_is_right_when_declined_and_clean() -> None:
    gone = case(answerable=False, all_of=[], none_of=["$500"])
    assert is_right(gone, "I can't find that in the documents.", declined=True)
    assert not is_right(gone, "It is 3.", declined=False)
    assert not is_right(gone, "I can't find that in the documents. It was $500.", declined=True)


def test_a_citation_belongs_to_the_sentence_it_ends() -> None:
    text = "It is 45 days. [1] You may take e.g. Monday [2][3]. Ask.\n\nQuestions? Ask the owner."
    assert [(c.sentence, c.n) for c in cited_sentences(text)] == [
        ("It is 45 days.", 1),
        ("You may take e.g. Monday", 2),
        ("You may take e.g. Monday", 3),
    ]


def test_support_goes_by_figures_then_by_words() -> None:
    assert supports("The allowance is EUR 45 a day.", "You get 45 euros.")
    assert supports("after twelve weeks", "It takes 12 weeks.")
    assert not supports("The allowance is EUR 45 a day.", "You get 52 euros a day as the allowance.")
    assert supports("Receipts must be kept by the traveller.", "The traveller keeps receipts.")
    assert not supports("Receipts must be kept by the traveller.", "Dogs are welcome.")


def test_claims_leave_out_questions_and_the_closing_line() -> None:
    assert (
        claims("It is 5 [1]. Really?\n\nAsk the owner.", "Ask the owner.") == []
    )  # a bare figure has no word to check
    assert claims("The limit is 5 [1]. Really?\n\nAsk the owner.", "Ask the owner.") == ["The limit is 5."]
    assert supported_share(["The limit is 5."], [passage(1, "A limit of 5 applies.")]) == 1
    assert supported_share(["The limit is 5.", "The limit is 6."], [passage(1, "A limit of 5 applies.")]) == 0.5


def test_citations_count_when_the_document_and_the_quote_are_right() -> None:
    sources = (passage(1, "EUR 45 a day."), passage(2, "EUR 52 a day."), passage(3, "EUR 45 a day.", "old.md"))
    asked = case(evidence=["travel.md"])
    assert judge_citations(asked, answer("EUR 45 [1]. EUR 45 [2]. EUR 45 [3].", sources)) == (3, 1)
    assert judge_citations(case(), answer("EUR 45 [1]. EUR 45 [3].", sources)) == (2, 2)
    assert judge_citations(asked, answer("Nothing near: Travel [1].", sources, declined=True)) == (0, 0)


def outcome(right: bool, *, answerable: bool = True, declined: bool = False, **fields: object) -> Outcome:
    text = "I can't find that in the documents." if declined else "45 [1]."
    given = {
        "case": case(answerable=answerable, all_of=[["45"]] if answerable else []),
        "arm": "rag",
        "answer": answer(text, (passage(1, "45"),), declined=declined),
        "right": right,
    }
    return Outcome.model_validate(given | fields)


def test_an_arm_is_summed_up() -> None:
    kept, broken = StyleScore(value=1, rules=4), StyleScore(value=0.5, rules=4, broken=("x", "y"))
    metrics = measure_arm(
        "rag",
        [
            outcome(True, citations=2, right_citations=2, style=kept, seconds=1, first_token=0.5),
            outcome(False, citations=2, right_citations=1, style=broken, seconds=3, first_token=1.5),
            outcome(False, declined=True, seconds=2),
            outcome(True, answerable=False, declined=True, seconds=2),
            outcome(False, answerable=False, seconds=2),
            Outcome(case=case(), arm="rag", error="It broke."),
            Outcome(case=case(), arm="base", answer=answer("45")),
        ],
    )
    assert (metrics.cases, metrics.scored, metrics.failed) == (6, 5, 1)
    assert metrics.correct == pytest.approx(2 / 5)
    assert metrics.correct_answerable == pytest.approx(1 / 3)
    assert metrics.citation_precision == pytest.approx(3 / 4)
    assert metrics.cited == pytest.approx(2 / 3)
    assert metrics.declined_unanswerable == 0.5
    assert metrics.declined_answerable == pytest.approx(1 / 3)
    assert metrics.style == 0.75
    assert metrics.latency_p50 == 2
    assert metrics.first_token_p50 == 1


def test_a_crash_is_never_a_low_score() -> None:
    metrics = measure_arm("rag", [outcome(True), Outcome(case=case(), arm="rag", error="It broke.")])
    assert metrics.correct == 1
    assert metrics.failed == 1
    empty = measure_arm("tandem", [])
    assert empty.correct is None
    assert empty.latency_p95 is None
