"""Spreadsheet values as a person sees them: `0.25` under the format `0%` is read as `25%`.

Covers what tables of policies and prices use: decimals, thousands, percent, currencies, signs, exponents, fractions,
dates, times and durations. What a format leaves to the machine's locale (the short date) is written as ISO 8601.
"""

import re
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from fractions import Fraction
from functools import lru_cache
from itertools import groupby

# Literals come first, so that a letter in quotes is none of a format.
_TOKEN = re.compile(
    r'"(?P<quoted>[^"]*)"?|\\(?P<escaped>.)|_(?P<width>.)|\*(?P<fill>.)|\[(?P<bracket>[^\]]*)\]?'
    r"|(?P<half>AM/PM|A/P)|(?P<exponent>E[+-]0+)|(?P<plain>.)",
    re.IGNORECASE | re.DOTALL,
)
_CONDITION = re.compile(r"(<=|>=|<>|<|>|=)\s*(-?\d+(?:\.\d+)?)$")
_LOCALE_DATES = frozenset({"mm-dd-yy", "m/d/yy", "m/d/yyyy", "dd/mm/yyyy;@", "[$-f800]dddd, mmmm dd, yyyy"})
_Token = tuple[str, str]  # its sort ("literal", "bracket", "half", "exponent" or "code") and its text
_COMPARE = {
    "<": Decimal.__lt__,
    ">": Decimal.__gt__,
    "<=": Decimal.__le__,
    ">=": Decimal.__ge__,
    "=": Decimal.__eq__,
    "<>": Decimal.__ne__,
}


