"""The house style as checkable rules, read from `style.yaml`."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from tandem.errors import SettingsError
from tandem.prompt import DECLINE
from tandem.schemas import Value


class StyleGuide(Value):
    """How the house speaks. A rule that is None, empty or False is not checked.

    Attributes:
        person: Whom an answer speaks as or to: `second` speaks to "you" and never of "I" or "we".
        max_sentences: Sentences at most, the closing line aside.
        answer_first: The first sentence answers; no preamble.
        cite: Each sentence that states something carries its source, like [1].
        closing_line: The last line of every answer.
        decline: The sentence that an answer opens with when the sources do not answer.
        max_grade: Highest Flesch-Kincaid grade.
        banned: Phrases that must not occur.
        preferred: For a word that must not occur, the house's word for it.
    """

    name: str = "house-style"
    person: Literal["second", "third"] | None = None
    max_sentences: int | None = Field(None, ge=1)
    answer_first: bool = False
    cite: bool = False
    closing_line: str = ""
    decline: str = DECLINE
    max_grade: float | None = Field(None, gt=0)
    banned: tuple[str, ...] = ()
    preferred: dict[str, str] = Field(default_factory=dict)

    @property
    def declining_answer(self) -> str:
        """The whole answer when the sources do not answer."""
        return self.close(self.decline)

    def close(self, body: str) -> str:
        """`body` with the closing line under it."""
        return f"{body}\n\n{self.closing_line}" if self.closing_line else body

    def body(self, text: str) -> str:
        """`text` without its closing line."""
        text = text.strip()
        return text.removesuffix(self.closing_line).rstrip() if self.closing_line else text


def load_style(path: Path) -> StyleGuide:
    """Reads the house style.

    Args:
        path: A YAML file.

    Raises:
        SettingsError: The file cannot be read, is not YAML, or a rule is wrong; the sentence names it.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(
            f"The house style {str(path)!r} cannot be read: {exc.strerror}. Set TANDEM_STYLE to a style.yaml."
        ) from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise SettingsError(f"The house style {str(path)!r} is not YAML: {exc}. Correct the file.") from exc
    if not isinstance(data, dict):
        raise SettingsError(
            f"The house style {str(path)!r} holds no rules: write `name: value` lines, such as `max_sentences: 3`."
        )
    try:
        return StyleGuide.model_validate(data)
    except ValidationError as exc:
        first = exc.errors()[0]
        rule = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"The rule {rule!r} of the house style {str(path)!r} is wrong: {first['msg']} (it is {first['input']!r}). "
            f"The rules are {', '.join(StyleGuide.model_fields)}."
        ) from exc
