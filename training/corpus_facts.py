"""What the ingested documents state, and whether an example repeats it: facts belong to the index, not to the weights.

A fact is a figure with what it is about, or a name. "30 days" stands everywhere; "30 days" beside "invoice", "due" and
"delivery" is the sentence of a document. A name is a word that no dictionary has, a product with its number, or a
person.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from sqlalchemy import select

from eval.matching import tokens
from eval.support import content_words
from tandem.database import Database
from tandem.sparse import STOP_WORDS, SparseEncoder
from tandem.tables import VersionRow
from training.finding import Finding, plain
from training.person_names import find_names, fold, is_on_a_list

# Shares of the words of the shorter and the longer sentence, by idf, that both have in common around the same figure.
_SAME_MATTER, _SAME_MATTER_LONGER = 0.55, 0.3
_SHARED_WORDS = 3  # at least; of a figure that is seldom the same by chance, 2
_SEPARATE = re.compile(r"[^\d]*\d[.,]?\d*[1-9](?:[.,]\d+)?")
_RARE = 8.5  # idf of the frozen table from which on a word is none that everybody uses
_YEAR = re.compile(r"(?:19|20)\d\d")
_SIGNS = frozenset("€$£¥")
_ADDRESS = re.compile(r"\S*(?:@|://|www\.)\S*")
_MIDWAY = re.compile(r"(?<=[a-zà-ÿ,;(] )[A-ZÀ-Þ][\w'’-]{3,}")
_PRODUCT = re.compile(r"(?:(?<=[a-z,] )|(?<=\| )|(?<=\|))([A-Z][a-zà-ÿ]{2,}) (\d{1,4}|[B-HJ-Z])\b(?![.,]\d|-\d)")
_CODE = re.compile(r"\b[A-Z]{2,6}-?\d{3,8}\b")
_CAPITALISED = re.compile(r"\b[A-ZÀ-Þ][\w'’-]{3,}")
_POSSESSIVE = re.compile(r"['’]s?$")
_WORD = re.compile(r"[^\W\d_][\w'’-]{3,}")
# What is numbered in every document.
_NUMBERED = frozenset(
    "act annex appendix article band building category chapter class clause column day edition figure floor form gate "
    "grade group item january february march april may june july august september october november december level line "
    "no note number option order page paragraph part period phase plan platform point posting room row rule schedule "
    "first last section sheet stage standard step table tariff term tier type unit version volume ward week windows "
    "year zone".split()
)
_COMMON_CODES = frozenset("iso din ipx en ip iec ieee rfc sha".split())
# Everybody's, whatever the documents are.
_PUBLIC = frozenset(
    "bluetooth celsius ethernet fahrenheit javascript linkedin paypal python whatsapp wikipedia youtube".split()
)
_NUMBER_WORDS = {
    word: str(value)
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split()
    )
    if value > 1
} | {
    word: str(value)
    for value, word in zip(range(30, 100, 10), "thirty forty fifty sixty seventy eighty ninety".split(), strict=True)
}

# Good enough for comparing words, and ten times as fast as the sentences that people are shown.
_SENTENCE_END = re.compile(r"(?<=[.!?;]) +(?=[A-Z(\[])")
_CLOCK = re.compile(r"\b(\d{1,2}):(\d{2})\b")
_HAS_NUMBER = re.compile(rf"\d|\b(?:{'|'.join(_NUMBER_WORDS)})\b", re.IGNORECASE)


class CorpusFacts:
    """The figures and names of the documents that are live.

    Args:
        texts: Of the documents.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._sparse = SparseEncoder()
        self._idf = lru_cache(maxsize=100_000)(self._sparse.idf)
        # A sentence around a figure has a number; its words lead to it, and it has a weight.
        self._sentences: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        self._weights: list[float] = []
        self._names: set[str] = set()
        self.documents = 0
        lower: set[str] = set()
        for text in texts:
            self.documents += 1
            text = plain(text)
            for figure, sentence in _figures(text):
                self._add(figure, _words(sentence, figure))
            prose = _ADDRESS.sub(" ", text)
            lower.update(fold(word) for word in _WORD.findall(prose) if word[0].islower())
            self._names.update(self._named(prose))
        self._names -= lower | _PUBLIC

    @classmethod
    def of(cls, database: Database) -> "CorpusFacts | None":
        """Those of the documents that are published in `database`; None when there are none.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        if not database.holds(VersionRow.__tablename__):
            return None
        with database.session() as session:
            published = select(VersionRow.text).where(VersionRow.state == "published").order_by(VersionRow.id)
            facts = cls(session.scalars(published.execution_options(yield_per=100)))
        return facts if facts.documents else None

    def find(self, text: str) -> Iterator[Finding]:
        """The facts of the documents that a text repeats."""
        for figure, sentence in _figures(text):
            if figure in self._sentences and self._same_matter(figure, _words(sentence, figure)):
                yield Finding(reason="corpus_figure", what="a figure that an ingested document states", value=figure)
        for name in self._names_in(text):
            yield Finding(reason="corpus_name", what="a name that an ingested document holds", value=name)

    def _add(self, figure: str, words: frozenset[str]) -> None:
        for word in words:
            self._sentences[figure][word].append(len(self._weights))
        self._weights.append(self._weight(words))

    def _same_matter(self, figure: str, words: frozenset[str]) -> bool:
        known = self._sentences[figure]
        shared: dict[int, list[str]] = defaultdict(list)
        for word in words & known.keys():
            for sentence in known[word]:
                shared[sentence].append(word)
        least = _SHARED_WORDS - 1 if _SEPARATE.match(figure) else _SHARED_WORDS
        whole = self._weight(words)

        def same(sentence: int, common: list[str]) -> bool:
            other, both = self._weights[sentence], self._weight(common)
            return both >= _SAME_MATTER * min(whole, other) and both >= _SAME_MATTER_LONGER * max(whole, other)

        return any(len(common) >= least and same(sentence, common) for sentence, common in shared.items())

    def _weight(self, words: Iterable[str]) -> float:
        return sum(map(self._idf, words))

    def _named(self, text: str) -> Iterator[str]:
        """The names of a document's text, folded."""
        for match in _MIDWAY.finditer(text):
            word = _POSSESSIVE.sub("", match.group())
            terms = self._sparse.terms(word)
            if (
                terms
                and not word.isupper()
                and all(self._idf(term) > _RARE for term in terms)
                and not is_on_a_list(word)
            ):
                yield fold(word)
        yield from _products(text)
        yield from (fold(found.value) for found in find_names(text))

    def _names_in(self, text: str) -> Iterator[str]:
        prose = _ADDRESS.sub(" ", text)
        # A word in lower case is no name, but where nothing has capitals.
        words = _CAPITALISED.findall(prose) if _CAPITALISED.search(prose, 1) else _WORD.findall(prose)
        seen = [*words, *_products(prose), *(found.value for found in find_names(prose))]
        yield from dict.fromkeys(name for name in seen if fold(_POSSESSIVE.sub("", name)) in self._names)


