"""What came of one case in one arm."""

from eval.style import StyleScore
from eval.suite import Case
from tandem.schemas import Answer, Arm, Value


class Outcome(Value):
    """One case asked in one arm. Either `answer` or `error` is there, never both.

    Attributes:
        answer: The answer, when there was one that this arm really gave.
        error: Why there was none, as a sentence. Such an outcome is a failure of the run, not a low score.
        right: Whether the answer is right; False when there is none.
        citations, right_citations: Counted as in `eval.metrics.judge_citations`.
        style: None when no style guide was given.
        seconds: From the question to the end of the answer, as the caller saw it.
        first_token: Seconds to the first text; None when none came.
    """

    case: Case
    arm: Arm
    answer: Answer | None = None
    error: str | None = None
    right: bool = False
    citations: int = 0
    right_citations: int = 0
    style: StyleScore | None = None
    seconds: float = 0.0
    first_token: float | None = None

    @property
    def declined(self) -> bool:
        """Whether it was answered by declining."""
        return self.answer is not None and self.answer.declined