def shown(value: object, code: str) -> str:
    """The text that a spreadsheet shows for a cell.

    Args:
        value: What the cell holds, as openpyxl gives it.
        code: Its number format, such as `#,##0.00 "EUR"`.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, (datetime, date, time, timedelta)):
        return _moment(value, code)
    if not isinstance(value, (int, float)):
        return str(value)
    try:
        return _number(Decimal(repr(value)), code)
    except (InvalidOperation, ValueError, OverflowError, ZeroDivisionError):
        return str(value)  # not a number, or out of all range


@lru_cache(maxsize=512)
def _sections(code: str) -> tuple[tuple[_Token, ...], ...]:
    sections: list[list[_Token]] = [[]]
    for match in _TOKEN.finditer(code):
        kind, text = str(match.lastgroup), match.group(match.lastgroup or 0)
        if kind == "plain" and text == ";":
            sections.append([])
        elif kind in ("quoted", "escaped"):
            sections[-1].append(("literal", text))
        elif kind == "bracket" and text.startswith("$"):
            sections[-1].append(("literal", text[1:].split("-")[0]))
        elif kind == "plain":
            sections[-1].append(("code", text))
        elif kind in ("bracket", "half", "exponent"):
            sections[-1].append((kind, text))
        elif kind == "width":
            sections[-1].append(("literal", " "))
    return tuple(tuple(section) for section in sections)


def _number(value: Decimal, code: str) -> str:
    if code.lower() in ("general", "@", ""):
        return _general(value)
    section, value = _choose(_sections(code), value)
    pattern = "".join(text for kind, text in section if kind == "code")
    if "general" in pattern.lower():
        sign = "-" if value < 0 else ""
        return sign + _general(abs(value))
    places = [n for n, (kind, text) in enumerate(section) if kind == "code" and text in "0#?"]
    if not places:
        return "".join(text for kind, text in section if kind in ("literal", "code")).strip()
    first, last = places[0], places[-1]
    before = "".join(text for kind, text in section[:first] if kind in ("literal", "code") and text != ",")
    after = "".join(text for kind, text in section[last + 1 :] if kind in ("literal", "code") and text != ",")
    core = "".join(text for kind, text in section[first : last + 1] if kind == "code")
    value *= Decimal(100) ** pattern.count("%")
    value /= Decimal(1000) ** _trailing_commas(section[last + 1 :])
    exponent = next((text for kind, text in section if kind == "exponent"), None)
    sign = "-" if value < 0 else ""
    if exponent:
        digits = f"{abs(value):.{_decimals(core)[1]}E}"
    elif "/" in core:
        digits = _fraction(abs(value), 10 ** len(core.rsplit("/", 1)[1]))
    else:
        digits = _digits(abs(value), core)
    if not re.search("[1-9]", digits):
        sign = ""  # a small negative number rounds to 0, not to -0
    return f"{sign}{before}{digits}{after}".strip()


def _choose(sections: tuple[tuple[_Token, ...], ...], value: Decimal) -> tuple[tuple[_Token, ...], Decimal]:
    """The section for a number, and the number without the sign that the section itself shows."""
    for section in sections:
        for kind, text in section:
            condition = _CONDITION.match(text) if kind == "bracket" else None
            if condition and _COMPARE[condition.group(1)](value, Decimal(condition.group(2))):
                return section, value
    free = [s for s in sections if not any(k == "bracket" and _CONDITION.match(text) for k, text in s)] or sections
    if value < 0 and len(free) > 1:
        return free[1], -value
    if value == 0 and len(free) > 2:
        return free[2], value
    return free[0], value


def _general(value: Decimal) -> str:
    if value == value.to_integral_value() and abs(value) < 10**18:
        return str(int(value))
    return f"{float(value):.11g}"


def _trailing_commas(rest: tuple[_Token, ...]) -> int:
    count = 0
    for kind, text in rest:
        if (kind, text) != ("code", ","):
            break
        count += 1
    return count


def _decimals(core: str) -> tuple[int, int]:
    """Decimal places, at least and at most."""
    places = core.partition(".")[2]
    return places.count("0"), sum(places.count(sign) for sign in "0#?")


def _digits(value: Decimal, core: str) -> str:
    least, most = _decimals(core)
    whole = core.partition(".")[0]
    text = f"{value.quantize(Decimal(1).scaleb(-most), rounding=ROUND_HALF_UP):{',' if ',' in whole else ''}f}"
    integer, _, decimals = text.partition(".")
    decimals = decimals[:least] + decimals[least:].rstrip("0")
    if "," not in whole:
        integer = integer.zfill(whole.count("0"))
    if integer == "0" and not whole.count("0") and decimals:
        integer = ""
    return f"{integer}.{decimals}" if decimals else integer


def _fraction(value: Decimal, most: int) -> str:
    whole, part = divmod(value, 1)
    fraction = Fraction(part).limit_denominator(most - 1)
    if fraction.denominator == 1:
        return str(int(whole) + fraction.numerator)
    return f"{int(whole)} {fraction}" if whole else str(fraction)


def _moment(value: datetime | date | time | timedelta, code: str) -> str:
    section = _sections(code)[0]
    if isinstance(value, timedelta):
        seconds = int(value.total_seconds())
        return f"{'-' if seconds < 0 else ''}{abs(seconds) // 3600}:{abs(seconds) // 60 % 60:02}:{abs(seconds) % 60:02}"
    # A whole group of letters is one code: `mmm` is the month's short name.
    groups = [
        (kind, "".join(text for _, text in group))
        for (kind, _), group in groupby(section, key=lambda token: (token[0], token[1].lower()))
    ]
    letters = "".join(text for kind, text in groups if kind == "code").lower()
    if code.lower() in _LOCALE_DATES or not re.search("[ymdhs]", letters):
        if not isinstance(value, datetime):
            return value.isoformat()
        whole = code.lower() in _LOCALE_DATES or value.time() == time()
        return value.date().isoformat() if whole else value.isoformat(" ", "seconds")
    halves = any(kind == "half" for kind, _ in groups)
    parts: list[str] = []
    before = ""
    for n, (kind, text) in enumerate(groups):
        sign = text.lower() if kind == "code" else ""
        if kind == "half":
            parts.append(f"{value:%p}")
        elif kind == "literal" or (sign and sign[0] not in "ymdhs"):
            parts.append("" if text == "@" else text)
        elif sign:
            after = next((t.lower() for k, t in groups[n + 1 :] if k == "code" and t[0].lower() in "ymdhs"), "")
            minutes = sign in ("m", "mm") and (before.startswith("h") or after.startswith("s"))
            parts.append(_part(value, "minute" if minutes else sign, len(sign), halves))
            before = sign
    return "".join(parts).strip()


def _part(value: datetime | date | time, sign: str, length: int, halves: bool) -> str:
    if sign == "minute":
        return f"{value:%M}" if length > 1 else str(getattr(value, "minute", 0))
    if sign[0] == "h":
        hour = getattr(value, "hour", 0)
        hour = (hour % 12 or 12) if halves else hour
        return f"{hour:02}" if length > 1 else str(hour)
    if sign[0] == "s":
        return f"{value:%S}" if length > 1 else str(getattr(value, "second", 0))
    if sign[0] == "y":
        return f"{value:%Y}" if length > 2 else f"{value:%y}"
    if sign[0] == "m":
        month = getattr(value, "month", 1)
        return str(month) if length == 1 else format(value, {2: "%m", 3: "%b"}.get(length, "%B"))
    day = getattr(value, "day", 1)
    return str(day) if length == 1 else format(value, {2: "%d", 3: "%a"}.get(length, "%A"))
