"""What leaves the model, made safe while it streams.

Markers `[n]` must point to a passage that was given; images, raw HTML, and links that are not a source's own are taken
out by rule, because a document may have told the model to write them (EchoLeak, CVE-2025-32711).
"""

import re
from collections.abc import Collection

_MARKER = re.compile(r"( ?)\[(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\](?!\()")
_LINK = re.compile(r"(!?)\[([^\]\n]*)\]\(\s*<?([^)\s>]*)>?[^)\n]*\)")
_REFERENCE = re.compile(r"^\s*\[[^\]\n]+\]:\s*\S+.*$", re.MULTILINE)
_HTML = re.compile(r"<(?:[a-zA-Z/!?][^>\n]*)>")
_URL = re.compile(r"(?:https?|ftp|data|javascript)://?[^\s<>\[\])\"']+", re.IGNORECASE)
_CONTROL = re.compile(r"<\|[^|>\n]{0,40}\|>")
# What may still become one of the above with the next characters.
_OPEN = re.compile(
    r"!?\[[^\]\n]{0,300}$"  # a bracket that has not closed
    r"|!?\[[^\]\n]{0,300}\](?:\([^)\n]{0,2000})?$"  # closed, and a target may follow or is under way
    r"|!$"
    r"|<[^>\n]{0,300}$"
    r"|(?:https?|ftp|data|javascript):[^\s<>\[\])\"']*$"
    r"|\b(?:h|ht|htt|http|https|f|ft|ftp|d|da|dat|data|j|ja|jav|java|javas|javasc|javascr|javascri|javascrip|javascript)$",
    re.IGNORECASE,
)


class AnswerFilter:
    """Cleans one answer, piece by piece.

    Args:
        passages: How many passages were given; markers 1 to this number stay.
        urls: Links that may stay: the sources' own.

    Attributes:
        cited: Numbers of the passages cited so far, in order of first mention.
        removed: Markers without a source that were removed.
    """

    def __init__(self, passages: int, urls: Collection[str] = ()) -> None:
        self._passages = passages
        self._urls = frozenset(url for url in urls if url.startswith(("https://", "http://")))
        self._pending = ""
        self.cited: list[int] = []
        self.removed = 0

    def feed(self, text: str) -> str:
        """Takes the model's next piece; returns what can be shown by now, possibly nothing."""
        self._pending += text
        opening = _OPEN.search(self._pending)
        cut = opening.start() if opening else len(self._pending)
        if opening and self._pending[:cut].endswith(" "):
            cut -= 1  # the blank before a marker goes with the marker if that goes
        ready, self._pending = self._pending[:cut], self._pending[cut:]
        return self._clean(ready)

    def close(self) -> str:
        """Returns what was held back."""
        ready, self._pending = self._pending, ""
        return self._clean(ready)

    def _clean(self, text: str) -> str:
        text = _CONTROL.sub("", text)
        text = _REFERENCE.sub("", text)
        text = _LINK.sub(self._link, text)
        text = _HTML.sub("", text)
        text = _URL.sub(self._bare, text)
        return _MARKER.sub(self._marker, text)

    def _marker(self, match: re.Match[str]) -> str:
        numbers = [int(number) for number in re.findall(r"\d+", match.group(2))]
        known = [number for number in numbers if 1 <= number <= self._passages]
        self.removed += len(numbers) - len(known)
        self.cited.extend(number for number in known if number not in self.cited)
        # The blank before a marker goes with the marker.
        return match.group(1) + "".join(f"[{number}]" for number in known) if known else ""

    def _link(self, match: re.Match[str]) -> str:
        image, label, target = match.groups()
        if image or target not in self._urls:
            return label
        return match.group(0)

    def _bare(self, match: re.Match[str]) -> str:
        url = match.group(0).rstrip(".,;:!?")
        return match.group(0) if url in self._urls else "(link removed)"


def clean_answer(text: str, passages: int, urls: Collection[str] = ()) -> tuple[str, list[int], int]:
    """Cleans a whole answer at once.

    Returns:
        The text, the numbers it cites, and how many markers were removed.
    """
    answer = AnswerFilter(passages, urls)
    return answer.feed(text) + answer.close(), answer.cited, answer.removed
