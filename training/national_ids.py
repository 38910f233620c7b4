"""Numbers that a state gives to a person, by their checksums: 34 countries.

A short number passes a weak checksum by chance once in ten times, and a manual is full of numbers. So a format without
letters, date or separators of its own counts only with a word beside it that says what it is.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from training.finding import Finding

_NEAR = 60  # characters before a number in which its name may stand
_CUE = re.compile(
    r"\b(?:social (?:security|insurance)|national (?:id\w*|insurance|number|health)|identi(?:ty|fication)|ident no|"
    r"tax(?:payer)? (?:id\w*|file|no|number|code)|personal (?:id\w*|code|number|no)|citizen|insurance n\w*|passport|"
    r"birth number|id(?:entity)? ?(?:card|no|number|code)|health (?:service|number|card)|"
    r"ssn|sin|tfn|nhs|nin|nino|bsn|nif|nie|dni|cpf|oib|aadhaar|uidai|pesel|steuer\w*|sozialversicherung\w*|svnr|sv-n\w*|"
    r"ahv\w*|avs|burgerservice\w*|sofi\w*|rodn[eé]\w*|rijksregister\w*|contribuinte|numero fiscal|fiscal|"
    r"codice fiscale|cpr|personnummer|kennitala|my number|teudat zehut|egn|cnp|tckn|tc kimlik\w*|hkid|rrn|amka)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Kind:
    """A number of one country.

    Attributes:
        country: As people call it.
        module: That checks it, in `stdnum`.
        pattern: Its written forms.
        named: Whether a word beside it must say what it is.
    """

    country: str
    module: str
    pattern: re.Pattern[str]
    named: bool = False


def _kind(country: str, module: str, pattern: str, *, named: bool = False) -> _Kind:
    return _Kind(country, module, re.compile(rf"(?<![\w.,+-])(?:{pattern})(?![\w-]|[.,]\d)", re.IGNORECASE), named)


_KINDS = (
    _kind("United States", "us.ssn", r"\d{3}-\d{2}-\d{4}"),
    _kind("United States", "us.ssn", r"\d{3} ?\d{2} ?\d{4}", named=True),
    _kind("Germany", "de.idnr", r"\d{11}|\d{2} \d{3} \d{3} \d{3}"),
    _kind("France", "fr.nir", r"[12] ?\d{2} ?\d{2} ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}"),
    _kind("Spain", "es.dni", r"\d{8}[- ]?[A-Z]|\d{2}\.\d{3}\.\d{3}[- ]?[A-Z]"),
    _kind("Spain", "es.nie", r"[XYZ][- ]?\d{7}[- ]?[A-Z]"),
    _kind("Italy", "it.codicefiscale", r"[A-Z]{3} ?[A-Z]{3} ?[0-9A-Z]{5} ?[A-Z][0-9A-Z]{3}[A-Z]"),
    _kind("Belgium", "be.nn", r"\d{2}[.]?\d{2}[.]?\d{2}[- ]?\d{3}[.]?\d{2}"),
    _kind("Netherlands", "nl.bsn", r"\d{9}|\d{4}[. ]\d{2}[. ]\d{3}|\d{3}[. ]\d{3}[. ]\d{3}", named=True),
    _kind("Poland", "pl.pesel", r"\d{11}"),
    _kind("Sweden", "se.personnummer", r"(?:\d{2})?\d{6}[-+]\d{4}"),
    _kind("Sweden", "se.personnummer", r"(?:19|20)?\d{10}", named=True),
    _kind("Norway", "no.fodselsnummer", r"\d{6} ?\d{5}"),
    _kind("Denmark", "dk.cpr", r"\d{6}-\d{4}"),
    _kind("Denmark", "dk.cpr", r"\d{6} ?\d{4}", named=True),
    _kind("Finland", "fi.hetu", r"\d{6}[-+A-FU-Y]\d{3}[0-9A-Z]"),
    _kind("Iceland", "is_.kennitala", r"\d{6}-\d{4}"),
    _kind("Czech Republic or Slovakia", "cz.rc", r"\d{6}/\d{3,4}"),
    _kind("Czech Republic or Slovakia", "cz.rc", r"\d{10}", named=True),
    _kind("Estonia or Lithuania", "ee.ik", r"[1-8]\d{10}"),
    _kind("Latvia", "lv.pvn", r"\d{6}-\d{5}"),
    _kind("Romania", "ro.cnp", r"[1-9]\d{12}"),
    _kind("Bulgaria", "bg.egn", r"\d{10}", named=True),
    _kind("Croatia", "hr.oib", r"\d{11}", named=True),
    _kind("Slovenia and its neighbours", "si.emso", r"\d{13}"),
    _kind("Austria", "at.vnr", r"\d{4} \d{6}"),
    _kind("Austria", "at.vnr", r"\d{10}", named=True),
    _kind("Switzerland", "ch.ssn", r"756[. ]?\d{4}[. ]?\d{4}[. ]?\d{2}"),
    _kind("Ireland", "ie.pps", r"\d{7}[A-W][ABHWTX]?"),
    _kind("Portugal", "pt.nif", r"\d{9}|\d{3} \d{3} \d{3}", named=True),
    _kind("Portugal", "pt.cc", r"\d{8} ?\d ?[A-Z0-9]{2}\d"),
    _kind("United Kingdom (health)", "gb.nhs", r"\d{3}[- ]\d{3}[- ]\d{4}|\d{10}", named=True),
    _kind("Greece", "gr.amka", r"\d{11}"),
    _kind("Turkey", "tr.tckimlik", r"[1-9]\d{10}"),
    _kind("Canada", "ca.sin", r"\d{3}[- ]\d{3}[- ]\d{3}"),
    _kind("Canada", "ca.sin", r"\d{9}", named=True),
    _kind("Mexico", "mx.curp", r"[A-Z]{4}\d{6}[HMX][A-Z]{5}[0-9A-Z]\d"),
    _kind("Brazil", "br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}"),
    _kind("Brazil", "br.cpf", r"\d{11}", named=True),
    _kind("India", "in_.aadhaar", r"\d{4}[ -]\d{4}[ -]\d{4}"),
    _kind("India", "in_.aadhaar", r"\d{12}", named=True),
    _kind("India", "in_.pan", r"[A-Z]{3}P[A-Z]\d{4}[A-Z]"),
    # Not `cn.ric`: it knows only some of the districts.
    _kind("China", "iso7064.mod_11_2", r"\d{6}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])\d{3}[0-9X]"),
    _kind("South Korea", "kr.rrn", r"\d{6}-\d{7}"),
    _kind("Australia", "au.tfn", r"\d{3} ?\d{3} ?\d{3}", named=True),
    _kind("South Africa", "za.idnr", r"\d{6} ?\d{4} ?\d{3}"),
    _kind("Israel", "il.idnr", r"\d{9}|\d{8}-\d", named=True),
)
# No checksum: the letters that are given out make it one of few.
_NINO = re.compile(r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z].*[A-D]", re.IGNORECASE)
_NINO_SHAPE = re.compile(r"(?<![\w-])[A-Z]{2}[ -]?\d{2}[ -]?\d{2}[ -]?\d{2}[ -]?[A-DT](?![\w-])", re.IGNORECASE)
_LONG = re.compile(r"\d(?:[ ./+-]?[A-Z]?\d){3}", re.IGNORECASE)


def find_national_ids(text: str) -> Iterator[Finding]:
    """The numbers of a text that a state gave to a person."""
    if not _LONG.search(text):
        return
    for match in _NINO_SHAPE.finditer(text):
        if _NINO.fullmatch(match.group()) or _CUE.search(_before(text, match)):
            yield _found("United Kingdom", match.group())
    for kind in _KINDS:
        for match in kind.pattern.finditer(text):
            named = not kind.named or _CUE.search(_before(text, match))
            if named and _module(kind.module).is_valid(match.group()):
                yield _found(kind.country, match.group())


def _before(text: str, match: re.Match[str]) -> str:
    return text[max(0, match.start() - _NEAR) : match.start()]


def _found(country: str, value: str) -> Finding:
    return Finding(reason="national_id", what=f"a person's identity number ({country})", value=value)


def _module(name: str) -> ModuleType:
    return import_module(f"stdnum.{name}")
