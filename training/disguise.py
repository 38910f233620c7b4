"""Made-up names, figures and dates in place of those of an example, the same ones in question, sources and answer.

An adapter that sees every figure change from pass to pass has none to remember: it learns to read them off the source.
What is replaced keeps its shape (digits, order, round numbers, a date stays a date), so that comparisons in the text
stay true and the text grammatical. Figures spelled in words stay. Equal arguments give equal draws in every process.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import pairwise

from tandem.sparse import SparseEncoder
from training.examples import Group

_MONTHS = "January February March April May June July August September October November December".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_MONTH = "|".join(_MONTHS)
# "May" is a month only where a date can stand.
_MONTH_ALONE = "|".join(month for month in _MONTHS if month != "May")
_MONTH_ALONE += r"|(?<=\bin )May|(?<=\bof )May|(?<=\bby )May|(?<=\buntil )May"
_KNOWN = frozenset(
    "English German French Spanish Italian Dutch Latin European Europe Germany France Christmas Easter Internet Excel "
    "Word Windows Bluetooth Saturday Sunday".split()
    + _MONTHS
    + _DAYS
)
_EMAIL = r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+|[\w.+-]+ \[at\] [\w-]+(?: \[dot\] [\w-]+)+"
_DATE = rf"\b\d{{1,2}}\.? (?:{_MONTH})\b|\b(?:{_MONTH}) \d{{1,2}}\b(?!\d)"
_CODE = r"\b[A-Z]{1,5}-?\d{1,4}\b"
_NUMBER = r"(?<![\w.,:/@§-])\d+(?:,\d{3})*(?:\.\d+)?(?![\w:/@]|[.,]\d|\.\d)"
_LIST_MARK = re.compile(r"^\s*(?:\d{1,2}[.)]|\(\d{1,2}\))\s", re.MULTILINE)
_SPELLED = re.compile(r"[a-z] \((?:[A-Z]{3} )?(\d+(?:,\d{3})*)[^)]{0,3}\)")
_MIDWAY = re.compile(r"(?<=[a-z,;] )[A-Z][a-zà-ÿ]{3,}\b")
_WORD = re.compile(r"[A-Za-zÀ-ÿ]+")
_RARE = 7.0  # idf by the frozen table above which a capitalised word passes for a name
_KEPT_NUMBERS = frozenset({"0", "1", "100"})
_DESKS = "help desk claims office team service contact hello info support requests forms care admin post centre".split()
_ONSETS = "b br c ch d dr f fl g gr h j k kl l m n p pr r s sh st t th tr v w z".split()
_VOWELS = "a e i o u ai ea ee oa ou".split()
_CODAS = "b ck d g l ll m n nd nt r rd rn rt sk th v x lm nk".split()

Replace = Callable[[str], str]


class Disguise:
    """Knows which capitalised words of a set of examples are names.

    Args:
        groups: All examples; a word that stands in lower case in any source is no name.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._lower: set[str] = set()
        self._sparse = SparseEncoder()
        self._spread: Counter[str] = Counter()  # in how many groups a capitalised word occurs
        for group in groups:
            text = "\n".join(source.text for source in group.sources)
            text = re.sub(_EMAIL, " ", text)  # a name stands there in lower case
            words = set(_WORD.findall(text))
            self._lower.update(word for word in words if word[0].islower())
            self._spread.update(word for word in words if word[0].isupper())

    def names(self, texts: Iterable[str]) -> list[str]:
        """The names in some texts: capitalised inside a sentence, in lower case nowhere, in few other documents."""
        found = {match.group() for text in texts for match in _MIDWAY.finditer(text)}
        return sorted(
            word
            for word in found
            if word not in _KNOWN
            and not word.endswith("s")  # a plural; another word in its place would break the grammar
            and word.lower() not in self._lower
            and self._spread[word] <= 2
            and all(self._sparse.idf(term) > _RARE for term in self._sparse.terms(word))
        )

    def draw(self, texts: Sequence[str], rng: random.Random) -> Replace:
        """Draws one disguise for texts that belong together.

        Args:
            texts: All texts in which the replacement must be the same.
            rng: Decides what stands in for what.

        Returns:
            A function that applies it to one of the texts.
        """
        names = {name: _name(rng, name) for name in self.names(texts)}
        lower = {name.lower(): new.lower() for name, new in names.items()}
        shift = rng.randrange(1, 12)
        numbers = _numbers(texts, rng)
        memo: dict[str, str] = {}

        def fresh(kind: str, old: str) -> str:
            if kind == "email":
                return _email(old, rng, lower)
            if kind == "date":
                return _date(old, rng, shift)
            if kind == "code":
                return re.sub(r"\d", lambda digit: str(rng.randrange(2, 10)), old)
            return _MONTHS[(_MONTHS.index(old) + shift) % 12]

        def swap(match: re.Match[str]) -> str:
            kind, old = match.lastgroup or "", match.group()
            if kind == "number":
                return numbers.get(old, old)
            if kind == "name":
                return names.get(old) or lower.get(old) or names.get(old.capitalize(), old)
            if old not in memo:
                memo[old] = fresh(kind, old)
            return memo[old]

        parts = [f"(?P<email>{_EMAIL})", f"(?P<date>{_DATE})", f"(?P<code>{_CODE})", f"(?P<number>{_NUMBER})"]
        parts.append(rf"\b(?P<month>{_MONTH_ALONE})\b")
        if names:
            alternatives = "|".join(sorted((re.escape(word) for word in [*names, *lower]), key=len, reverse=True))
            parts.append(rf"\b(?P<name>{alternatives})\b")
        pattern = re.compile("|".join(parts))

        def apply(text: str) -> str:
            # List marks and citations are no figures.
            kept = [(m.start(), m.end()) for m in _LIST_MARK.finditer(text)]
            kept += [(m.start(), m.end()) for m in re.finditer(r"\[\d+\]", text)]

            def outside(match: re.Match[str]) -> str:
                inside = any(start <= match.start() < end for start, end in kept)
                return match.group() if inside else swap(match)

            return pattern.sub(outside, text)

        return apply


