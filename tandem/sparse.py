"""Sparse (BM25) vectors of texts, with document frequencies that no corpus can move.

The score of a text for a question is the dot product of `encode_document(text)` and `encode_query(question)`. The
document's side holds the saturated term counts, the query's side the inverse document frequencies. Those come from a
frozen table, never from the indexed documents: otherwise the ranking would tell what the asker may not read.
"""

import functools
import hashlib
import math
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

import snowballstemmer

TABLE = "terms.txt"
# BM25's usual constants. The average length is fixed too: it would otherwise be a statistic of the corpus.
K1 = 1.2
B = 0.75
AVERAGE_TERMS = 60.0
# A chunk of the size the splitter aims at; turns a word's probability into the share of chunks that hold it.
CHUNK_WORDS = 90
# English text follows p(rank) = ZIPF_SCALE / (rank + ZIPF_SHIFT) closely enough (Mandelbrot's form of Zipf's law).
ZIPF_SCALE = 0.1
ZIPF_SHIFT = 2.7
# Words outside the table are taken to be about as rare as the word at this rank.
UNKNOWN_RANK = 60_000
# Single digits and letters stand in every list and enumeration; the source of the table does not rank them.
SINGLE_RANK = 100

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_COMPOUND = re.compile(r"[^\W_]+(?:[-./_][^\W_]+)+")
_POSSESSIVE = re.compile(r"['’]s?$")

STOP_WORDS = frozenset(
    re.findall(
        r"\S+",
        """
    a about after again all also am an and any are as at be because been before being between both but by can
    could did do does doing done during each either else every few for from further had has have having he her
    here hers him his how i if in into is it its itself just let like may me might mine more most much must my
    neither no nor not of off on once one only or other our ours out over own per please same shall she should so
    some such tell than that the their theirs them then there these they this those through to too under until up
    upon us very was we were what when where whether which while who whom whose why will with within would yes yet
    you your yours don't doesn't didn't isn't aren't wasn't weren't can't couldn't won't wouldn't i'm i've it's
    that's what's there's we're they're you're
    """,
    )
)


@dataclass(frozen=True)
class SparseVector:
    """A sparse vector.

    Attributes:
        indices: Unsigned 32-bit term hashes, ascending, without repetition.
        values: Their weights, as many.
    """

    indices: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    def dot(self, other: "SparseVector") -> float:
        """The dot product: the BM25 score when one side is a query and the other a document."""
        weights = other._weights
        return sum(value * weights.get(index, 0.0) for index, value in zip(self.indices, self.values, strict=True))

    @functools.cached_property
    def _weights(self) -> dict[int, float]:
        return dict(zip(self.indices, self.values, strict=True))


class SparseEncoder:
    """Turns texts into BM25 vectors. Safe to call from several threads."""

    def __init__(self) -> None:
        self._idf = _load_table()
        self._unknown = _idf(_zipf(UNKNOWN_RANK))
        self._single = _idf(_zipf(SINGLE_RANK))
        stemmer = snowballstemmer.stemmer("english")
        lock = threading.Lock()

        @functools.lru_cache(maxsize=65_536)
        def stem(word: str) -> str:
            with lock:  # the stemmer keeps the word it works on in itself
                return str(stemmer.stemWord(word))

        self._stem = stem

    def terms(self, text: str) -> list[str]:
        """The terms of `text` in order: stems of its words, and compounds such as `tn-200` or `1.2` whole besides."""
        folded = _fold(text)
        words = (_POSSESSIVE.sub("", word) for word in _WORD.findall(folded) if word not in STOP_WORDS)
        terms = [self._stem(word) for word in words if word and word not in STOP_WORDS]
        terms.extend(compound for compound in _COMPOUND.findall(folded) if any(c.isdigit() for c in compound))
        return terms

    def idf(self, term: str) -> float:
        """The frozen inverse document frequency of a term (a stem, as `terms` gives it)."""
        return self._idf.get(term, self._single if len(term) == 1 else self._unknown)

    def encode_document(self, text: str) -> SparseVector:
        """Encodes a text that is to be found: saturated term counts."""
        counts = Counter(self.terms(text))
        length = sum(counts.values())
        norm = K1 * (1 - B + B * length / AVERAGE_TERMS)
        return _vector((term, count * (K1 + 1) / (count + norm)) for term, count in counts.items())

    def encode_query(self, text: str) -> SparseVector:
        """Encodes a question: the idf of each of its terms. Empty when it has stop words only."""
        return _vector((term, self.idf(term)) for term in dict.fromkeys(self.terms(text)))


def build_table(vocabulary: Iterable[str]) -> str:
    """Builds the frozen table from a list of words, most frequent first.

    The shipped table is made from the whole words of the BERT uncased vocabulary (Apache-2.0, part of the embedding
    model), which is ordered by frequency in a large English corpus; a unit test makes it again and compares.

    Args:
        vocabulary: The lines of `vocab.txt`; pieces (`##ing`) and special tokens are passed over.

    Returns:
        Lines `idf stem stem ...`, by ascending idf rounded to a tenth.
    """
    stemmer = snowballstemmer.stemmer("english")
    words = (word for word in vocabulary if len(word) > 1 and word.isascii() and word.isalnum())
    probability: dict[str, float] = {}
    for rank, word in enumerate(words, start=1):
        if word not in STOP_WORDS:
            stem = stemmer.stemWord(word)
            probability[stem] = probability.get(stem, 0.0) + _zipf(rank)
    rows: dict[float, list[str]] = {}
    for stem, share in probability.items():
        rows.setdefault(round(_idf(share), 1), []).append(stem)
    return "".join(f"{idf:.1f} {' '.join(sorted(stems))}\n" for idf, stems in sorted(rows.items()))


def _load_table() -> dict[str, float]:
    table: dict[str, float] = {}
    for line in resources.files("tandem").joinpath(TABLE).read_text(encoding="utf-8").splitlines():
        idf, *stems = line.split()
        table.update(dict.fromkeys(stems, float(idf)))
    return table


def _fold(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _zipf(rank: int) -> float:
    return ZIPF_SCALE / (rank + ZIPF_SHIFT)


def _idf(probability: float) -> float:
    share = 1.0 - (1.0 - min(probability, 0.5)) ** CHUNK_WORDS
    return math.log(1.0 + (1.0 - share) / share)


@functools.lru_cache(maxsize=65_536)
def _index(term: str) -> int:
    return int.from_bytes(hashlib.blake2b(term.encode(), digest_size=4).digest(), "big")


def _vector(weights: Iterable[tuple[str, float]]) -> SparseVector:
    merged: dict[int, float] = {}
    for term, weight in weights:
        index = _index(term)
        merged[index] = merged.get(index, 0.0) + weight
    ordered = sorted(merged.items())
    return SparseVector(tuple(index for index, _ in ordered), tuple(weight for _, weight in ordered))
