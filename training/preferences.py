"""Preference pairs from feedback, read and guarded; `training.preference_stage` learns from them.

One JSON object a line: `{"question", "sources": [{"title", "heading", "text"}], "chosen", "rejected", "approved_by"}`.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tandem.errors import ExampleError
from tandem.prompt import build_messages
from tandem.schemas import Value
from training.corpus_facts import CorpusFacts
from training.examples import ExampleSource, StyleExample
from training.guards import Check, Problem, Refusal, normal, repeated

_FORGIVEN = ("no_citation", "bad_citation", "no_source", "unsupported")  # may be why an answer was rejected


class Preference(Value):
    """Two answers to a question, and which of them a person preferred.

    Attributes:
        sources: As the model saw them.
        approved_by: Who released the pair for training; without anybody it is not trained on.
        tags: As with style examples.
    """

    question: str = Field(min_length=1)
    sources: tuple[ExampleSource, ...] = ()
    chosen: str = Field(min_length=1)
    rejected: str = Field(min_length=1)
    approved_by: str = ""
    tags: tuple[str, ...] = ()

    def as_example(self, answer: str) -> StyleExample:
        """One of its answers as a style example, for the guards and the gate."""
        return StyleExample(
            question=self.question,
            sources=self.sources,
            answer=answer,
            topic=self.question,  # one of its own: nobody said what it is about
            approved_by=self.approved_by,
            tags=self.tags,
        )


@dataclass(frozen=True)
class GuardedPreferences:
    """What passed the guards, and what did not."""

    preferences: tuple[Preference, ...]
    refusals: tuple[Refusal, ...]


def load_preferences(path: Path) -> list[Preference]:
    """Reads a file of pairs.

    Raises:
        ExampleError: The file cannot be read, or a line is wrong; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ExampleError(
            f"The preferences {str(path)!r} (TANDEM_TRAINING__PREFERENCES) cannot be read: {exc}."
        ) from exc
    return [_parse(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _parse(path: Path, number: int, line: str) -> Preference:
    try:
        preference = Preference.model_validate(json.loads(line))
    except json.JSONDecodeError as exc:
        raise ExampleError(f"{path.name}, line {number}: not JSON ({exc.msg} at character {exc.pos}).") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "line"
        raise ExampleError(f"{path.name}, line {number}: {key!r} is wrong: {first['msg']}.") from exc
    if preference.chosen.strip() == preference.rejected.strip():
        raise ExampleError(f"{path.name}, line {number}: both answers are the same.")
    return preference


def guard_preferences(preferences: Sequence[Preference], facts: CorpusFacts | None = None) -> GuardedPreferences:
    """Leaves out pairs that the guards refuse for either answer, and pairs that come twice.

    An answer may come many times, with others that it was preferred to; it is looked at each time.

    Args:
        preferences: In the order of their file.
        facts: Of the documents that are ingested; None leaves them out.
    """
    check = Check(facts)
    seen: dict[tuple[str, str], int] = {}
    kept: list[Preference] = []
    refusals: list[Refusal] = []
    for number, preference in enumerate(preferences, start=1):
        problem = _refused(check, preference)
        if problem is None:
            first = seen.setdefault(_both(preference), number)
            problem = repeated(f"pair {first}") if first != number else None
        if problem is None:
            kept.append(preference)
        else:
            refusals.append(Refusal(number=number, reason=problem[0], message=problem[1]))
    return GuardedPreferences(tuple(kept), tuple(refusals))


def _refused(check: Check, preference: Preference) -> Problem | None:
    if problem := check(preference.as_example(preference.chosen)):
        return problem
    problem = check(preference.as_example(preference.rejected))
    return problem if problem and problem[0] not in _FORGIVEN else None


def _both(preference: Preference) -> tuple[str, str]:
    """What makes a pair: question, sources and both answers, but for capitals, blanks and punctuation."""
    return normal(preference.as_example(preference.chosen)), normal(preference.as_example(preference.rejected))


def preferences_digest(preferences: Sequence[Preference]) -> str:
    """SHA-256 over pairs in their order."""
    return hashlib.sha256("\n".join(p.model_dump_json() for p in preferences).encode()).hexdigest()


def conversation(preference: Preference, rng: random.Random) -> dict[str, Any]:
    """TRL's conversational form, with Tandem's prompt."""
    sources = [source.as_source() for source in preference.sources] or None
    marker = f"=== {rng.randrange(16**6):06x} ==="
    return {
        "prompt": build_messages(preference.question, sources, marker=marker),
        "chosen": [{"role": "assistant", "content": preference.chosen}],
        "rejected": [{"role": "assistant", "content": preference.rejected}],
    }
