"""Scores the style of an answer by the rules of the house style: always the same, and each broken rule is named."""

import re
from collections.abc import Iterator

from eval.matching import MARKER, strip_markers
from eval.support import content_words
from tandem.schemas import Value
from tandem.sentences import split_sentences
from tandem.style import StyleGuide

_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|absolutely|hello|hi|thank you|thanks|great question|good question)\b"
    r"|(?:here (?:is|are)|the answer to|to answer|in answer to|in response to|let me|i would be|i'd be|i am happy)\b"
    r"|(?:based on|according to|as stated in|as per) (?:the|this|your|these)\b|#)",
    re.IGNORECASE,
)
# "We" is left alone: the documents' own sentences often say it, and answers stay close to them.
_FIRST_PERSON = re.compile(r"(?<![\w'.])(?:I|I'm|I've|I'd|I'll|[Mm]y)(?![\w'.)-])")
_ABOUT_THE_READER = re.compile(r"\b(?:the|an) employees? (?:must|may|shall|should|can)\b", re.IGNORECASE)
_SECOND_PERSON = re.compile(r"\byou(?:r|rs|'re|'ve|'ll)?\b", re.IGNORECASE)
_QUOTED = re.compile(r"[\"“][^\"“”]*[\"”]")
_YES_NO = re.compile(r"^(?:yes|no)[.,!]?$", re.IGNORECASE)
# What a sentence splitter takes for an end, and is not when the line goes on.
_GOES_ON = re.compile(r"(?:\b(?:[ap]\.m|P\.O|U\.S(?:\.C)?|max|min|[A-Z])\.|^(?:yes|no)[.!])$", re.IGNORECASE)
_VOWELS = re.compile(r"[aeiouy]+")


class StyleScore(Value):
    """How much of the house style an answer keeps.

    Attributes:
        value: The share of the rules that apply and are kept, 0 to 1.
        rules: How many apply.
        broken: A sentence for each that is broken.
    """

    value: float
    rules: int
    broken: tuple[str, ...] = ()


def score(text: str, guide: StyleGuide, *, declined: bool = False, grounded: bool = True) -> StyleScore:
    """Scores one answer.

    Args:
        text: The answer, with its citation markers.
        guide: The house style.
        declined: Whether it declines: the sentence for that is then asked for, and no citations.
        grounded: Whether it was given sources; without them the rule about citations does not apply.
    """
    checks = list(_checks(text.replace("’", "'").strip(), guide, declined, grounded))
    broken = tuple(complaint for complaint in checks if complaint)
    return StyleScore(value=1 - len(broken) / len(checks) if checks else 1.0, rules=len(checks), broken=broken)


def reading_grade(text: str) -> float:
    """The Flesch-Kincaid grade of an English text; 0 for none. Figures count as words of one syllable."""
    sentences = [part for line in text.splitlines() for part in split_sentences(line)]
    words = re.findall(r"[^\W_]+(?:['.,-][^\W_]+)*", text)
    if not sentences or not words:
        return 0.0
    syllables = sum(_syllables(word) for word in words)
    return 0.39 * len(words) / len(sentences) + 11.8 * syllables / len(words) - 15.59


def _checks(text: str, guide: StyleGuide, declined: bool, grounded: bool) -> Iterator[str]:
    """One string for each rule that applies: the complaint, or nothing when it is kept."""
    body = guide.body(text)
    sentences = _sentences(body)
    lowered = body.lower()
    if guide.closing_line:
        yield "" if text.endswith(guide.closing_line) else f"It does not end with {guide.closing_line!r}."
    if guide.max_sentences is not None:
        many = len(sentences) > guide.max_sentences
        yield f"It has {len(sentences)} sentences, {guide.max_sentences} are allowed." if many else ""
    if guide.banned:
        said = [phrase for phrase in guide.banned if _occurs(phrase, lowered)]
        yield f"It says {', '.join(map(repr, said))}." if said else ""
    if guide.preferred:
        wrong = [
            f"{word!r} where the house says {own!r}" for word, own in guide.preferred.items() if _occurs(word, lowered)
        ]
        yield f"It says {', '.join(wrong)}." if wrong else ""
    if declined:
        yield "" if body.startswith(guide.decline) else f"It declines without the sentence {guide.decline!r}."
        return
    if not sentences:
        yield "It says nothing."
        return
    if guide.answer_first:
        opening = sentences[0]
        empty = not content_words(opening) and not _YES_NO.match(strip_markers(opening))
        late = _PREAMBLE.match(opening) or opening.endswith(("?", ":")) or empty
        yield f"It does not answer first: {opening!r}." if late else ""
    if guide.person is not None:
        yield _wrong_person(body, guide)
    if guide.max_grade is not None:
        grade = reading_grade(strip_markers(body))
        yield f"Its reading grade is {grade:.1f}, {guide.max_grade:g} is allowed." if grade > guide.max_grade else ""
    if guide.cite and grounded:
        bare = [sentence for sentence in sentences if not MARKER.search(sentence) and content_words(sentence)]
        yield f"There is no source at {bare[0]!r}." if bare else ""


def _sentences(body: str) -> list[str]:
    """The sentences of an answer, each with the markers that stand behind its full stop."""
    found: list[str] = []
    for line in body.splitlines():
        new_line = True
        for sentence in split_sentences(line):
            markers = re.match(r"(?:\s*\[\d{1,3}\])+[.\s]*", sentence)
            if found and markers:
                found[-1] += f" {markers.group(0).strip()}"
                sentence = sentence[markers.end() :]
            if sentence and not new_line and _GOES_ON.search(found[-1]):
                found[-1] += f" {sentence}"
            elif sentence:
                found.append(sentence)
            new_line = False
    return found


def _wrong_person(body: str, guide: StyleGuide) -> str:
    spoken = _QUOTED.sub(" ", body)  # what is quoted is somebody else's voice
    if first := _FIRST_PERSON.search(spoken):
        return f"It speaks of {first.group(0)!r}."
    if guide.person == "second" and (about := _ABOUT_THE_READER.search(spoken)):
        return f'It says {about.group(0)!r} where it should speak to "you".'
    if guide.person == "third" and (second := _SECOND_PERSON.search(spoken)):
        return f"It speaks to {second.group(0)!r}."
    return ""


def _occurs(phrase: str, lowered: str) -> bool:
    pattern = re.escape(phrase.lower())
    before = r"(?<!\w)" if phrase[:1].isalnum() else ""
    after = r"(?!\w)" if phrase[-1:].isalnum() else ""
    return re.search(before + pattern + after, lowered) is not None


def _syllables(word: str) -> int:
    word = word.lower()
    if not word.isalpha():
        return 1
    count = len(_VOWELS.findall(word))
    if word.endswith("e") and not word.endswith(("le", "ee")) and count > 1:
        count -= 1
    return max(1, count)
