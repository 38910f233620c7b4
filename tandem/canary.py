"""A canary: a candidate that answers a share of the conversations, to be compared with the active version."""

import hashlib
from datetime import datetime

from pydantic import Field

from tandem.schemas import Value


class Canary(Value):
    """A trial under way.

    Attributes:
        digest: The candidate.
        against: The version that was active when it began. The trial ends when another one is.
        share: Of conversations, over 0 and below 1; a trial that an earlier Tandem began may have 1.
        by: Who began it.
    """

    digest: str
    against: str
    share: float = Field(gt=0, le=1)
    by: str = ""
    started_at: datetime

    def takes(self, conversation: str) -> bool:
        """Whether a conversation is the candidate's: the same for all its answers, in every process.

        A larger share keeps the conversations of a smaller one; another candidate gets others.
        """
        digest = hashlib.sha256(f"{self.digest}\n{conversation}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8]) < self.share * 2**64


def conversation_key(user: str, first_question: str, named: str = "") -> str:
    """What a conversation is told apart by.

    A caller may name it. Otherwise the asker and the first question do: OpenAI's clients send the whole conversation
    each time, so its first question stays.
    """
    return f"{user}\n#{named}" if named else f"{user}\n{first_question}"
