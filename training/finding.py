"""What a guard found in a text, and how it may be shown."""

import re
import unicodedata
from typing import Literal

from tandem.schemas import Value

Reason = Literal[
    "unapproved",
    "duplicate",
    "secret",
    "email",
    "phone",
    "iban",
    "card",
    "national_id",
    "name",
    "corpus_figure",
    "corpus_name",
    "no_source",
    "no_citation",
    "bad_citation",
    "unsupported",
]

_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")


class Finding(Value):
    """Something that must not be trained on.

    Attributes:
        reason: By which a refusal is counted.
        what: What it is, for people: "an e-mail address".
        value: As it stands in the text. It is never to be shown whole.
    """

    reason: Reason
    what: str
    value: str

    @property
    def masked(self) -> str:
        """Enough of the value to find it again, and too little to use it: the ends of a long one.

        What the documents state is shown: whoever trains may read them.
        """
        value = " ".join(self.value.split())
        if self.reason in ("corpus_figure", "corpus_name"):
            return value
        if self.reason == "name":
            return " ".join(f"{word[0]}…" for word in value.split())
        shown = min(4, len(value) // 5)
        return f"{value[:shown]}…{value[-1:] if len(value) > 8 else ''}"


def plain(text: str) -> str:
    """The text without what only hides it from a pattern: odd forms of digits, dashes and blanks, invisible signs."""
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).translate(_DASHES)
