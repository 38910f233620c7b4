"""Personal data that has a form: e-mail addresses, telephone numbers, bank accounts, payment cards, identity numbers.

Whatever has a checksum or a numbering plan is checked against it, by the library that knows it: a guard that refuses
every long number refuses manuals. Reserved domains (`example.com`, `.example`) are nobody's and pass.
"""

import re
from collections.abc import Iterator
from itertools import chain

import phonenumbers
from email_validator import EmailNotValidError, validate_email
from phonenumbers import NumberParseException, PhoneNumberType
from stdnum import iban, luhn

from training.finding import Finding
from training.national_ids import find_national_ids

# Reserved for examples (RFC 2606, RFC 6761): nobody's address.
_MADE_UP_DOMAIN = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|org|net))?|test|invalid)$", re.IGNORECASE)
_AT = r"\s?[\[({<]\s?(?:at|@)\s?[\])}>]\s?"
_DOT = r"\s?[\[({<]\s?(?:dot|\.)\s?[\])}>]\s?"
_EMAIL = re.compile(rf"([\w.%+'-]+)(?:@|{_AT})([\w-]+(?:(?:\.|{_DOT})[\w-]+)+)", re.IGNORECASE)
_SPELLED_EMAIL = re.compile(
    r"\b([\w.+-]+) at ([\w-]+(?: dot [\w-]+)* dot (?:com|org|net|edu|info|[a-z]{2}))\b", re.IGNORECASE
)
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}[ -]?\d{2}(?:[ -]?[A-Z0-9]){11,30}(?!\w)", re.IGNORECASE)
_CARD = re.compile(r"(?<![\w.,])\d(?:[ .-]?\d){12,18}(?!\w|[.,]\d)")
_CARD_NETWORKS = re.compile(r"3[04-9]|4|5[0-8]|6|2[2-7]|1800|2131")
_EXTENSION = r" ?(?:x|ext\.?) ?\d{1,6}"
_PHONE = re.compile(
    rf"(?<![\w./:-])(?<!\d[, ])(?:\+ ?|00)?\(?\d(?:[ .()/-]{{0,3}}\d){{6,14}}(?:{_EXTENSION})?(?!\w|[.,:/-]\d)",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"\d{4}[./-](?:0?\d|1[0-2])[./-](?:[0-2]?\d|3[01])(?!\d)"
    r"|(?:[0-2]?\d|3[01])([./-])(?:[0-2]?\d|3[01])\1(?:(?:19|20)\d{2}(?!\d)|\d{2}(?![./-]?\d))"
)
_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?: \d{3})+")
_NORTH_AMERICA = re.compile(r"(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4}")
_LOCAL = re.compile(r"\d{3}-\d{4}")  # North American, without its area code
# The block from which made-up numbers are drawn, in films and by those who write examples in any country. Turkey alone
# has given it out, as 0555.
_FICTION = re.compile(r"(?<!\d)0?555(?!\d)|(?<!\d)5?555[ -]?01\d\d(?!\d)")
# Of a national number with its 0, and of one that a word beside it calls a telephone number.
_FEWEST_DIGITS, _FEWEST_NAMED = 9, 8
# A number with a word before it that says what it is.
_PHONE_CUE = re.compile(
    r"\b(?:tele?|tlf|tél|(?:tele)?(?:ph|f)one?|téléphone|teléfono|telefoon\w*|telefon\w*|mobil\w*|móvil|cell\w*|handy\w*|"
    r"portable|puhelin|call(?:ed|ing|s)?|ring|rang|dial|text|fax|sms|whatsapp|signal|contact|reach(?:ed)?|number)\b[^.!?\n]*$",
    re.IGNORECASE,
)
_NEAR = 40
# Where national numbers are tried: without a country code nobody can tell whose they are.
_REGIONS = tuple("GB US DE FR ES IT NL BE AT CH SE NO DK FI IE PL CZ PT GR HU RO AU NZ IN ZA BR MX TR".split())
# A service's number is no person's, and free of charge begins alike in most countries.
_FREE = re.compile(r"\(?0?(?:800|808|900)(?!\d)")
_SERVICES = frozenset(
    {
        PhoneNumberType.TOLL_FREE,
        PhoneNumberType.PREMIUM_RATE,
        PhoneNumberType.SHARED_COST,
        PhoneNumberType.UAN,
        PhoneNumberType.UNKNOWN,
    }
)


