"""Text that a person can see: invisible characters out, whitespace in order."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

# Invisible characters that carry no language: zero-width space, soft hyphen, bidi controls, invisible operators, byte
# order marks, variation selectors, interlinear annotation marks and the Unicode tags that spell hidden ASCII.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
# Joiners shape Arabic and Indic letters and emoji; next to anything else they only hide something.
_JOINER = re.compile("(?<![\u0600-\u0dff\u2190-\u2bff\U0001f000-\U0001ffff])[\u200c\u200d]")
# What is there to hide or to mislead. A flag emoji is spelt with tags, an emoji or ideograph has one selector of its
# looks, and web pages are strewn with single zero-width spaces: none of that says anything to a reader.
_SMUGGLED = {
    "Unicode tags": re.compile("(?<!\U0001f3f4)(?<![\U000e0000-\U000e007f])[\U000e0000-\U000e007f]+"),
    "bidi override": re.compile("[\u202d\u202e]"),
    "variation selectors": re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{2,}"),
    "zero-width characters": re.compile("[\u200b-\u200d\u2060-\u2064\ufeff]{8,}"),
}
_SUSPECT = re.compile("[\u200b-\u200d\u202d\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff\U000e0000-\U000e01ef]")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_SPACES = re.compile(r"[^\S\n]+")
_LIQUID_DATA = re.compile(r"\{%-?\s*data\s+([\w.-]+?)\s*-?%\}|\{\{-?\s*([\w.-]+?)\s*-?\}\}")
_LIQUID = re.compile(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}", re.DOTALL)
_UNREADABLE = re.compile("[\ufffd\ue000-\uf8ff\U000f0000-\U0010ffff]")


@dataclass(frozen=True)
class Cleaned:
    """A cleaned text, and how many characters of each kind in it were there to hide or to mislead."""

    text: str
    smuggled: Mapping[str, int] = field(default_factory=dict)


def clean(text: str) -> Cleaned:
    """Removes what cannot be seen and puts whitespace in order; lines stay lines.

    Args:
        text: Any text.

    Returns:
        NFC text without control, zero-width, bidi or tag characters, one space between words, no empty lines.
    """
    smuggled = _smuggled(text)
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    text = _JOINER.sub("", _INVISIBLE.sub("", text))
    text = unicodedata.normalize("NFC", _CONTROL.sub(" ", text.replace("\t", " ")))
    lines = (_SPACES.sub(" ", line).strip() for line in text.split("\n"))
    return Cleaned("\n".join(line for line in lines if line), smuggled)


def _smuggled(text: str) -> dict[str, int]:
    if not _SUSPECT.search(text):
        return {}
    counts = {kind: sum(map(len, pattern.findall(text))) for kind, pattern in _SMUGGLED.items()}
    return {kind: count for kind, count in counts.items() if count}


def strip_templates(text: str) -> str:
    """Removes Liquid and Jinja tags; a tag that only names a variable leaves the variable's last name behind.

    `{% data variables.contact.contact_dmca %}` becomes `contact dmca`: it reads as a gap rather than as markup.
    """
    if "{%" not in text and "{{" not in text and "{#" not in text:
        return text
    return _LIQUID.sub("", _LIQUID_DATA.sub(_variable_name, text))


def unreadable_share(text: str) -> float:
    """The share, 0 to 1, of characters that stand for nothing: undecodable bytes and private-use code points."""
    return len(_UNREADABLE.findall(text)) / len(text) if text else 0.0


def _variable_name(match: re.Match[str]) -> str:
    name = (match.group(1) or match.group(2)).rsplit(".", 1)[-1]
    return name.removeprefix("prodname_").replace("_", " ").replace("-", " ")
