"""Evaluation suites: questions with what a right answer holds, as JSON Lines.

One line a case: `{id, question, all_of: [[...]], none_of: [...], answerable, as_of?, groups?, evidence?, history?}`.
"""

from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import StringConstraints, ValidationError, field_validator, model_validator

from eval.matching import tokens
from tandem.errors import InputError
from tandem.schemas import Arm, Ask, Message, Principal, Sampling, Value

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

# Marks the receipts that an evaluation leaves behind, so that the failure signals can leave them out.
EVAL_USER = "tandem-eval"


class Turn(Message):
    """An earlier turn of the conversation."""

    role: Literal["user", "assistant"]


class Case(Value):
    """One question of a suite and how its answer is judged.

    Attributes:
        all_of: A right answer contains one string of each of these groups.
        none_of: A right answer contains none of these: superseded values, for example.
        answerable: Whether the documents answer it for these groups on this day; if not, declining is right.
        as_of: The day whose documents are asked for; today when None.
        groups: Whose documents may be read; None asks as an admin.
        evidence: Ids of the documents that hold the answer; empty when nobody said.
    """

    id: Text
    question: Text
    all_of: tuple[tuple[str, ...], ...] = ()
    none_of: tuple[str, ...] = ()
    answerable: bool
    as_of: date | None = None
    groups: frozenset[Text] | None = None
    evidence: tuple[Text, ...] = ()
    history: tuple[Turn, ...] = ()

    @field_validator("evidence", "all_of", "none_of", "history", mode="before")
    @classmethod
    def _absent(cls, value: object) -> object:
        return () if value is None else value

    @field_validator("all_of", "none_of")
    @classmethod
    def _matchable(cls, value: tuple[tuple[str, ...] | str, ...]) -> tuple[tuple[str, ...] | str, ...]:
        for item in value:
            if not item:
                raise ValueError("it holds an empty entry, which would match nothing or everything")
            for key in (item,) if isinstance(item, str) else item:
                if not tokens(key):
                    raise ValueError(f"the string {key!r} has no letter, digit or currency sign to look for")
        return value

    @model_validator(mode="after")
    def _judgeable(self) -> "Case":
        if self.answerable and not self.all_of:
            raise ValueError("an answerable case needs all_of, or any text would be a right answer")
        return self

    def principal(self, otherwise: Principal) -> Principal:
        """Who asks this case: somebody with exactly its groups, or `otherwise` when it names none."""
        if self.groups is None:
            return otherwise
        return Principal(user=EVAL_USER, groups=self.groups)

    def ask(self, arm: Arm, otherwise: Principal, sampling: Sampling | None = None) -> Ask:
        """The case as a question to one arm."""
        return Ask(
            messages=(*self.history, Message(role="user", content=self.question)),
            arm=arm,
            principal=self.principal(otherwise),
            as_of=self.as_of,
            sampling=sampling or Sampling(),
        )


def load_suite(path: Path) -> list[Case]:
    """Reads one suite.

    Args:
        path: A JSON Lines file; blank lines are passed over.

    Raises:
        InputError: The file cannot be read, a line is wrong (the sentence names file, line and field), or it is empty.
    """
    return load_suites([path])


def load_suites(paths: Iterable[Path]) -> list[Case]:
    """Reads several suites as one, in order. Ids must not repeat, across files neither.

    Raises:
        InputError: As for `load_suite`.
    """
    cases: list[Case] = []
    seen: dict[str, str] = {}
    for path in paths:
        count = len(cases)
        for number, line in enumerate(_read(path).split("\n"), start=1):
            if not line.strip():
                continue
            where = f"line {number} of the suite {str(path)!r}"
            case = _parse(line, where)
            if case.id in seen:
                raise InputError(
                    f"The case id {case.id!r} in {where} was already taken by {seen[case.id]}: "
                    "rename one, results are paired by id."
                )
            seen[case.id] = where
            cases.append(case)
        if len(cases) == count:
            raise InputError(f"The suite {str(path)!r} holds no case: write one JSON object a line.")
    return cases


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise InputError(
            f"The suite {str(path)!r} cannot be read: {exc.strerror}. Name a JSON Lines file with --suite."
        ) from exc
    except UnicodeDecodeError as exc:
        raise InputError(
            f"The suite {str(path)!r} is not UTF-8 text (byte {exc.start}): save it as UTF-8 JSON Lines."
        ) from exc


def _parse(line: str, where: str) -> Case:
    try:
        return Case.model_validate_json(line)
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "json_invalid":
            raise InputError(f"There is no JSON object in {where}: {reason}. Write one object a line.") from exc
        subject = f"The field {field!r}" if field else "The case"
        got = f" (it is {first['input']!r})" if field and first["type"] != "missing" else ""
        raise InputError(
            f"{subject} in {where} is wrong: {reason}{got}. The fields are id, question, all_of, none_of, answerable, "
            "as_of, groups, evidence and history."
        ) from exc
