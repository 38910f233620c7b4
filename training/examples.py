"""Style examples: what a curator writes, one JSON object a line.

Short form: `{"question", "sources": [{"title", "heading", "text"}], "answer", "topic", "approved_by", "tags"}`.
Group form: `{"sources": [...], "examples": [{"question", "answer"}, ...], ...}`, for questions on the same sources.
Chat form: OpenAI's `{"messages": [...], "sources": [...], ...}`; its last two messages are question and answer.
The answer cites `[n]` by position in `sources` and ends with the closing line of the style guide.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from tandem.declines import is_decline
from tandem.errors import ExampleError
from tandem.prompt import Source
from tandem.schemas import Value


class ExampleSource(Value):
    """A source of an example, whole; which of its sentences are shown is drawn in training."""

    title: str = ""
    heading: str = ""
    text: str = Field(min_length=1)

    def as_source(self) -> Source:
        return Source(self.title, self.heading, self.text)


class StyleExample(Value):
    """A question, its sources and the answer as the house gives it.

    Attributes:
        approved_by: Who released it for training; without anybody it is not trained on.
        tags: Anything a curator sorts by; the kind of text, such as `legal` or `table`.
    """

    question: str = Field(min_length=1)
    sources: tuple[ExampleSource, ...] = ()
    answer: str = Field(min_length=1)
    topic: str = ""
    approved_by: str = ""
    tags: tuple[str, ...] = ()

    @field_validator("question", "answer")
    @classmethod
    def _stripped(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("it is blank")
        return value.strip()

    @property
    def answerable(self) -> bool:
        """Whether the sources answer the question."""
        return not is_decline(self.answer)


@dataclass(frozen=True)
class Group:
    """Examples over the same sources. They share one prompt prefix in training."""

    sources: tuple[ExampleSource, ...]
    examples: tuple[StyleExample, ...]

    @property
    def topic(self) -> str:
        return self.examples[0].topic


def group_by_sources(examples: Iterable[StyleExample]) -> list[Group]:
    """Groups examples with equal sources, in order of first appearance."""
    groups: dict[tuple[ExampleSource, ...], list[StyleExample]] = {}
    for example in examples:
        groups.setdefault(example.sources, []).append(example)
    return [Group(sources, tuple(rows)) for sources, rows in groups.items()]


def load_examples(path: Path) -> list[StyleExample]:
    """Reads a file of examples, in either form, line by line.

    Raises:
        ExampleError: The file cannot be read, is empty, or a line is wrong; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as exc:
        raise ExampleError(
            f"The examples {str(path)!r} cannot be read: {exc.strerror}. Name a JSON Lines file with --examples."
        ) from exc
    except UnicodeDecodeError as exc:
        raise ExampleError(f"The examples {str(path)!r} are not UTF-8 (byte {exc.start}). Save them as UTF-8.") from exc
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    examples = [example for number, line in numbered for example in _parse(path, number, line)]
    if not examples:
        raise ExampleError(f"The file {str(path)!r} holds no examples: put one JSON object on each line.")
    return examples


def data_digest(examples: Sequence[StyleExample]) -> str:
    """SHA-256 over the examples, whatever their order."""
    return hashlib.sha256("\n".join(sorted(map(example_digest, examples))).encode()).hexdigest()


def example_digest(example: StyleExample) -> str:
    """SHA-256 of one example."""
    return hashlib.sha256(example.model_dump_json().encode()).hexdigest()


def _parse(path: Path, number: int, line: str) -> list[StyleExample]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as exc:
        raise ExampleError(f"{path.name}, line {number}: not JSON ({exc.msg} at character {exc.pos}).") from exc
    if not isinstance(row, dict):
        raise ExampleError(f"{path.name}, line {number}: a JSON object is needed, not {line.strip()[:40]!r}.")
    try:
        return [StyleExample.model_validate(_short(one) if "messages" in one else one) for one in _members(row)]
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "line"
        raise ExampleError(f"{path.name}, line {number}: {key!r} is wrong: {first['msg']}.") from exc
    except ValueError as exc:
        raise ExampleError(f"{path.name}, line {number}: {exc}.") from exc


def _members(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The examples of a group, each with what the group has in common; any other row is one example."""
    if "examples" not in row:
        return [row]
    members = row["examples"]
    if not isinstance(members, list) or not members or not all(isinstance(member, dict) for member in members):
        raise ValueError("'examples' must be a list of objects with a question and an answer")
    common = {key: value for key, value in row.items() if key != "examples"}
    return [common | member for member in members]


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """The chat form as the short form."""
    messages = row["messages"]
    roles = [m.get("role") if isinstance(m, dict) else None for m in messages] if isinstance(messages, list) else []
    if roles[-2:] != ["user", "assistant"]:
        raise ValueError("'messages' must end with a user and an assistant message")
    rest = {key: value for key, value in row.items() if key != "messages"}
    return {"question": messages[-2].get("content", ""), "answer": messages[-1].get("content", ""), **rest}
