"""What leaves the model, made safe while it streams.

Markers `[n]` must point to a passage that was given; images, raw HTML, and links that are not a source's own are taken
out by rule, because a document may have told the model to write them (EchoLeak, CVE-2025-32711).

The text is read once, from left to right, and each decision waits for the text it needs, so that the result does not
depend on how the model's output was cut into pieces. What is taken out must not let its neighbours grow together into
something that would have been taken out itself: `_put` parts them by a blank.
"""

import re
from collections.abc import Collection

from tandem.prompt import CONTROL_TOKENS

_TAG = re.compile(r"<(?:\|[^|>\n]{0,40}\|>|[a-zA-Z/!?][^>]{0,400}>)")
_TAG_OPEN = re.compile(r"<(?:\|[^|>\n]{0,40}\|?|[a-zA-Z/!?][^>]{0,400})?\Z")
_LABEL = re.compile(r"\[([^\[\]\n]{0,300})\]")
_LABEL_OPEN = re.compile(r"\[[^\[\]\n]{0,300}\Z")
_TARGET = re.compile(r"\(\s*<?([^\s)>]{0,1000})[^)\n]{0,1000}\)")
_TARGET_OPEN = re.compile(r"\([^)\n]{0,2000}\Z")
_NUMBERS = re.compile(r"\d{1,3}(?:\s*[,;]\s*\d{1,3})*")
_SCHEMES = ("http:/", "https:/", "ftp:/", "file:/", "javascript:", "vbscript:")
_REST = r"[^\s<>\[\]\"']+"
_URL = re.compile(rf"(?:{'|'.join(_SCHEMES)}|data:[a-z]+/){_REST}", re.IGNORECASE | re.ASCII)
_BEGINNINGS = sorted({scheme[:n] for scheme in _SCHEMES for n in range(1, len(scheme) + 1)})
_URL_OPEN = re.compile(rf"(?:{'|'.join(_BEGINNINGS)}|d|da|dat|data|data:[a-z]*/?)\Z", re.IGNORECASE | re.ASCII)
_PLAIN = re.compile(r".[^ !\[hfdjv]*", re.IGNORECASE | re.ASCII | re.DOTALL)  # up to where something may begin
# Two characters that begin a link's target, a link's definition, a tag or a control token.
_NEVER = re.compile(r"\]\(|\]:|<[a-zA-Z/!?|]")
# Two characters that something stood between and that must stay apart: parts of a word, an address, an image, a marker.
_APART = re.compile(r"[\w<\[/.,;:!?][\w/:(]|[<:/]\S|!\[|\d\]")
_CONTROL_LABELS = frozenset(token[1:-1] for token in CONTROL_TOKENS if token.startswith("["))


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
        self._raw = ""  # undecided: may be a tag
        self._text = ""  # without tags; undecided: may be a link or marker
        self._out: list[str] = []
        self._blank = ""  # goes with a marker that goes
        self._last = ""
        self._glued = False  # something was taken out behind the last character
        self._ended = ""  # what the last character ends: "marker", "address" or nothing of note
        self._worded = False  # the line has begun with words, so it defines no link
        self._dangling = False  # a bracket was left open somewhere
        self.cited: list[int] = []
        self.removed = 0

    def feed(self, text: str) -> str:
        """Takes the model's next piece; returns what can be shown by now, possibly nothing."""
        self._raw += text
        return self._advance(final=False)

    def close(self) -> str:
        """Returns what was held back."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        self._strip_tags(final)
        text, at = self._text, 0
        while at < len(text):
            if text[at] == " ":
                self._put("")
                self._blank, after = " ", at + 1
            elif text[at] == "[" or text.startswith("![", at):
                after = self._bracket(at, final)
            elif text[at] == "!":
                after = at + 1 if final or at + 1 < len(text) else at
                self._put(text[at:after])
            else:
                after = self._words(at, final)
            if after == at:  # what comes next decides
                break
            at = after
        self._text = text[at:]
        if final:
            self._put("")
        shown = "".join(self._out)
        self._out.clear()
        return shown

    def _strip_tags(self, final: bool) -> None:
        raw, at = self._raw, 0
        while (start := raw.find("<", at)) >= 0:
            self._text += raw[at:start]
            at = start
            if tag := _TAG.match(raw, start):
                at = tag.end()
            elif not final and _TAG_OPEN.match(raw, start):
                self._raw = raw[start:]
                return
            else:
                self._text += "<"
                at = start + 1
        self._text += raw[at:]
        self._raw = ""

    def _words(self, at: int, final: bool) -> int:
        """Handles text without brackets; returns where it ends, or `at` to wait for more."""
        url = _URL.match(self._text, at)
        if url is None:
            if not final and _URL_OPEN.match(self._text, at):
                return at
            plain = _PLAIN.match(self._text, at)
            assert plain is not None
            self._put(plain.group())
            return plain.end()
        if url.end() == len(self._text) and not final:
            return at
        address = _trim(url.group())
        self._put_address(address)
        return at + len(address)

    def _bracket(self, at: int, final: bool) -> int:
        """Handles `[...]`, with what belongs to it; returns where it ends, or `at` to wait for more."""
        text = self._text
        image = text[at] == "!"
        label = _LABEL.match(text, at + image)
        if label is None:
            if not final and _LABEL_OPEN.match(text, at + image):
                return at
            self._put("!" * image + "[")
            self._dangling = True
            return at + image + 1
        end = label.end()
        target = _TARGET.match(text, end)
        if target is None and not final and (end == len(text) or _TARGET_OPEN.match(text, end)):
            return at
        content = label.group(1)
        if content in _CONTROL_LABELS:
            self._glued = True
        elif _NUMBERS.fullmatch(content):
            if image and target is None:
                self._put("!")
            self._marker([int(number) for number in re.findall(r"\d+", content)])
        elif target is None:
            self._put("!" * image + "[")
            self._put_label(content)
            self._put("]")
        elif not image and target.group(1) in self._urls:
            self._put("[")
            self._put_label(content)
            self._put("]")
            self._out.append(f"({target.group(1)})")
            self._last = ")"
        else:
            self._glued = True
            self._put_label(content)
            self._glued = True
        return target.end() if target else end

    def _marker(self, numbers: list[int]) -> None:
        known = [number for number in numbers if 1 <= number <= self._passages]
        self.removed += len(numbers) - len(known)
        self.cited.extend(number for number in dict.fromkeys(known) if number not in self.cited)
        if known:
            self._put("".join(f"[{number}]" for number in known))
            self._ended = "marker"
        else:
            self._blank, self._glued = "", True

    def _put_label(self, label: str) -> None:
        at = 0
        for url in _URL.finditer(label):
            self._put(label[at : url.start()])
            address = _trim(url.group())
            self._put_address(address)
            at = url.start() + len(address)
        self._put(label[at:])

    def _put_address(self, address: str) -> None:
        if address in self._urls:
            self._put(address)
            self._ended = "address"
        else:
            self._glued = True
            self._put("(link removed)")

    def _put(self, text: str) -> None:
        """Shows text, and before it the blank that was held back."""
        text, self._blank = self._blank + text, ""
        for character in text:
            pair = self._last + character
            harmless = pair == "]:" and self._ended == "marker" and self._worded and not self._dangling
            apart = _APART.fullmatch(pair) or (self._ended == "address" and not character.isspace())
            if (_NEVER.fullmatch(pair) and not harmless) or (self._glued and apart):
                self._out.append(" ")
            self._out.append(character)
            self._last = character
            self._glued = False
            if self._ended == "marker" or character not in ".,;:!?)":
                self._ended = ""
            self._worded = character != "\n" and (self._worded or character.isalpha())


def clean_answer(text: str, passages: int, urls: Collection[str] = ()) -> tuple[str, list[int], int]:
    """Cleans a whole answer at once.

    Returns:
        The text, the numbers it cites, and how many markers were removed.
    """
    answer = AnswerFilter(passages, urls)
    return answer.feed(text) + answer.close(), answer.cited, answer.removed


def _trim(address: str) -> str:
    """An address without the punctuation of the sentence around it."""
    while address[-1] in ".,;:!?" or (address[-1] == ")" and address.count(")") > address.count("(")):
        address = address[:-1]
    return address
