"""A prompt to train on or to ask, with its questions and their answers."""

from dataclasses import dataclass

from tandem.prompt import Source


@dataclass(frozen=True)
class Question:
    """One question over a draw's evidence, with the answer that is right for it."""

    question: str
    answer: str
    answerable: bool


@dataclass(frozen=True)
class Look:
    """What the model may be asked about alone.

    Attributes:
        source: One sentence.
        number: Of the source that it is from, among those of the whole prompt, from 1.
        score: How good a match it is, by the search.
    """

    source: Source
    number: int
    score: float


@dataclass(frozen=True)
class Draw:
    """One prompt with several questions.

    Attributes:
        sources: None for the closed-book prompt.
        looks: The best sentences, best first, where the model is asked about one of them alone before it is asked about
            all of `sources`.
        alone: Whether `sources` is one sentence alone.
        group: The place of the group that the first question is of; None where it does not matter.
    """

    sources: tuple[Source, ...] | None
    marker: str
    questions: tuple[Question, ...]
    group: int | None = None
    looks: tuple[Look, ...] = ()
    alone: bool = False


@dataclass(frozen=True)
class Shares:
    """How often a draw has what. Chances between 0 and 1."""

    disguised: float = 0.7
    unanswerable: float = 0.4  # a question written as unanswerable gets evidence of its own
    missed: float = 0.15  # what the search did not find stays away, and the question is declined
    declined: float = 0.1  # a question that the evidence does not answer joins the draw
    alone: float = 0.5  # a question is asked about one unit alone, where the service asks so too
    wrong: float = 0.35  # that unit does not answer it, and it is declined
    aside: float = 0.25  # a question joins the draw though what is shown first is not what it stands on
    closed_book: float = 0.03
    injected: float = 0.05
    shuffled: float = 0.05  # sources not in the order of the search
    split: float = 0.25  # a source's sentences come as two passages of one document