def find_personal_data(text: str) -> Iterator[Finding]:
    """The personal data of a text that has a form, kind by kind."""
    if "@" in text or _AT_WORD.search(text):
        yield from _emails(text)
    if _DIGITS.search(text):
        yield from chain(_ibans(text), _cards(text), find_national_ids(text), _phones(text))


_AT_WORD = re.compile(r"\bat\b", re.IGNORECASE)
_DIGITS = re.compile(r"\d(?:\D?\D?\D?\d){3}")


def _emails(text: str) -> Iterator[Finding]:
    for match in chain(_EMAIL.finditer(text), _SPELLED_EMAIL.finditer(text)):
        domain = re.sub(rf"{_DOT}| dot ", ".", match.group(2), flags=re.IGNORECASE).strip(".-")
        if _MADE_UP_DOMAIN.search(domain):
            continue
        try:
            validate_email(f"{match.group(1).strip('.')}@{domain}", check_deliverability=False)
        except EmailNotValidError:
            continue
        yield Finding(reason="email", what="an e-mail address outside the reserved domains", value=match.group())


def _ibans(text: str) -> Iterator[Finding]:
    for match in _IBAN.finditer(text):
        # Words may follow without a sign between: the account's length is its country's.
        value = match.group()
        for end in range(len(value), 14, -1):
            if (end == len(value) or not value[end].isalnum() or not value[end - 1].isalnum()) and iban.is_valid(
                value[:end], check_country=False
            ):
                yield Finding(reason="iban", what="a bank account number", value=value[:end])
                break


def _cards(text: str) -> Iterator[Finding]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if _CARD_NETWORKS.match(digits) and len(set(digits)) > 1 and luhn.is_valid(digits):
            yield Finding(reason="card", what="a payment card number", value=match.group())


def _phones(text: str) -> Iterator[Finding]:
    for match in _PHONE.finditer(text):
        value = match.group()
        near = text[max(0, match.start() - _NEAR) : match.start()]
        named = _PHONE_CUE.search(near) is not None
        if not _DATE.match(value) and _is_phone(re.sub(f"(?i:{_EXTENSION})$", "", value), named):
            yield Finding(reason="phone", what="a telephone number", value=value)


def _is_phone(value: str, named: bool) -> bool:
    digits = re.sub(r"\D", "", value)
    if value.startswith("+"):
        fiction = _FICTION.search(value) and not digits.startswith("1")
        return len(digits) >= _FEWEST_NAMED and not fiction
    if value.startswith("00"):
        number = _parsed("+" + digits[2:], None)
        return number is not None and phonenumbers.is_possible_number(number)
    if _FREE.match(value):
        return False
    if _NORTH_AMERICA.fullmatch(value) or (named and _LOCAL.fullmatch(value)):
        return True
    trunk = value.startswith(("0", "(0"))
    if not named and (not trunk or _THOUSANDS.fullmatch(value)):
        return False
    if trunk and len(digits) < (_FEWEST_NAMED if named else _FEWEST_DIGITS):
        return False
    regions = ("TR",) if _FICTION.search(value) else _REGIONS
    return any(_issued(number) for region in regions if (number := _parsed(value, region)) is not None)


def _issued(number: phonenumbers.PhoneNumber) -> bool:
    return phonenumbers.is_valid_number(number) and phonenumbers.number_type(number) not in _SERVICES


def _parsed(value: str, region: str | None) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse(value, region)
    except NumberParseException:
        return None