def _numbers(texts: Sequence[str], rng: random.Random) -> dict[str, str]:
    """New figures of the same length and order, one for each value however it is spelled; years move together."""
    found = {match.group() for text in texts for match in re.finditer(_NUMBER, text)}
    spelled = {match.group(1) for text in texts for match in _SPELLED.finditer(text)}
    kept = {int(_plain(old)) for old in spelled | _KEPT_NUMBERS}
    codes = sorted(old for old in found - spelled if _is_code(old))
    figures = sorted(old for old in found if not _is_code(old) and _value(old) not in kept)
    wholes = _wholes(figures, kept, rng)
    parts = _parts(figures, rng)
    new = {old: _respell(old, wholes, parts) for old in figures}
    values = {_value(old): _value(fresh) for old, fresh in new.items()}
    if len(set(values.values())) < len(values):  # two figures became one: the text would change its meaning
        return {}
    for old in codes:
        new[old] = "0" + "".join(str(rng.randrange(1, 10)) for _ in old[1:])
    return new


def _is_code(text: str) -> bool:
    """A leading zero: a telephone number or a code, whose value says nothing."""
    return text.startswith("0") and text != "0" and "." not in text


def _plain(text: str) -> str:
    return text.replace(",", "")


def _value(text: str) -> Decimal:
    return Decimal(_plain(text))


def _split(text: str) -> tuple[int, str]:
    """The whole number before the point, and what stands behind it but for zeros at the end."""
    whole, _, part = _plain(text).partition(".")
    return int(whole), part.rstrip("0")


def _respell(old: str, wholes: dict[int, int], parts: dict[tuple[int, str], str]) -> str:
    """The new figure as the old one is spelled: with or without commas, and zeros at the end."""
    whole, part = _split(old)
    text = f"{wholes[whole]:,}" if "," in old else str(wholes[whole])
    _, point, behind = old.partition(".")
    return text + point + parts[whole, part] + behind[len(part) :]


