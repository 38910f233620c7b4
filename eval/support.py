"""Whether a text bears out a sentence, by figures and content words alone.

A judge that costs nothing and never varies, and is no more than that.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import snowballstemmer

from eval.matching import MARKER, strip_markers, tokens
from tandem.schemas import Passage
from tandem.sentences import split_sentences
from tandem.sparse import STOP_WORDS

# Share of a sentence's content words that its source must hold when there is no figure to go by.
WORD_SHARE = 0.5
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBER_WORDS = {word: str(value) for value, word in enumerate(_UNITS.split())} | {
    word: str(value * 10) for value, word in enumerate(_TENS.split(), start=2)
}


@dataclass(frozen=True)
class Citation:
    """One marker of an answer: what is said, and the number of the passage that is to bear it out."""

    sentence: str
    n: int


def figures(text: str) -> frozenset[str]:
    """The figures of a text in canonical form; citation markers are none."""
    return frozenset(token for token in tokens(strip_markers(text)) if token[0].isdigit())


def content_words(text: str) -> frozenset[str]:
    """The stems of a text's words, without stop words and figures."""
    words = (token for token in tokens(strip_markers(text)) if token[0].isalpha() and len(token) > 1)
    return frozenset(_stem(word) for word in words if word not in STOP_WORDS)


def coverage(text: str, source: str) -> float:
    """The share of the content words of `text` that `source` holds, 0 to 1; 1 when it has none."""
    words = content_words(text)
    return len(words & content_words(source)) / len(words) if words else 1.0


def supports(source: str, sentence: str) -> bool:
    """Whether `source` bears out `sentence`: it holds one of its figures, or, if it has none, half its content words.

    Figures that the source writes as words count too.
    """
    said = figures(sentence)
    if said:
        return not said.isdisjoint(all_figures(source))
    return coverage(sentence, source) >= WORD_SHARE and bool(content_words(sentence))


def cited_sentences(text: str) -> list[Citation]:
    """The citations of an answer: each marker with the sentence it ends or stands in, in order."""
    found: list[Citation] = []
    for match in MARKER.finditer(text):
        before = strip_markers(text[: match.start()]).rstrip()
        lines = [line for line in before.splitlines() if line.strip()]
        sentences = split_sentences(lines[-1]) if lines else []
        citation = Citation(sentence=sentences[-1] if sentences else "", n=int(match.group(1)))
        if citation not in found:
            found.append(citation)
    return found


def claims(text: str, closing_line: str = "") -> list[str]:
    """The sentences of an answer that state something: no markers, no questions, not the closing line."""
    if closing_line:
        text = text.replace(closing_line, " ")
    lines = strip_markers(text).splitlines()
    sentences = [sentence for line in lines for sentence in split_sentences(line)]
    return [sentence for sentence in sentences if not sentence.endswith("?") and content_words(sentence)]


def supported_share(sentences: Sequence[str], passages: Sequence[Passage]) -> float:
    """The share of `sentences` that one of the passages bears out with all its figures; 1 for no sentences."""
    if not sentences:
        return 1.0
    quotes = [f"{passage.title} {passage.heading} {passage.quote}" for passage in passages]
    return sum(any(_bears_out(quote, sentence) for quote in quotes) for sentence in sentences) / len(sentences)


def _bears_out(source: str, sentence: str) -> bool:
    return figures(sentence) <= all_figures(source) and coverage(sentence, source) >= WORD_SHARE


def all_figures(source: str) -> frozenset[str]:
    """Figures, and numbers written as words."""
    return figures(source) | {_NUMBER_WORDS[token] for token in tokens(source) if token in _NUMBER_WORDS}


@lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    # A stemmer keeps the word it works on in itself, so threads must not share one.
    return re.sub(r"'s?$", "", str(snowballstemmer.stemmer("english").stemWord(word)))
