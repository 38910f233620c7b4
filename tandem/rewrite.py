"""A follow-up question made searchable: it borrows the subject of the question before it."""

import re
from collections.abc import Sequence

from tandem.schemas import Message

_REFERS_BACK = re.compile(
    r"\b(it|its|that|this|those|these|they|them|their|there|he|she|one|ones|same|such|then|else|instead)\b"
    r"|^(and|but|or|so|what about|how about)\b",
    re.IGNORECASE,
)
SHORT_WORDS = 7


def standalone_question(question: str, history: Sequence[Message]) -> str:
    """Returns the text to search with.

    A question that is short or refers back ("and for part-timers?") is put behind the latest question that did not;
    one that stands alone is returned as it is. No model is asked: this must work while the model is down.

    Args:
        question: The current question.
        history: Earlier turns, oldest first.
    """
    if not _depends(question):
        return question
    chain = [question]
    for turn in reversed([turn for turn in history if turn.role == "user"]):
        chain.append(turn.content)
        if not _depends(turn.content) or len(chain) == 3:
            break
    return " ".join(reversed(chain))


def _depends(question: str) -> bool:
    return len(question.split()) < SHORT_WORDS or _REFERS_BACK.search(question) is not None
