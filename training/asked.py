"""What a model is asked of one question, as the service asks: about one sentence alone, and then about all."""

from dataclasses import dataclass

from tandem.prompt import Messages


@dataclass(frozen=True)
class Alone:
    """A prompt with one sentence.

    Attributes:
        number: Of its source in the prompt with all; here it is number 1.
        score: How good a match the sentence is, by the search.
        context: The sentence as the cross-encoder reads it.
    """

    messages: Messages
    number: int
    score: float
    context: str = ""


@dataclass(frozen=True)
class Prompts:
    """The prompts of one question.

    Attributes:
        whole: With all sources.
        alone: Of which one is asked first, and `whole` only if that is declined. Best first; may be empty.
        question: Without its sources, for the cross-encoder.
    """

    whole: Messages
    alone: tuple[Alone, ...] = ()
    question: str = ""
