import re
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from tandem.evidence import Evidence, EvidenceSelector
from tandem.schemas import Passage
from tandem.settings import RetrievalSettings
from tandem.sparse import SparseEncoder


class WordEmbedder:
    """Counts words in place of a network: texts are near when they share words. Says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.asked.extend(texts)
        vectors = np.zeros((len(texts), 512), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.casefold()):
                vectors[row, zlib.crc32(word.encode()) % 512] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def passage(name: str, text: str, *, title: str = "", heading: str = "", n: int = 1) -> Passage:
    return Passage(
        n=n, document_id=name, version_id=f"{name}-v", chunk_id=f"{name}-c", title=title or name, heading=heading,
        quote=text, text=text,
    )  # fmt: skip


def evidence(question: str, passages: list[Passage], **settings: object) -> Evidence:
    selector = EvidenceSelector(WordEmbedder(), SparseEncoder(), RetrievalSettings.model_validate(settings))
    return selector.select(question, passages)


def select(question: str, passages: list[Passage], **settings: object) -> list[Passage]:
    return list(evidence(question, passages, **settings).passages)


LEAVE = passage("leave", "The year has four quarters. Unused leave days carry over until March. Tea is free.", n=1)
CARS = passage("cars", "Bicycles are leased. Cars are washed monthly.", n=2)
SICK = passage("sick", "A note is due. Sick days do not reduce unused leave days.", n=3)


def test_the_best_sentences_are_kept_and_the_passages_renumbered():
    found = select("Do unused leave days carry over?", [LEAVE, CARS, SICK], sentences=2)
    assert [(kept.n, kept.document_id, kept.quote) for kept in found] == [
        (1, "leave", "Unused leave days carry over until March."),
        (2, "sick", "Sick days do not reduce unused leave days."),
    ]
    assert found[0].text == LEAVE.text


def test_the_model_may_be_asked_about_one_of_the_best_sentences_alone():
    found = evidence("Do unused leave days carry over?", [CARS, SICK, LEAVE], sentences=4)
    assert [(kept.n, kept.document_id) for kept in found.passages] == [(1, "leave"), (2, "sick")]
    alone = [(look.passage.n, look.passage.quote) for look in found.alone]
    assert alone[:2] == [
        (1, "Unused leave days carry over until March."),
        (2, "Sick days do not reduce unused leave days."),
    ]
    assert len(alone) == 3
    assert all(look.passage.quote in found.passages[look.passage.n - 1].quote for look in found.alone)
    assert [look.score for look in found.alone] == sorted((look.score for look in found.alone), reverse=True)


def test_what_was_asked_about_alone_is_number_1_afterwards():
    found = evidence("Do unused leave days carry over?", [CARS, SICK, LEAVE], sentences=4)
    led = found.led_by(found.alone[1])
    assert [(kept.n, kept.document_id) for kept in led.passages] == [(1, "sick"), (2, "leave")]
    assert found.led_by(found.alone[0]).passages == found.passages


def test_the_choice_may_be_left_to_the_search():
    found = evidence("Do unused leave days carry over?", [CARS, SICK, LEAVE], sentences=4, compared=1)
    assert [look.passage.quote for look in found.alone] == ["Unused leave days carry over until March."]


def test_a_row_that_is_best_comes_with_its_header_and_without_the_other_rows():
    text = "Model | Price\nTN-100 | EUR 90\nTN-400 | price EUR 120"
    found = evidence("What is the price of the TN-400?", [passage("prices", text)], sentences=2)
    assert found.alone[0].passage.quote == "Model | Price\nTN-400 | price EUR 120"


@pytest.mark.parametrize("settings", [{"best_alone": False}, {"evidence": "passages"}, {"sentences": 1}], ids=str)
def test_or_the_model_is_asked_about_all_at_once(settings):
    assert evidence("Do unused leave days carry over?", [LEAVE, CARS], **settings).alone == ()
    assert evidence("Do they?", [], **settings) == Evidence()


def test_what_a_passage_says_twice_is_shown_once():
    text = "Unused leave days carry over.\nTea is free.\nUnused leave days carry over."
    (kept,) = select("Do unused leave days carry over?", [passage("leave", text)])
    assert kept.quote == "Unused leave days carry over.\nTea is free."


def test_the_best_sentence_of_a_passage_comes_first():
    text = "Days carry over. Something else entirely. Unused leave days carry over until March."
    (kept,) = select("Do unused leave days carry over?", [passage("leave", text)], sentences=2)
    assert kept.quote == "Unused leave days carry over until March.\nDays carry over."


def test_the_passage_with_the_best_sentence_comes_first():
    weak, strong = passage("weak", "Leave is good."), passage("strong", "Unused leave days carry over.")
    found = select("Do unused leave days carry over?", [weak, strong], sentences=2)
    assert [(kept.n, kept.document_id) for kept in found] == [(1, "strong"), (2, "weak")]


def test_whole_passages_keep_their_order():
    weak, strong = passage("weak", "Leave is good."), passage("strong", "Unused leave days carry over.")
    found = select("Do unused leave days carry over?", [weak, strong], evidence="passages")
    assert [(kept.n, kept.document_id) for kept in found] == [(1, "weak"), (2, "strong")]


def test_rows_of_a_table_stay_together_and_in_order():
    text = "A remark on the price of the TN-400.\nModel | Price\nTN-100 | EUR 90\nTN-400 | price EUR 120\nTea is free."
    (kept,) = select("What is the price of the TN-400?", [passage("prices", text)], sentences=3)
    assert kept.quote.splitlines() == [
        "A remark on the price of the TN-400.",
        "Model | Price",
        "TN-100 | EUR 90",
        "TN-400 | price EUR 120",
    ]


def test_a_list_item_brings_the_line_that_introduces_it():
    text = "Visitors sign in.\nA new employee receives:\n- a badge\n- a laptop with docking station\nCoffee is free."
    (kept,) = select("Does an employee receive a laptop?", [passage("office", text)], sentences=1)
    assert kept.quote == "A new employee receives:\n- a laptop with docking station"


def test_a_table_row_brings_its_header():
    text = "Model | Price\nTN-200 | EUR 90\nTN-300 | EUR 120"
    (kept,) = select("What is the price of the TN-300?", [passage("prices", text)], sentences=1)
    assert kept.quote == "Model | Price\nTN-300 | EUR 120"


def test_title_and_heading_help_to_find_a_sentence():
    # The same sentence twice, and one that only its title brings near: what stands above them decides.
    text = "It is 27 days."
    wrong = passage("a", text, title="Pension", heading="Waiting period")
    other = passage("c", "Tea is free.", title="Leave entitlement")
    right = passage("b", text, title="Annual leave", heading="Annual leave > Entitlement")
    (kept,) = select("How many days is the annual leave entitlement?", [wrong, other, right], sentences=1)
    assert kept.document_id == "b"


def test_the_best_keyword_match_has_a_place_where_there_are_several():
    # In every word but the one that counts, the others are nearer to the question.
    near = "This is what the terms of the marketplace say the marketplace is."
    others = [passage(f"d{n}", f"{near} Rule {n}.", title="Marketplace terms") for n in range(3)]
    dated = passage("dated", "Effective: 1 August.", title="Marketplace terms")
    question = "What is the day on which the terms of the marketplace become effective?"
    assert "dated" in [kept.document_id for kept in select(question, [*others, dated], sentences=2)]
    (best,) = select(question, [*others, dated], sentences=1)
    assert best.document_id != "dated"


def test_the_embedder_is_asked_once_for_all():
    embedder = WordEmbedder()
    selector = EvidenceSelector(embedder, SparseEncoder(), RetrievalSettings(sentences=1))
    selector.select("Leave?", [LEAVE, CARS])
    assert embedder.asked[0] == "Leave?"
    assert len(embedder.asked) == 1 + 3 + 2


def test_the_budget_leaves_long_sentences_out_but_never_all():
    long = "Unused leave days carry over " + "and over " * 40 + "until March."
    short = "Unused leave days lapse."
    found = select("Do unused leave days carry over?", [passage("a", long), passage("b", short)], budget_words=60)
    assert sum(len(kept.quote.split()) for kept in found) <= 60 + len(long.split())
    alone = select("Do unused leave days carry over?", [passage("a", long)], budget_words=50)
    assert [kept.quote for kept in alone] == [long]


def test_the_budget_counts_words():
    passages = [passage(f"d{n}", f"Unused leave days carry over, rule {n}, " + "so " * 20 + "it is.") for n in range(4)]
    found = select("Do unused leave days carry over?", passages, budget_words=65)
    assert len(found) == 2


@pytest.mark.parametrize("evidence", ["sentences", "passages"])
def test_nothing_in_nothing_out(evidence: str):
    assert select("Leave?", [], evidence=evidence) == []


def test_a_passage_without_text_is_gone():
    assert [kept.document_id for kept in select("Tea?", [passage("empty", " \n "), LEAVE])] == ["leave"]


def test_whole_passages_are_kept_whole_within_the_budget():
    found = select("Leave?", [LEAVE, CARS, SICK], evidence="passages", budget_words=50)
    assert [(kept.n, kept.quote) for kept in found] == [(1, LEAVE.text), (2, CARS.text), (3, SICK.text)]


def test_whole_passages_beyond_the_budget_are_left_out():
    long = passage("long", "word " * 45)
    found = select("Leave?", [LEAVE, long, CARS], evidence="passages", budget_words=50)
    assert [kept.document_id for kept in found] == ["leave"]


def test_a_first_passage_beyond_the_budget_is_cut_at_a_word():
    (kept,) = select("Leave?", [passage("long", "word " * 80), LEAVE], evidence="passages", budget_words=50)
    assert kept.quote == " ".join(["word"] * 50)
    assert kept.text == "word " * 80


class Judge:
    """In the place of a cross-encoder: odds by what a sentence is about. Says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []

    def odds(self, question: str, contexts: Sequence[str]) -> list[float]:
        self.asked.append((question, list(contexts)))
        return [2.0 if "leave days" in context else -3.0 for context in contexts]


def test_the_cross_encoder_is_asked_about_the_best_sentences_where_they_stand():
    judge = Judge()
    plan = passage("plan", "Unused leave days carry over until March. Tea is free.", title="Plan", heading="A > Leave")
    selector = EvidenceSelector(WordEmbedder(), SparseEncoder(), RetrievalSettings(compared=3), judge)  # type: ignore[arg-type]
    found = selector.select("Do unused leave days carry over?", [plan, CARS])
    ((question, contexts),) = judge.asked
    assert question == "Do unused leave days carry over?"
    assert contexts[0] == "Plan - Leave: Unused leave days carry over until March."
    assert [look.odds for look in found.alone] == [2.0, -3.0, -3.0]
    assert found.odds == 2.0
    assert found.led_by(found.alone[1]).odds == 2.0
    assert Evidence().odds is None
    assert evidence("Do unused leave days carry over?", [plan, CARS]).odds is None
