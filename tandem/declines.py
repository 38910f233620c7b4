"""When an answer says that the sources do not answer."""

import re

from tandem.prompt import DECLINE

# The house's own sentence, and the ways in which a model without the adapter says the same.
_PATTERNS = re.compile(
    "|".join(
        (
            r"\b(?:i|we) (?:can(?:no|')?t|could not|couldn't|do not|don't) (?:find|see|know)",
            r"(?:sources?|documents?|passages?|text|context) (?:do(?:es)?|did) not (?:\w+ )?"
            r"(?:say|answer|mention|state|specify|contain|provide|include|cover)",
            r"(?:not|n't) (?:\w+ )?(?:mentioned|specified|stated|provided|covered|addressed|answered) "
            r"(?:in|by) (?:the|any|these|this|your) (?:\w+ ){0,2}"
            r"(?:sources?|documents?|passages?|texts?|context|excerpts?|information|handbook)",
            r"(?:no|any) information (?:about|on|regarding)",
            r"unable to (?:find|answer)",
            r"cannot (?:be )?(?:found|answer|determine)",
        )
    ),
    re.IGNORECASE,
)


# No answer begins so: it tells a decline while the answer still streams.
_OPENING = "I can't find"


def opens_declining(text: str) -> bool | None:
    """Whether an answer that begins with `text` declines by the house's sentence; None while that is open."""
    opening = text.replace("\u2019", "'").lstrip()
    if opening.startswith(_OPENING):
        return True
    return None if _OPENING.startswith(opening) else False


def is_decline(text: str) -> bool:
    """Whether `text` declines: it opens with the house's sentence or with a common phrase for it.

    Only the first 200 characters count: an answer that gives a fact and then limits it is an answer.
    """
    opening = text.replace("\u2019", "'").strip()[:200]
    return opening.startswith(DECLINE) or _PATTERNS.search(opening) is not None
