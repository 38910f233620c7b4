"""Names of people in a text, against a list: given names and surnames of 30 countries in Latin script.

Shape alone finds companies and streets, the list alone finds ordinary words. A name is found where both meet:

- a given name of the list and a capitalised word after it that is no ordinary word ("Doris Kemble");
- a word that no dictionary has, and a surname of the list after it ("Kwaku Mensah");
- a title and a capitalised word ("Dr Kemble");
- a person's part and two words that no dictionary has ("the works manager, Xeni Tarvold");
- "Kemble, Doris" and "DORIS KEMBLE" where both words are on the list; "doris kemble" in a text without capitals.

Not found: a given name or a surname that stands alone, without a title or a salutation, and other scripts.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module, resources
from importlib.resources.abc import Traversable

from tandem.sparse import STOP_WORDS, SparseEncoder
from training.finding import Finding

# Of Faker, where mimesis knows few names. The tests plant the others.
_MORE_LOCALES = (
    "en_IN en_IE en_NG en_PK en_KE tr_TR ro_RO lt_LT lv_LV id_ID vi_VN sl_SI et_EE ne_NP ja_JP yo_NG ig_NG ha_NG sw"
).split()
_PARTS = (
    r"mother|father|sister|brother|wife|husband|daughter|son|colleague|manager|director|officer|supervisor|secretary|"
    r"chair(?:man|woman|person)?|president|treasurer|clerk|foreman|warden|caretaker|janitor|nurse|doctor|teacher|tutor|"
    r"professor|head of [\w ]{2,20}|coordinator|owner|tenant|landlord|landlady|customer|client|patient|employee|"
    r"applicant|candidate|witness|guest|member|resident|student|pupil|assistant|engineer|accountant|lawyer|solicitor|"
    r"attorney|agent|driver|chaplain|registrar|librarian|steward|chef|captain|mechanic|contact|named?|called|by|signed|from|"
    r"spoke with|spoken to|ask(?: for|ed)?|emailed|met"
)
_PARTICLES = frozenset(
    "van von der den de del di della da dos das do du la le el al bin ibn ben ter ten zu zur af av y e i san st".split()
)
_L = r"[^\W\d_]"
_UPPER = "A-ZÀ-ÖØ-ÞĀĂĄĆĈĊČĎĐĒĔĖĘĚĜĞĠĢĤĦĨĪĬĮİĴĶĹĻĽĿŁŃŅŇŊŌŎŐŒŔŖŘŚŜŞŠŢŤŦŨŪŬŮŰŲŴŶŸŹŻŽȘȚ"
_CAP = rf"(?:(?:[OD]['’]|Mc|Mac|De|Di|Van|Fitz|Le|La)?[{_UPPER}](?:{_L}+|(?=['’])))(?:['’-]{_L}+)*"
_PARTICLE = rf"(?:(?:{'|'.join(sorted(_PARTICLES))})\b\.?[ ]|d['’]|al-|el-)"
_SEQUENCE = re.compile(rf"(?<![\w'’.@/-]){_CAP}(?: (?:[{_UPPER}]\.? ?)?{_PARTICLE}{{0,3}}{_CAP})+(?![\w@])")
_TITLE = re.compile(
    rf"\b(?:M(?:r|rs|s|x|me|lle)\b\.?|Miss|Dr\b\.?|Prof(?:essor|\.|\b)|Rev\b\.?|Reverend|Sir|Dame|Lady|Herrn?|Frau|Madame|"
    rf"Monsieur|Se[ñn]or(?:a|ita)?|Sra?\.|Do[ñn]a|Signor[ae]?|Sig(?:\.ra|\.)|Dott\.|Ing\.|Dipl\.-Ing\.|Mevrouw|Meneer|Fru|Pan[ií]?|"
    rf"Kapt\.|Capt\.) "
    rf"(?:Dr\.? |Prof\.? )?((?:[{_UPPER}]\. ?)*{_PARTICLE}{{0,2}}{_CAP}(?: {_PARTICLE}{{0,2}}{_CAP})?)"
)
_INITIALS = re.compile(rf"(?<![\w.])(?:[{_UPPER}]\. ?){{1,3}}{_PARTICLE}{{0,2}}({_CAP})(?![\w])")
_REVERSED = re.compile(rf"(?<![\w'’-])({_CAP}), ({_CAP})(?![\w])")
_GREETING = re.compile(
    rf"(?:\b(?:Dear|Hi|Hello|Hallo|Hey|Liebe[r]?|Cher|Chère|Hej)|\b[Mm]y name is|\b(?:I am|I'm|[Tt]his is)|"
    rf"(?:[Rr]egards|[Tt]hanks|[Cc]heers|[Ss]incerely|[Yy]ours),?\n?) ?({_CAP})(?=[\s,.!?]|$)"
)
_ROLE = re.compile(rf"\b(?:{_PARTS})\b,? ?:? ?$", re.IGNORECASE)
_LOWER_PAIR = re.compile(rf"(?<![\w'’.@/-])({_L}{{3,}})[ ](?=({_L}{{3,}})(?![\w@]))")
_BOTH_RARE = 11.0  # idf of two words together that pass for a name without capitals
_COMMON_NOUN = re.compile(
    r"(?:graph(?:y|ics)|olog(?:y|ies)|outs?|ware|tions?|ments?|ics|ities|works?|crafts?|ships?|ness|ings)$"
)
_RARE = 8.5  # idf of the frozen table from which on a word is none that everybody uses


def find_names(text: str) -> Iterator[Finding]:
    """The names of people in a text, each once and whole."""
    seen: set[str] = set()
    for name in _names(text):
        if name not in seen:
            seen.add(name)
            yield Finding(reason="name", what="what reads like a person's name", value=name)


def is_on_a_list(word: str) -> bool:
    """Whether a word is a given name or a surname."""
    known = _word(word)
    return known.given or known.surname


def _names(text: str) -> Iterator[str]:
    for match in _TITLE.finditer(text):
        if not _word(match.group(1).split()[-1]).thing:
            yield match.group()
    for match in _SEQUENCE.finditer(text):
        yield from _in_sequence(text, match)
    for match in _INITIALS.finditer(text):
        word = _word(match.group(1))
        if (
            word.surname
            and not (word.ambiguous or word.thing or word.ordinary)
            and text[: match.start()].rstrip(" ")[-1:] not in "\n"
        ):
            yield match.group()
    for match in _REVERSED.finditer(text):
        surname, given = _word(match.group(1)), _word(match.group(2))
        if (
            (surname.surname or surname.rare)
            and given.given
            and not (surname.ambiguous or given.ambiguous or surname.thing)
        ):
            yield match.group()
    for match in _GREETING.finditer(text):
        if (word := _word(match.group(1))).given and not word.ambiguous:
            yield match.group(1)
    for pattern in (_UPPER_PAIR,) if _CAPITALISED.search(text, 1) else (_UPPER_PAIR, _LOWER_PAIR):
        for match in pattern.finditer(text):
            given, surname = _word(match.group(1)), _word(match.group(2))
            if (
                given.given
                and surname.surname
                and given.idf + surname.idf > _BOTH_RARE
                and not (given.ambiguous or surname.ambiguous or surname.thing)
            ):
                yield f"{match.group(1)} {match.group(2)}"


def _in_sequence(text: str, match: re.Match[str]) -> Iterator[str]:
    """Names in a row of capitalised words: two neighbours that fit, unless they name a firm, a place or a thing."""
    found = list(_CAPITALISED.finditer(text, match.start(), match.end()))
    # "Thomas De Vos" are two: the particle belongs to the name behind it.
    kept = [word for n, word in enumerate(found) if n == len(found) - 1 or fold(word.group()) not in _PARTICLES]
    words = [_word(re.sub(r"['’]s?$", "", word.group())) for word in kept]
    before = text[max(0, match.start() - 30) : match.start()]
    for n in range(len(words) - 1):
        firm = any(word.thing for word in words[n + 2 :]) or _FIRM.match(text, match.end()) is not None
        firm = firm or (n == 0 and _FIRM_BEFORE.search(before) is not None) or kept[n].group().endswith(("'s", "’s"))
        if firm:
            continue
        role = n == 0 and _ROLE.search(before) is not None
        place = n > 0 or _PLACE.search(before) is not None
        if _is_person(words[n], words[n + 1], role, place):
            yield text[kept[n].start() : kept[n + 1].end()]


def _is_person(first: "_Word", last: "_Word", role: bool, place: bool) -> bool:
    clear = first.given and not first.ambiguous and not first.never
    if last.street:  # a surname as well: "Emily Lane"
        return clear and not place
    if last.thing or (first.thing and not first.given):
        return False
    if clear:
        return last.surname or last.strange or (last.given and not last.ambiguous)
    if first.given and not first.never:
        return (last.surname or (role and last.strange)) and not last.ambiguous
    if first.rare or (role and first.strange):
        return (last.surname and not last.ambiguous and not last.ordinary) or (role and last.strange)
    return False


_PLACE = re.compile(r"(?:\d[A-Za-z]?|\b(?:on|in|at|along|of|near|into|the|via|past))\s$")
_CAPITALISED = re.compile(_CAP)
_UPPER_PAIR = re.compile(rf"(?<![\w'’.@/-])([{_UPPER}]{{3,}})[ ](?=([{_UPPER}]{{3,}})(?![\w@]))")
_FIRM_BEFORE = re.compile(r"[&+] ?$|\b(?:firm|company|supplier|brand|model|ship|vessel|village|town|city) $")
_FIRM = re.compile(
    r" ?(?:&|\+| and (?:Sons?|Co|Partners|Daughters)\b)|['’]s [A-Z]"
    r"| (?:Ltd|Inc|GmbH|AG|AB|AS|BV|Oy|plc|LLP|LLC|S\.A|Co)\b"
)


class _Word:
    """What the lists know of a word."""

    __slots__ = ("ambiguous", "given", "idf", "never", "ordinary", "rare", "strange", "street", "surname", "thing")

    def __init__(self, word: str) -> None:
        folded = fold(word)
        givens, surnames, ordinary, sparse = _lists()
        words = _words()
        # "Anne-Marie" and "Müller-Lüdenscheidt" are on the list by their parts.
        parts = [part for part in re.split(r"[-'’]", folded) if len(part) > 1]
        self.given = folded in givens or (len(parts) > 1 and parts[0] in givens)
        self.surname = folded in surnames or (len(parts) > 1 and parts[-1] in surnames)
        self.ambiguous = folded in words["ambiguous"] or folded in STOP_WORDS
        self.never = folded in words["never"] or (folded in STOP_WORDS and folded not in ("will", "may"))
        self.street = folded in words["streets"]
        self.thing = folded in words["things"] or folded.removesuffix("s") in words["things"]
        self.idf = min((sparse.idf(term) for term in sparse.terms(word)), default=0.0)
        self.ordinary = folded in ordinary
        known = self.ambiguous or self.thing or len(folded) < 3 or word.isupper() or _COMMON_NOUN.search(folded)
        plural = folded.endswith("s") and self.idf < _RARE  # "Pianos"
        self.strange = not self.ordinary and not known and not plural
        self.rare = self.idf > _RARE and self.strange


@lru_cache(maxsize=200_000)
def _word(word: str) -> _Word:
    return _Word(word)


@lru_cache(maxsize=1)
def _lists() -> tuple[frozenset[str], frozenset[str], frozenset[str], SparseEncoder]:
    """Given names, surnames and ordinary English words, folded; names are those of `mimesis`, and more of `Faker`."""
    givens: set[str] = set()
    surnames: set[str] = set()
    datasets = resources.files("mimesis").joinpath("datasets")
    for folder in datasets.iterdir():
        if (file := folder.joinpath("person.json")).is_file():
            person = _read(file)
            givens.update(_strings(person.get("names")))
            surnames.update(_strings(person.get("surnames")))
    for locale in _MORE_LOCALES:
        provider = import_module(f"faker.providers.person.{locale}").Provider
        for name in dir(provider):
            if name.startswith(("first_", "last_")) and not callable(getattr(provider, name)):
                (givens if name.startswith("first") else surnames).update(_strings(getattr(provider, name)))
    words = frozenset(_strings(_read(datasets.joinpath("en", "text.json"))["words"]))
    first, last = frozenset(_single(givens)), frozenset(_single(surnames))
    return first, last, words - first, SparseEncoder()


@lru_cache(maxsize=1)
def _words() -> dict[str, frozenset[str]]:
    """The lists in `name_words.txt`, by their names."""
    text = resources.files("training").joinpath("name_words.txt").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return {name: frozenset(words.split()) for name, words in re.findall(r"\[(\w+)\]([^\[]*)", lines)}


def _read(file: Traversable) -> dict[str, object]:
    found: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):  # by gender, or (in Faker) names with their weights
        for key, each in value.items():
            yield from _strings(each if isinstance(each, dict | list | tuple) else key)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)


def _single(names: set[str]) -> Iterator[str]:
    """Each word of the names by itself: a double surname stands with one of its parts too."""
    for name in names:
        for word in fold(name).split():
            if len(word) > 1 and word not in _PARTICLES and word.replace("-", "").replace("'", "").isascii():
                yield word


@lru_cache(maxsize=100_000)
def fold(word: str) -> str:
    """Without accents and in lower case: "Łukasz" and "Lukasz" are one name."""
    word = word.casefold().translate(_LETTERS).replace("’", "'")
    return "".join(char for char in unicodedata.normalize("NFKD", word) if not unicodedata.combining(char))


_LETTERS = str.maketrans({"ß": "ss", "ł": "l", "ø": "o", "đ": "d", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th", "ı": "i"})
