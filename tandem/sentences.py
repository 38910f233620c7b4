"""Passages into the units that evidence is picked from: sentences, list items, table rows."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

_ITEM = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)]|[a-z][.)])\s+")
# Abbreviations after which English policy text goes on; Punkt knows none until it is told.
# fmt: off
_ABBREVIATIONS = frozenset((
    "e.g", "i.e", "etc", "no", "nos", "art", "sec", "st", "mr", "mrs", "ms", "dr", "approx", "incl", "vs", "p", "pp",
    "inc", "ltd", "u.s", "cf", "ext",
))
# fmt: on


@dataclass(frozen=True)
class Unit:
    """A sentence, list item or table row.

    Attributes:
        text: The unit itself.
        lead: What it needs to be understood: the table's header row, or the line that introduces the list.
    """

    text: str
    lead: str = ""


@lru_cache(maxsize=1)
def _tokenizer() -> PunktSentenceTokenizer:
    parameters = PunktParameters()
    parameters.abbrev_types.update(_ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters)


def split_sentences(line: str) -> list[str]:
    """Sentences of one line of prose."""
    return [sentence.strip() for sentence in _tokenizer().tokenize(line) if sentence.strip()]


def units(text: str) -> list[Unit]:
    """Splits a passage, line by line, into sentences, list items and table rows, in order."""
    return list(_split(text))


@lru_cache(maxsize=4096)  # a passage is a candidate for many questions
def _split(text: str) -> tuple[Unit, ...]:
    found: list[Unit] = []
    header = lead = ""
    alone = False
    for line in [*text.splitlines(), ""]:
        line = line.strip()
        if " | " in line:
            if not header:
                header, alone = line, True
            elif line != header:  # it comes again where two pieces of a table meet
                found.append(Unit(line, header))
                alone = False
            continue
        if header and alone:  # a line with a bar in it, and no table
            found.append(Unit(header))
        header = ""
        if not line:
            lead = ""
        elif _ITEM.match(line):
            found.append(Unit(line, lead))
        else:
            sentences = split_sentences(line)
            found.extend(Unit(sentence) for sentence in sentences)
            lead = sentences[-1] if sentences and sentences[-1].endswith(":") else ""
    return tuple(found)


def in_blocks(ranked: Sequence[int], unit: Callable[[int], Unit]) -> list[int]:
    """Puts the units of one passage in the order in which they are shown.

    Args:
        ranked: Their places in the passage, best first.
        unit: The unit at a place.

    Returns:
        The same places, best first, but those under one lead together and in the order of the passage.
    """
    blocks: dict[str | int, list[int]] = {}
    for place in ranked:
        blocks.setdefault(unit(place).lead or place, []).append(place)
    return [place for block in blocks.values() for place in sorted(block)]


def join_units(chosen: Sequence[Unit]) -> str:
    """Chosen units as the model reads them, a line each, under the lead they need."""
    lines: list[str] = []
    lead = ""
    for unit in chosen:
        if unit.lead and unit.lead != lead and unit.lead not in lines:
            lines.append(unit.lead)
        lead = unit.lead
        lines.append(unit.text)
    return "\n".join(lines)
