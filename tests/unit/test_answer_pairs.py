"""What a cross-encoder is trained on: sentences that the search found, and which of them answer."""

from pathlib import Path

import pytest

from tandem.settings import load_settings
from tandem.style import load_style
from training.answer_pairs import FOUND, Judged, judge_search
from training.examples import ExampleSource, StyleExample

PAPERS = {
    "fees": "A badge that is lost costs 12 euros. The desk is open from 9 to 17. Lockers are emptied in August.",
    "cars": "Cars are washed every Monday. A charged battery stays in the car. Parking costs 4 euros a day.",
}


def example(topic: str, question: str, answer: str) -> StyleExample:
    source = ExampleSource(title=topic.title(), heading="Rules", text=PAPERS[topic])
    return StyleExample(question=question, sources=(source,), answer=answer, topic=topic, approved_by="ada")


@pytest.fixture(scope="module")
def judged(embedder_dir: Path) -> list[Judged]:
    settings = load_settings()
    return judge_search(
        [
            example("fees", "What does a lost badge cost?", "A badge that is lost costs 12 euros [1]."),
            example("fees", "When are lockers emptied?", "Lockers are emptied in August [1]."),
            example("fees", "Who paints the lockers?", "I can't find that in the documents."),
            example("cars", "When is my car washed?", "Cars are washed every Monday [1]."),
        ],
        load_style(settings.style),
        settings,
        passes=2,
    )


def test_every_question_is_judged_in_each_pass_among_sentences_of_all_topics(judged):
    assert len(judged) == 8
    for one in judged:
        assert one.found == min(FOUND, 6)
        assert any(context.startswith("Cars - Rules: ") for context in one.contexts)
        assert any(context.startswith("Fees - Rules: ") for context in one.contexts)


def test_what_bears_an_answer_answers_and_nothing_answers_what_is_declined(judged):
    answered = {one.question: {one.contexts[n] for n in one.answers} for one in judged}
    assert answered == {
        "What does a lost badge cost?": {"Fees - Rules: A badge that is lost costs 12 euros."},
        "When are lockers emptied?": {"Fees - Rules: Lockers are emptied in August."},
        "Who paints the lockers?": set(),
        "When is my car washed?": {"Cars - Rules: Cars are washed every Monday."},
    }
