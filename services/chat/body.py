"""What all JSON bodies share: text that can be stored and sent on, and refusals that name their parameter."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, model_validator
from pydantic_core import PydanticCustomError


def refused(param: str, message: str, code: str = "unsupported_parameter") -> PydanticCustomError:
    """A refusal that names its parameter, for use in validators; problems.py turns it into the error object."""
    return PydanticCustomError("refused_parameter", "{text}", {"text": message, "param": param, "code": code})


def without_nul(text: str) -> str:
    """PostgreSQL stores no NUL, and no question needs one."""
    return text.replace("\x00", " ")


Plain = Annotated[str, AfterValidator(without_nul)]


class Body(BaseModel):
    """Base of all request bodies."""

    @model_validator(mode="before")
    @classmethod
    def _can_be_written(cls, data: Any) -> Any:
        # JSON may spell half of a character (a lone surrogate); no UTF-8 can, so it would fail further in.
        try:
            _check(data)
        except UnicodeEncodeError:
            raise refused(
                "", "The request holds half a character (a lone surrogate): send valid Unicode.", "invalid_value"
            ) from None
        return data


def _check(data: Any) -> None:
    if isinstance(data, str):
        data.encode()
    elif isinstance(data, dict):
        for name, value in data.items():
            _check(name)
            _check(value)
    elif isinstance(data, list):
        for item in data:
            _check(item)