def _wholes(figures: Sequence[str], kept: set[int], rng: random.Random) -> dict[int, int]:
    """For each whole number, and each before a point, the one that stands for it.

    A decimal's goes along with the others, so that 2.5 stays between 2 and 3.
    """
    values = sorted({_split(old)[0] for old in figures})
    quantities = {_split(old)[0] for old in figures if "," in old or "." in old}
    years = [value for value in values if 1950 <= value < 2050 and value not in quantities]
    moved = rng.randrange(1, 10) * rng.choice((-1, 1))
    new = {value: value for value in values if value in kept}
    new.update({year: year + moved for year in years if year not in kept})
    others = [value for value in values if value not in new]
    for length in sorted({len(str(value)) for value in others}):
        olds = [value for value in others if len(str(value)) == length]
        new.update(zip(olds, _figures(olds, length, rng, kept), strict=True))
    return new


def _parts(figures: Sequence[str], rng: random.Random) -> dict[tuple[int, str], str]:
    """For each whole number and what stands behind its point, new digits in the same order."""
    behind: dict[int, set[str]] = defaultdict(set)
    for old in figures:
        whole, part = _split(old)
        behind[whole].add(part)
    new: dict[tuple[int, str], str] = {}
    for whole in sorted(behind):
        olds = sorted(behind[whole])  # digits behind a point have the order of their letters
        for _ in range(50):
            drawn = sorted("".join(str(rng.randrange(1, 10)) for _ in range(max(map(len, olds)))) for _ in olds)
            fresh = [digits[: len(old)] for digits, old in zip(drawn, olds, strict=True)]
            if all(one < next for one, next in pairwise(fresh)):
                break
        else:
            fresh = olds
        new.update({(whole, old): digits for old, digits in zip(olds, fresh, strict=True)})
    return new


def _figures(olds: Sequence[int], length: int, rng: random.Random, kept: set[int]) -> list[int]:
    """As many distinct figures of `length` digits, as round as the old ones, in order."""
    if length == 1:
        pool = [value for value in range(2, 10) if value not in kept]
        return sorted(rng.sample(pool, len(olds))) if len(olds) <= len(pool) else list(olds)
    chosen: set[int] = set()
    for old in olds:
        digits = str(old)
        zeros = min(len(digits) - len(digits.rstrip("0")), length - 1)
        if length == 2 and rng.random() < 0.5:
            zeros = 0
        for _ in range(50):
            value = rng.randrange(10 ** (length - 1 - zeros), 10 ** (length - zeros)) * 10**zeros
            if value not in chosen and value not in kept:
                chosen.add(value)
                break
    return sorted(chosen) if len(chosen) == len(olds) else list(olds)


def _date(old: str, rng: random.Random, shift: int) -> str:
    def month(match: re.Match[str]) -> str:
        return _MONTHS[(_MONTHS.index(match.group()) + shift) % 12]

    return re.sub(_MONTH, month, re.sub(r"\d+", lambda _: str(rng.randrange(2, 29)), old))


def _email(old: str, rng: random.Random, lower: dict[str, str]) -> str:
    separator = " [at] " if " [at] " in old else "@"
    _, _, domain = old.partition(separator)
    labels = re.split(r"( \[dot\] |\.)", domain)
    labels[0] = lower.get(labels[0]) or _name(rng, "").lower()
    return rng.choice(_DESKS) + separator + "".join(labels)


def _name(rng: random.Random, old: str) -> str:
    """A word that can be spoken and that nobody has heard of."""
    syllables = 1 if 0 < len(old) <= 4 else 2
    word = ""
    for n in range(syllables):
        word += rng.choice(_ONSETS) + rng.choice(_VOWELS)
        if n == syllables - 1 or rng.random() < 0.3:
            word += rng.choice(_CODAS)
    return word.capitalize()


def coin_name(rng: random.Random) -> str:
    """A made-up name, capitalised."""
    return _name(rng, "")