def _products(text: str) -> Iterator[str]:
    for match in _PRODUCT.finditer(text):
        word = match.group(1).lower()
        if word.removesuffix("s") not in _NUMBERED and word not in STOP_WORDS:
            yield fold(match.group(1) + " " + match.group(2))
    for match in _CODE.finditer(text):
        if re.split(r"[-\d]", match.group())[0].lower() not in _COMMON_CODES:
            yield fold(match.group())


def _figures(text: str) -> Iterator[tuple[str, str]]:
    """The figures of a text with their units, each with its sentence."""
    for line in text.splitlines():
        if _HAS_NUMBER.search(line):
            for sentence in _SENTENCE_END.split(line):
                if _HAS_NUMBER.search(sentence):
                    cut = tokens(_CLOCK.sub(r"\1.\2 clock", sentence))
                    yield from ((figure, sentence) for figure in _with_units(cut))


def _with_units(cut: Sequence[str]) -> Iterator[str]:
    """ "€52", "12 %", "30 day", "118 extens"; a figure without a unit, and a year, says nothing."""
    for n, token in enumerate(cut):
        number = _NUMBER_WORDS.get(token, token)
        if not number[0].isdigit():
            continue
        before, after = cut[n - 1] if n else "", cut[n + 1] if n + 1 < len(cut) else ""
        if before in _SIGNS:
            yield before + number
        elif not after[:1].isdigit() and not _YEAR.fullmatch(number):
            # "extension 118" has no unit; what stands before tells what it is.
            unit = after if after == "%" else _stem(after) or _stem(before)
            if unit:
                yield f"{number} {unit}"


def _words(sentence: str, figure: str) -> frozenset[str]:
    """What a sentence with a figure is about: its words without the figure's unit, and without other figures."""
    return content_words(sentence) - _NUMBER_WORDS.keys() - {figure.rpartition(" ")[2]}


@lru_cache(maxsize=50_000)
def _stem(word: str) -> str:
    return next(iter(content_words(word)), "")
