"""What no adapter may learn: personal data, secrets, facts without a source, what nobody approved, the same twice.

Patterns carry a checksum or a context wherever one exists: a guard that refuses every long number refuses manuals.
Names are not found by rule; that is what approval by a person is for.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tandem.schemas import Value
from training.examples import StyleExample

# Reserved for examples (RFC 2606, RFC 6761): nobody's address.
_MADE_UP_DOMAIN = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|org|net))?|test|invalid)$", re.IGNORECASE)
_EMAIL = re.compile(r"[\w.+-]+@([\w-]+(?:\.[\w-]+)+)")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(r"\b\d(?:[ -]?\d){12,18}\b")
_PHONE = re.compile(r"(?<![\w.])(?<!\d )(?:\+|00)\d{1,3}[\s./-]?(?:\(0\))?[\d\s./-]{6,14}\d\b")
_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bsk-[A-Za-z0-9_-]{20,}\b"
    r"|\bxox[baprs]-[A-Za-z0-9-]{10,}\b|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{5,}\b"
    r"|\b(?:password|passwd|api[_-]?key|secret)\s*[:=]\s*\S{6,}",
    re.IGNORECASE,
)
_FIGURE = re.compile(r"\d")


class Refusal(Value):
    """An example that is left out, by its number in the file's order, from 1."""

    number: int
    reason: str
    message: str


@dataclass(frozen=True)
class Guarded:
    """What passed, and what did not."""

    examples: tuple[StyleExample, ...]
    refusals: tuple[Refusal, ...]


def guard(examples: Sequence[StyleExample]) -> Guarded:
    """Checks every example; one that is refused does not stop the others."""
    kept: list[StyleExample] = []
    refusals: list[Refusal] = []
    seen: dict[str, int] = {}
    for number, example in enumerate(examples, start=1):
        key = " ".join(f"{example.question} {example.answer} {example.sources}".lower().split())
        problem = ("duplicate", f"It is the same as example {seen[key]}.") if key in seen else _problem(example)
        seen.setdefault(key, number)
        if problem is None:
            kept.append(example)
        else:
            refusals.append(Refusal(number=number, reason=problem[0], message=problem[1]))
    return Guarded(tuple(kept), tuple(refusals))


def _problem(example: StyleExample) -> tuple[str, str] | None:
    if not example.approved_by.strip():
        return "unapproved", "Nobody approved it: name the person in `approved_by`."
    text = "\n".join([example.question, example.answer, *(source.text for source in example.sources)])
    for reason, what, find in _FINDERS:
        if find(text):
            return reason, f"It holds {what}: replace it by a made-up one."
    if not example.sources and example.answerable and _FIGURE.search(example.answer):
        return "no_source", "It states a figure without a source: add it, so that no fact goes into the weights."
    cited = {int(n) for n in re.findall(r"\[(\d+)\]", example.answer)}
    if example.sources and example.answerable and not cited:
        return "no_citation", "Its answer cites no source: put [1] at the end of each sentence."
    if any(n < 1 or n > len(example.sources) for n in cited):
        return "bad_citation", f"Its answer cites [{max(cited)}] and it has {len(example.sources)} sources."
    return None


def _email(text: str) -> bool:
    return any(not _MADE_UP_DOMAIN.search(match.group(1)) for match in _EMAIL.finditer(text))


def _iban(text: str) -> bool:
    """ISO 13616: moved and read as a number, it leaves 1 modulo 97."""
    for match in _IBAN.finditer(text):
        plain = match.group().replace(" ", "")
        number = "".join(str(int(char, 36)) for char in plain[4:] + plain[:4])
        if 15 <= len(plain) <= 34 and int(number) % 97 == 1:
            return True
    return False


def _card(text: str) -> bool:
    """Luhn's checksum, and the first digit of a card network."""
    for match in _CARD.finditer(text):
        digits = [int(char) for char in match.group() if char.isdigit()]
        doubled = [d if n % 2 == 0 else (2 * d - 9 if d > 4 else 2 * d) for n, d in enumerate(reversed(digits))]
        if digits[0] in (3, 4, 5, 6) and len(set(digits)) > 1 and sum(doubled) % 10 == 0:
            return True
    return False


_FINDERS: tuple[tuple[str, str, Callable[[str], object]], ...] = (
    ("secret", "what looks like a password or key", _SECRETS.search),
    ("email", "an e-mail address outside the reserved example domains", _email),
    ("iban", "a bank account number", _iban),
    ("card", "a payment card number", _card),
    ("phone", "a telephone number in international form", _PHONE.search),
)
