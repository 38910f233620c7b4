"""What changed between two versions of a document: its passages, and the words within them. Pure."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import Literal

from pydantic import BaseModel

Kind = Literal["added", "removed", "changed", "moved"]
# Two paragraphs are one that was reworded when they share this much; from another place they must share more.
_ALIKE = 0.5
_ALIKE_ELSEWHERE = 0.75
# Above so many pairs of paragraphs each is compared only with so many that may stand in its stead.
_MAX_PAIRS = 100_000
_WINDOW = 20
_WORD = re.compile(r"\s+|[^\W\d_]+|\d+(?:[.,:/-]\d+)*|.", re.DOTALL)


@dataclass(frozen=True)
class Paragraph:
    """A line of a version's text (a paragraph, list item, table row or heading) with where it stands."""

    text: str
    heading: str = ""
    page: int | None = None

    @property
    def content(self) -> str:
        """What is compared: a text that was only wrapped or spaced anew did not change."""
        return " ".join(self.text.split())


@dataclass(frozen=True)
class Section:
    """A piece of a version as it was split: its span in the text, the headings above it, its page."""

    start: int
    end: int
    heading: str = ""
    page: int | None = None


class PassageChange(BaseModel):
    """A passage that is not the same in both versions.

    Attributes:
        heading, page: Where it stands in the later version; for `removed`, in the earlier one.
        before, after: Its text; empty where it was added or removed. A `moved` one is the same in both.
    """

    kind: Kind
    heading: str
    page: int | None
    before: str
    after: str


def paragraphs(text: str, sections: Iterable[Section]) -> list[Paragraph]:
    """The lines of a version in reading order; a new heading is a line of its own, so that a renaming shows."""
    found: list[Paragraph] = []
    path: list[str] = []
    for section in sections:
        headings = section.heading.split(" > ") if section.heading else []
        common = next((n for n, (a, b) in enumerate(zip(path, headings, strict=False)) if a != b), len(path))
        for depth in range(min(common, len(headings)), len(headings)):
            found.append(Paragraph(headings[depth], " > ".join(headings[:depth]), section.page))
        path = headings
        lines = (line.strip() for line in text[section.start : section.end].splitlines())
        found.extend(Paragraph(line, section.heading, section.page) for line in lines if line)
    return found


def compare(older: Sequence[Paragraph], newer: Sequence[Paragraph]) -> list[PassageChange]:
    """The passages that differ, in the order of the later version, removed ones where they stood.

    What stands elsewhere but says the same is `moved`; what shares most of its words is one `changed` passage.
    """
    gone, come = _unequal(older, newer)
    moved = _same_elsewhere(older, newer, gone, come)
    changed = _reworded(older, newer, [at for at in gone if at.index not in moved], come, set(moved.values()))
    origin = {new: old for old, new in (moved | changed).items()}
    taken = moved.keys() | changed.keys()
    placed = [
        (at.place, 0, at.index, _change("removed", older[at.index], None)) for at in gone if at.index not in taken
    ]
    for at in come:
        before = older[origin[at.index]] if at.index in origin else None
        same = before is not None and before.content == newer[at.index].content
        kind: Kind = "added" if before is None else "moved" if same else "changed"
        placed.append((at.place, 1, at.index, _change(kind, before, newer[at.index])))
    return [change for *_, change in sorted(placed, key=lambda item: item[:3])]


def marked_words(before: str, after: str) -> Iterator[tuple[Literal["same", "removed", "added"], str]]:
    """A changed passage as runs of text: what stayed, what went, what came. A figure is never cut in two."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            yield "same", "".join(old[i1:i2])
            continue
        if i1 < i2:
            yield "removed", "".join(old[i1:i2])
        if j1 < j2:
            yield "added", "".join(new[j1:j2])


@dataclass(frozen=True)
class _At:
    """A paragraph that has no equal in its place: its index, and the place, which both versions count alike."""

    index: int
    place: int


def _unequal(older: Sequence[Paragraph], newer: Sequence[Paragraph]) -> tuple[list[_At], list[_At]]:
    matcher = difflib.SequenceMatcher(None, [p.content for p in older], [p.content for p in newer])
    gone: list[_At] = []
    come: list[_At] = []
    for place, (tag, i1, i2, j1, j2) in enumerate(matcher.get_opcodes()):
        if tag != "equal":
            gone.extend(_At(index, place) for index in range(i1, i2))
            come.extend(_At(index, place) for index in range(j1, j2))
    return gone, come


def _same_elsewhere(
    older: Sequence[Paragraph], newer: Sequence[Paragraph], gone: Sequence[_At], come: Sequence[_At]
) -> dict[int, int]:
    waiting: dict[str, list[int]] = {}
    for at in come:
        waiting.setdefault(newer[at.index].content, []).append(at.index)
    pairs: dict[int, int] = {}
    for at in gone:
        same = waiting.get(older[at.index].content)
        if same:
            pairs[at.index] = same.pop(0)
    return pairs


def _reworded(
    older: Sequence[Paragraph], newer: Sequence[Paragraph], gone: Sequence[_At], come: Sequence[_At], used: set[int]
) -> dict[int, int]:
    come = [at for at in come if at.index not in used]
    words = {id(p): Counter(p.content.casefold().split()) for p in (*older, *newer)}
    scored: list[tuple[float, int, int]] = []
    for old, new in _pairs(gone, come):
        alike = _alike(words[id(older[old.index])], words[id(newer[new.index])])
        if alike >= (_ALIKE if old.place == new.place else _ALIKE_ELSEWHERE):
            scored.append((-alike - 0.1 * (old.place == new.place), old.index, new.index))
    pairs: dict[int, int] = {}
    for _, before, after in sorted(scored):
        if before not in pairs and after not in used:
            pairs[before] = after
            used.add(after)
    return pairs


def _pairs(gone: Sequence[_At], come: Sequence[_At]) -> Iterator[tuple[_At, _At]]:
    if len(gone) * len(come) <= _MAX_PAIRS:
        yield from product(gone, come)
        return
    places: dict[int, list[_At]] = {}
    for at in come:
        places.setdefault(at.place, []).append(at)
    for place, run in groupby(gone, key=lambda at: at.place):
        olds, news = list(run), places.get(place, [])
        for n, old in enumerate(olds):
            middle = n * len(news) // len(olds)
            yield from ((old, new) for new in news[max(0, middle - _WINDOW) : middle + _WINDOW])


def _alike(one: Counter[str], other: Counter[str]) -> float:
    """The share of words that two paragraphs have in common, 0 to 1."""
    return 2 * (one & other).total() / max(1, one.total() + other.total())


def _change(kind: Kind, before: Paragraph | None, after: Paragraph | None) -> PassageChange:
    place = after or before
    assert place is not None
    return PassageChange(
        kind=kind,
        heading=place.heading,
        page=place.page,
        before=before.text if before else "",
        after=after.text if after else "",
    )
