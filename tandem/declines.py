"""When an answer says that the sources do not answer."""

import re

from tandem.prompt import DECLINE

# The house's own sentence, and the ways in which a model without the adapter says the same.
_PATTERNS = re.compile(
    r"can(?:no|')?t find (?:that|this|it|any|the answer|an answer|information)"
    r"|(?:sources?|documents?|passages?|text|context) (?:do(?:es)?|did) not (?:\w+ )?(?:say|answer|mention|state|specify|contain|provide|include|cover)"
    r"|(?:not|n't) (?:\w+ )?(?:mentioned|specified|stated|provided|covered|addressed|answered) (?:in|by) (?:the|any|these)"
    r"|(?:no|any) information (?:about|on|regarding)|i (?:do not|don't) know|unable to (?:find|answer)"
    r"|cannot (?:be )?(?:found|answer|determine)",
    re.IGNORECASE,
)


def is_decline(text: str) -> bool:
    """Whether `text` declines: it opens with the house's sentence or with a common phrase for it.

    Only the first 200 characters count: an answer that gives a fact and then limits it is an answer.
    """
    opening = text.replace("\u2019", "'").strip()[:200]
    return opening.startswith(DECLINE) or _PATTERNS.search(opening) is not None
