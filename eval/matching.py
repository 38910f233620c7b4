"""Whether a text says a given string, however it is spaced, cased or punctuated.

Both are cut into tokens and compared token by token, so "€45" is found in "€ 45" and "45 euros", "24-month" in
"24 months", "10,000" in "10000", but "5" is not found in "45", "5.5" or "5,000", nor "10 m" in "10 minutes".
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

# A citation marker is about a sentence, not in it: its number must not pass for a figure of the answer.
MARKER = re.compile(r"\s*\[(\d{1,3})\]")

_SPACED_THOUSANDS = re.compile(r"(?<![\d.,])(\d{1,3})((?:[\u00a0\u2009\u202f]\d{3})+)(?!\d)")
_CURRENCY = (
    (re.compile(r"\bus\s*\$|\$\s*us\b|(?<![^\W\d_])usd(?![^\W\d_])|\bdollars?\b"), "$"),
    (re.compile(r"(?<![^\W\d_])eur(?:os?)?(?![^\W\d_])"), "€"),
    (re.compile(r"(?<![^\W\d_])gbp(?![^\W\d_])"), "£"),
    (re.compile(r"\bper\s?cent\b"), "%"),
)
_SIGNS = frozenset("€$£¥")
# A number; a word, which may hold digits after its first letter ("ip67"); a sign that changes what a number means.
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]\w*|[€$£¥%]")
_INFLECTED = 3  # words from this length on may go on at their end: "month" is found in "months"


def strip_markers(text: str) -> str:
    """Returns `text` without citation markers and the blanks before them."""
    return MARKER.sub("", text)


def tokens(text: str) -> list[str]:
    """Cuts a text into comparable tokens: case-folded words, canonical numbers, currency and percent signs.

    An amount always has its sign first, whichever way it was written.
    """
    text = _SPACED_THOUSANDS.sub(lambda match: re.sub(r"\s", "", match.group(0)), text)
    text = unicodedata.normalize("NFKC", text).casefold()
    for pattern, sign in _CURRENCY:
        text = pattern.sub(f" {sign} ", text)
    return _signs_first([_number(token) if token[0].isdigit() else token for token in _TOKEN.findall(text)])


def contains(text: str, key: str) -> bool:
    """Whether `text` says `key`: the key's tokens in a row; its last word may be inflected. An empty key: no."""
    return contains_tokens(tokens(text), key)


def contains_tokens(haystack: Sequence[str], key: str) -> bool:
    """`contains` for a text that was cut already."""
    needle = tokens(key)
    if not needle:
        return False
    *body, last = needle
    return any(
        list(haystack[start : start + len(body)]) == body and _begins(haystack[start + len(body)], last)
        for start in range(len(haystack) - len(body))
    )


def found(text: str, keys: Iterable[str]) -> tuple[str, ...]:
    """Those of `keys` that `text` says."""
    haystack = tokens(text)
    return tuple(key for key in keys if contains_tokens(haystack, key))


def holds_all(text: str, groups: Sequence[Sequence[str]]) -> bool:
    """Whether `text` says one string of each group. True for no groups."""
    haystack = tokens(text)
    return all(any(contains_tokens(haystack, key) for key in group) for group in groups)


def _begins(token: str, key: str) -> bool:
    if token == key:
        return True
    return len(key) >= _INFLECTED and key.isalpha() and token.isalpha() and token.startswith(key)


def _number(token: str) -> str:
    """One spelling for each number: no thousands separators, a point before decimals, no empty cents.

    "5.000" stays as it is: nobody can tell five thousand from five with three decimals.
    """
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", token):
        token = token.replace(",", "")
    elif re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d+", token):
        token = token.replace(".", "").replace(",", ".")
    elif re.fullmatch(r"\d+,\d+", token):
        token = token.replace(",", ".")
    return re.sub(r"(?<=\d)\.00$", "", token) if token.count(".") == 1 else token


def _signs_first(cut: list[str]) -> list[str]:
    """Turns "45 €" into "€ 45", unless that sign belongs to the number after it or the number has one already."""
    for i in range(1, len(cut)):
        follows = i + 1 < len(cut) and cut[i + 1][0].isdigit()
        signed = i >= 2 and cut[i - 2] in _SIGNS
        if cut[i] in _SIGNS and cut[i - 1][0].isdigit() and not follows and not signed:
            cut[i - 1], cut[i] = cut[i], cut[i - 1]
    return cut
