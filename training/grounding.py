"""Which sentences of its sources an example's answer was taken from."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tandem.sentences import split_sentences, units
from tandem.style import StyleGuide
from training.examples import Group, StyleExample

Key = tuple[int, int]  # source of the group, unit of the source

_MARKER = re.compile(r"\[(\d+)\]")
_TOKEN = re.compile(r"[a-zà-ÿ]+|\d+(?:[.,]\d+)*")
_STOP = frozenset(
    "a an the of to in on at by for from with and or but not no nor is are was were be been has have had do does did "
    "must may can shall will would should could you your yours it its this that these those they their them he she his "
    "her we our us i me my if when where who whom which what how than then as so any all each other also only up out "
    "there here per s t q".split()
)


@dataclass(frozen=True)
class Grounded:
    """An example with the units that carry its answer, for each sentence of the answer."""

    example: StyleExample
    sentences: tuple[tuple[str, frozenset[Key]], ...]

    @property
    def needed(self) -> frozenset[Key]:
        """All units that the answer stands on; none for an answer that declines."""
        return frozenset().union(*(keys for _, keys in self.sentences))

    def part(self, key: Key) -> "Grounded | None":
        """The example with as much of its answer as one unit bears out; None where that is nothing."""
        kept = tuple(sentence for sentence in self.sentences if sentence[1] <= {key})
        return replace(self, sentences=kept) if any(keys for _, keys in kept) else None


class Grounding:
    """The examples of one group, each with the units that its answer stands on.

    Attributes:
        units: Those of each source.
        examples: In the group's order.
    """

    def __init__(self, group: Group, guide: StyleGuide) -> None:
        self.units = [units(source.text) for source in group.sources]
        self.examples = [self._ground(example, guide) for example in group.examples]

    def text(self, key: Key) -> str:
        """A unit with what it needs to be understood."""
        unit = self.units[key[0]][key[1]]
        return f"{unit.lead} {unit.text}"

    def _ground(self, example: StyleExample, guide: StyleGuide) -> Grounded:
        sentences = []
        if example.answerable and example.sources:
            for sentence in _answer_sentences(guide.body(example.answer)):
                cited = [int(n) - 1 for n in _MARKER.findall(sentence)]
                where = [n for n in cited if 0 <= n < len(example.sources)]
                sentences.append((sentence, self._carriers(sentence, where) if where else frozenset()))
        return Grounded(example, tuple(sentences))

    def _carriers(self, sentence: str, cited: Sequence[int]) -> frozenset[Key]:
        """The units that an answer's sentence was taken from: as few as cover its words."""
        wanted = content_words(_MARKER.sub("", sentence))
        pool = {(n, m): content_words(self.text((n, m))) for n in cited for m in range(len(self.units[n]))}
        chosen: list[Key] = []
        covered: set[str] = set()
        while pool and len(chosen) < 3:
            best = max(pool, key=lambda key: weight((covered | pool[key]) & wanted))
            gain = weight((covered | pool[best]) & wanted) - weight(covered & wanted)
            if chosen and gain < max(2, 0.15 * weight(wanted)):
                break
            chosen.append(best)
            covered |= pool.pop(best)
        for n in cited:  # a source that is cited is shown
            if all(key[0] != n for key in chosen):
                chosen.append(max((key for key in pool if key[0] == n), key=lambda key: len(pool[key] & wanted)))
        return frozenset(chosen)


def _answer_sentences(body: str) -> list[str]:
    """Sentences of an answer. "No." stays with what follows."""
    merged: list[str] = []
    for sentence in split_sentences(body):
        if merged and (not _MARKER.search(merged[-1])):
            merged[-1] += " " + sentence
        else:
            merged.append(sentence)
    if len(merged) > 1 and not _MARKER.search(merged[-1]):
        merged[-2:] = [" ".join(merged[-2:])]
    return merged


def content_words(text: str) -> set[str]:
    return {_stem(token) for token in _TOKEN.findall(text.lower())} - _STOP


def _stem(word: str) -> str:
    """Crude, and enough to see that "includes" and "included" are one word."""
    for ending in ("ing", "ied", "ies", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def weight(words: set[str]) -> int:
    """Figures say more than words."""
    return sum(3 if word[0].isdigit() else 1 for word in words)
