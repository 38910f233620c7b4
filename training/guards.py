"""What no adapter may learn: personal data, secrets, facts of the documents, what nobody approved, the same twice.

An example passes whole or not at all; question, answer and sources are read alike. The finders are in `personal_data`,
`national_ids`, `person_names`, `credentials` and `corpus_facts`; what the answer may say, in `answer_support`.

**Made-up people.** A curator who invents a source invents its people too, and no list tells Doris Kemble from a person
who lives. By default a name is refused. The tag `made-up` on an example says that whoever approved it vouches for its
names; it lets names pass and nothing else: a number with a valid checksum is somebody's, whoever made it up.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from tandem.schemas import Value
from training.answer_support import find_unsupported
from training.corpus_facts import CorpusFacts
from training.credentials import find_credentials
from training.examples import StyleExample
from training.finding import Finding, Reason, plain
from training.person_names import find_names, fold
from training.personal_data import find_personal_data

MADE_UP = "made-up"
_REMEDY = {
    "secret": "Take it out, and change it where it is used.",
    "name": f"Replace it by a made-up one and tag the example `{MADE_UP}`.",
    "corpus_figure": "Facts belong into the documents: replace it by a made-up one.",
    "corpus_name": "Facts belong into the documents: replace it by a made-up one.",
}


class Refusal(Value):
    """An example that is left out.

    Attributes:
        number: In the order of the file, from 1.
        message: Names the field, and shows no more of a value than is needed to find it.
    """

    number: int
    reason: Reason
    message: str


@dataclass(frozen=True)
class Guarded:
    """What passed, and what did not."""

    examples: tuple[StyleExample, ...]
    refusals: tuple[Refusal, ...]


def guard(examples: Sequence[StyleExample], facts: CorpusFacts | None = None) -> Guarded:
    """Checks every example; one that is refused does not stop the others.

    Args:
        examples: In the order of their file.
        facts: Of the documents that are ingested; None leaves them out.
    """
    check = Check(facts)
    seen: dict[str, int] = {}
    kept: list[StyleExample] = []
    refusals: list[Refusal] = []
    for number, example in enumerate(examples, start=1):
        first = seen.get(normal(example))
        problem = repeated(f"example {first}") if first else check(example)
        if problem is None:
            # What was refused stands in nobody's way: its approved or mended copy may follow.
            seen[normal(example)] = number
            kept.append(example)
        else:
            refusals.append(Refusal(number=number, reason=problem[0], message=problem[1]))
    return Guarded(tuple(kept), tuple(refusals))


Problem = tuple[Reason, str]


class Check:
    """All guards but that against repetition, an example at a time; what was found in a text is kept for the next.

    Args:
        facts: Of the documents that are ingested; None leaves them out.
    """

    def __init__(self, facts: CorpusFacts | None) -> None:
        self._finders: list[Callable[[str], Iterator[Finding]]] = [find_credentials, find_personal_data, find_names]
        if facts is not None:
            self._finders.append(facts.find)
        self._found: dict[str, tuple[Finding, ...]] = {}

    def __call__(self, example: StyleExample) -> Problem | None:
        if not example.approved_by.strip():
            return "unapproved", "Nobody approved it: name the person in `approved_by`."
        return self._forbidden(example) or _uncited(example) or find_unsupported(example)

    def _forbidden(self, example: StyleExample) -> Problem | None:
        made_up = MADE_UP in example.tags
        for field, text in _fields(example):
            if text not in self._found:
                readable = plain(text)
                self._found[text] = tuple(chain.from_iterable(find(readable) for find in self._finders))
            for finding in self._found[text]:
                if not (made_up and finding.reason == "name"):
                    remedy = _REMEDY.get(finding.reason, "Replace it by a made-up one.")
                    return finding.reason, f"Its {field} holds {finding.what} ({finding.masked}). {remedy}"
        return None


def _fields(example: StyleExample) -> Iterator[tuple[str, str]]:
    yield "question", example.question
    yield "answer", example.answer
    for n, source in enumerate(example.sources, start=1):
        for part in ("title", "heading", "text"):
            if value := getattr(source, part):
                yield f"source {n} ({part})", value


def repeated(first: str) -> Problem:
    """The refusal of what is the same as `first`."""
    return "duplicate", f"It is the same as {first}, but for capitals, blanks and punctuation at most."


def normal(example: StyleExample) -> str:
    """What two examples have in common that differ in capitals, blanks, accents and punctuation alone."""
    texts = (example.question, example.answer, *(source.text for source in example.sources))
    return "\n".join(" ".join(re.findall(r"\w+", fold(plain(text)))) for text in texts)


def _uncited(example: StyleExample) -> Problem | None:
    cited = {int(n) for n in re.findall(r"\[(\d+)\]", example.answer)}
    if example.sources and example.answerable and not cited:
        return "no_citation", "Its answer cites no source: put [1] at the end of each sentence."
    if cited and not example.answerable:
        return "bad_citation", f"Its answer declines and yet cites [{min(cited)}]: let it do one of the two."
    if wrong := [n for n in sorted(cited) if not 1 <= n <= len(example.sources)]:
        return "bad_citation", f"Its answer cites [{wrong[-1]}] and it has {len(example.sources)} sources."
    return None
