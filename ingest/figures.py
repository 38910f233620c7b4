"""Figures in a sentence (amounts, shares, durations, dates, counts) and what it is about besides. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

# fmt: off
_WORDS = {word: n for n, word in enumerate(
    ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
     "eighteen nineteen twenty").split())}
_WORDS |= {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
           "hundred": 100}
_MONTHS = ("january february march april may june july august september october november december").split()
_CURRENCIES = {"€": "EUR", "$": "USD", "£": "GBP", "euro": "EUR", "euros": "EUR", "dollar": "USD", "dollars": "USD",
               "pound": "GBP", "pounds": "GBP", "eur": "EUR", "usd": "USD", "gbp": "GBP", "chf": "CHF", "sek": "SEK",
               "nok": "NOK", "dkk": "DKK", "jpy": "JPY", "us$": "USD"}
# Seconds and months do not convert into each other, and a working day is no day.
_DURATIONS = {"second": ("time", 1), "minute": ("time", 60), "hour": ("time", 3600), "day": ("time", 86400),
              "week": ("time", 604800), "month": ("months", 1), "quarter": ("months", 3), "year": ("months", 12)}
_STOP = frozenset((
    "a an the of to in on at by for from with as is are be been was were will shall must may can could should would "
    "it its this that these those there their they them he she his her you your we our us i and or if than then so "
    "not no any all each every per up least most more less maximum minimum max min about within after before "
    "until only also both either which who whom whose what when where how has have had do does did such into over "
    "under other same").split())
# fmt: on
_NUMBER = r"\d{1,3}(?:[, ’']\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?"
_SPELLED = "|".join(sorted(_WORDS, key=len, reverse=True))
_CODES = r"us\$|[€$£]|eur|usd|gbp|chf|sek|nok|dkk|jpy"
_FIGURE = re.compile(
    rf"(?P<iso>\b\d{{4}}-\d{{2}}-\d{{2}}\b)"
    rf"|\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<month>{'|'.join(_MONTHS)})(?: (?P<year>\d{{4}}))?\b"
    rf"|\b(?P<month2>{'|'.join(_MONTHS)}) (?P<day2>\d{{1,2}})(?:st|nd|rd|th)?(?:,? (?P<year2>\d{{4}}))?\b"
    rf"|(?P<clock>\b\d{{1,2}}:\d{{2}}\b)"
    rf"|(?<![\w.])(?P<code>{_CODES})\s?(?P<amount>{_NUMBER})(?![\w]|[.,]\d)(?P<scale> (?:million|thousand|billion))?"
    rf"|(?<![\w.,/§#-])(?P<number>{_NUMBER}|\b(?:{_SPELLED})\b)(?:\s*(?P<percent>%|per ?cent\b|percent\b)"
    rf"|[\s-](?P<qualifier>(?:calendar|working|business|full|consecutive|clear) )?"
    rf"(?P<unit>[a-zåäöüéß]+|€|£)(?![\w@]))",
    re.IGNORECASE,
)
_LOWER = re.compile(
    r"\b(at least|(?:not|no) less than|(?:a )?minimum(?: of)?|min\.?|from|more than|over|above|exceed(?:s|ing)?)\W+$",
    re.IGNORECASE,
)
_UPPER = re.compile(
    r"\b(at most|up to|not more than|no more than|a maximum of|maximum|max\.?|less than|under|below|within|capped at)"
    r"\W+$",
    re.IGNORECASE,
)
_AFTER_NAME = re.compile(r"\w\W+[A-Z]\w*\s$|^[A-Z]\w*\s$")
_TOKEN = re.compile(r"[^\W\d_][\w'’]*(?:-\w+)*|[A-Za-z]*\d[\w.]*")


@dataclass(frozen=True)
class Figure:
    """A figure in a text.

    Attributes:
        kind: What can be compared with each other: a currency, `%`, `time`, `months`, `date`, `clock`, or a noun.
        value: In the smallest unit of its kind.
        bound: `least`, `most` or nothing: "at least 5 days" and "up to 10 days" are no contradiction.
        text: As it is written.
        start, end: Its span.
    """

    kind: str
    value: Decimal
    bound: str
    text: str
    start: int
    end: int


def figures(sentence: str) -> list[Figure]:
    """The figures of a sentence that have a unit, in order. Numbers of clauses, years and codes are none."""
    return [
        Figure(kind, value, _bound(sentence[: match.start()]), match.group().strip(), *match.span())
        for match in _FIGURE.finditer(sentence)
        if (found := _read(match)) is not None
        for kind, value in [found]
    ]


def subject(sentence: str, found: list[Figure]) -> frozenset[str]:
    """The words that say what a sentence is about: stems, without its figures and without small words."""
    return frozenset(_stem(word.casefold()) for word in _outside(sentence, found) if word.casefold() not in _STOP)


def _read(match: re.Match[str]) -> tuple[str, Decimal] | None:
    part = match.groupdict()
    if part["iso"]:
        return "date", Decimal(part["iso"].replace("-", ""))
    month = part["month"] or part["month2"]
    if month:
        day, year = part["day"] or part["day2"], part["year"] or part["year2"]
        number = (_MONTHS.index(month.lower()) + 1) * 100 + int(day)
        return ("date", Decimal(int(year) * 10_000 + number)) if year else ("day of the year", Decimal(number))
    if part["clock"]:
        return "clock", Decimal(part["clock"].replace(":", ""))
    if part["code"]:
        scale = {"thousand": 10**3, "million": 10**6, "billion": 10**9}.get((part["scale"] or "").strip().lower(), 1)
        return _CURRENCIES[part["code"].lower()], _value(part["amount"]) * scale
    value = _value(part["number"])
    if part["percent"]:
        return "%", value
    if _AFTER_NAME.search(match.string[: match.start()]) and _stem(part["unit"].lower()) not in _DURATIONS:
        return None  # "Model 3 sensors" are not three
    return _counted(value, part["unit"].lower(), (part["qualifier"] or "").strip().lower())


def _counted(value: Decimal, unit: str, qualifier: str) -> tuple[str, Decimal] | None:
    if unit in _CURRENCIES:
        return _CURRENCIES[unit], value
    noun = _stem(unit)
    if noun in _DURATIONS:
        kind, size = _DURATIONS[noun]
        working = qualifier in ("working", "business")
        return ("working " + noun, value) if working else (kind, value * size)
    return None if unit in _STOP or unit in _MONTHS or len(unit) < 2 else (noun, value)


def _value(text: str) -> Decimal:
    if text.lower() in _WORDS:
        return Decimal(_WORDS[text.lower()])
    plain = re.sub(r"[ ’']|,(?=\d{3}(?:\D|$))", "", text)
    return Decimal(plain.replace(",", "."))


def _bound(before: str) -> str:
    return "least" if _LOWER.search(before) else "most" if _UPPER.search(before) else ""


def _outside(sentence: str, found: list[Figure]) -> Iterator[str]:
    for match in _TOKEN.finditer(sentence):
        if not any(figure.start <= match.start() < figure.end for figure in found):
            yield match.group()


def _stem(word: str) -> str:
    """Singular and plural as one; no more, for a stem that joins different words would invent contradictions."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word
