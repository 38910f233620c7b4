"""OpenAI's chat completion schema, as far as Tandem honours it.

A parameter that would change the answer and is not honoured is refused by name; one that would not is accepted.
"""

import re
import time
import uuid
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from services.chat.body import Body, Plain, refused
from tandem.errors import Forbidden
from tandem.prompt import PROMPT_VERSION
from tandem.schemas import MODEL_NAMES, Answer, Arm, Ask, Message, Principal, Sampling

# Parameters accepted only at values that leave the answer as it is; None accepts any value.
NEUTRAL: dict[str, tuple[Any, ...] | None] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": None,  # says nothing without tools
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "reasoning_effort": ("none",),
    "store": (False,),
    "service_tier": None,
    "metadata": None,
    "user": None,
    "safety_identifier": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
}
# What OpenAI's client sends back of an assistant's message; empty in every answer of Tandem.
_MESSAGE_EXTRAS = frozenset({"name", "refusal", "annotations", "audio", "function_call", "tool_calls"})
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def _text_of(value: Any) -> Any:
    """Joins OpenAI's text parts; other parts are refused."""
    if value is None:
        return ""
    if not isinstance(value, list):
        return value
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            name = kind if isinstance(kind, str) and kind != "text" else "malformed"
            raise refused(
                "", f"Tandem reads text only: the message has a part of the kind {name!r}.", "unsupported_part"
            )
        texts.append(part["text"])
    return "\n".join(texts)


def _day(value: Any) -> Any:
    if isinstance(value, str) and not _DAY.fullmatch(value):
        raise ValueError("should be a day written as YYYY-MM-DD")
    if not isinstance(value, str | date | None):
        raise ValueError("should be a day written as YYYY-MM-DD")
    return value


Text = Annotated[Plain, BeforeValidator(_text_of)]
Day = Annotated[date | None, BeforeValidator(_day)]


class ChatMessage(BaseModel):
    """A turn. `content` is a string or a list of `{"type": "text", "text": ...}`."""

    model_config = ConfigDict(extra="allow", strict=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: Text = Field("", json_schema_extra={"examples": ["How many days of annual leave do I have?"]})

    @model_validator(mode="after")
    def _refuse_the_rest(self) -> "ChatMessage":
        for name, value in (self.model_extra or {}).items():
            if name not in _MESSAGE_EXTRAS:
                raise refused(name, f"A message has no field {name!r}.", "unknown_parameter")
            if value and name != "name":
                raise refused(name, f"Tandem does not take {name!r} in a message: send its text as content.")
        return self


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool | None = Field(None, description="Send one more chunk with the usage before [DONE].")
    include_obfuscation: bool | None = None  # about the bytes, not about the answer


class TandemOptions(BaseModel):
    """What Tandem adds to a request."""

    model_config = ConfigDict(extra="forbid")
    as_of: Day = Field(None, description="Answer from the documents in force on this day.", examples=["2026-03-01"])
    top_k: int | None = Field(None, strict=True, ge=1, le=50, description="Passages to retrieve.", examples=[6])
    groups: list[str] | None = Field(
        None, max_length=100, description="Answer as for a reader with only these groups; never more than one's own."
    )
    conversation: Plain = Field(
        "",
        max_length=200,
        description="A name for the conversation: while a canary runs, all its answers come from one adapter. Without "
        "one, the asker and the first question of `messages` tell conversations apart.",
        examples=["ticket-4711"],
    )


class ChatRequest(Body):
    """A chat completion. Further OpenAI parameters are accepted at values that do not change the answer."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "model": "tandem",
                    "messages": [{"role": "user", "content": "How many days of annual leave do I have?"}],
                    "stream": False,
                    "tandem": {"as_of": "2026-03-01", "top_k": 6},
                }
            ]
        },
    )
    model: str = Field(strict=True, description="One of tandem, tandem-rag, tandem-style, tandem-base.")
    messages: list[ChatMessage] = Field(description="The conversation; its last message is the user's question.")
    stream: bool | None = Field(None, strict=True, description="Send the answer as server-sent events.")
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(
        None, ge=0, le=2, description="0, the default, is greedy.", strict=True, allow_inf_nan=False
    )
    top_p: float | None = Field(None, gt=0, le=1, strict=True, allow_inf_nan=False)
    max_tokens: int | None = Field(None, strict=True, ge=1)
    max_completion_tokens: int | None = Field(None, strict=True, ge=1)
    stop: str | list[str] | None = Field(None, description="One to four strings that end the answer.")
    seed: int | None = Field(None, strict=True, ge=-(2**63), le=2**63 - 1)
    presence_penalty: float | None = Field(None, ge=-2, le=2, strict=True, allow_inf_nan=False)
    frequency_penalty: float | None = Field(None, ge=-2, le=2, strict=True, allow_inf_nan=False)
    tandem: TandemOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _stop_is_text(cls, data: Any) -> Any:
        if isinstance(data, dict) and (stop := data.get("stop")) is not None:
            stops = stop if isinstance(stop, list) else [stop]
            if len(stops) > 4 or not all(isinstance(item, str) and item for item in stops):
                raise refused("stop", "The parameter 'stop' takes one to four strings, none empty.", "invalid_value")
            return {**data, "stop": stops or None}
        return data

    @model_validator(mode="after")
    def _whole(self) -> "ChatRequest":
        for name, value in (self.model_extra or {}).items():
            if name not in NEUTRAL:
                raise refused(name, f"Tandem does not know the parameter {name!r}: leave it out.", "unknown_parameter")
            if value is not None and not _is_neutral(name, value):
                raise refused(name, f"Tandem does not support {name}={_short(value)}: leave it out.")
        if not self.messages:
            raise refused(
                "messages", "The list 'messages' is empty: send at least the user's question.", "invalid_value"
            )
        last = self.messages[-1]
        if last.role != "user":
            raise refused(
                "messages",
                f"The last message must be the user's question, and it is the {last.role}'s.",
                "invalid_value",
            )
        if not last.content.strip():
            raise refused("messages", "The user's last message is empty: ask something.", "invalid_value")
        if self.stream_options is not None and not self.stream:
            raise refused("stream_options", "The parameter 'stream_options' needs stream=true.", "invalid_value")
        return self

    def ask(self, arm: Arm, principal: Principal, max_tokens: int) -> Ask:
        """The request as the assistant takes it.

        Args:
            arm: The arm that `model` names.
            principal: Who asks.
            max_tokens: The longest answer this server gives; an answer cut there says `finish_reason: "length"`.

        Raises:
            Forbidden: `tandem.groups` names a group that the principal is not in.
        """
        sampling = {
            name: value
            for name in ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty")
            if (value := getattr(self, name)) is not None
        }
        limits = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None]
        if limits:
            sampling["max_tokens"] = min(*limits, max_tokens)
        if self.stop:
            sampling["stop"] = tuple(self.stop)
        options = self.tandem or TandemOptions.model_validate({})
        if options.groups is not None:
            principal = _narrowed(principal, options.groups)
        return Ask(
            messages=tuple(
                Message(role=turn.role, content=turn.content)
                for turn in self.messages
                if turn.role == "user" or turn.role == "assistant"
            ),
            instructions="\n".join(m.content for m in self.messages if m.role in ("system", "developer")).strip(),
            arm=arm,
            principal=principal,
            as_of=options.as_of,
            top_k=options.top_k,
            conversation=options.conversation,
            sampling=Sampling(**sampling),
        )

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)


def _narrowed(principal: Principal, groups: list[str]) -> Principal:
    """The principal with fewer rights, as evaluation asks for readers of every kind."""
    foreign = sorted(set(groups) - principal.groups)
    if foreign and not principal.admin:
        raise Forbidden(f"You are not in the group {foreign[0]!r}: tandem.groups can only leave out groups of yours.")
    return Principal(user=principal.user, groups=frozenset(groups))


def _is_neutral(name: str, value: Any) -> bool:
    allowed = NEUTRAL[name]
    # The types too: in Python True == 1.
    return allowed is None or any(type(value) is type(item) and value == item for item in allowed)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


class Envelope:
    """The fields that all objects of one completion share: id, creation time, model, fingerprint."""

    def __init__(self, model: str) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model

    def fields(self, kind: str) -> dict[str, Any]:
        """The head of an object of the kind `chat.completion` or `chat.completion.chunk`."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"fp_{PROMPT_VERSION}",
        }

    def completion(self, answer: Answer) -> dict[str, Any]:
        """The whole completion."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        return {
            **self.fields("chat.completion"),
            "choices": [choice],
            "usage": usage_object(answer),
            "tandem": answer.receipt(),
        }


def usage_object(answer: Answer) -> dict[str, int]:
    """OpenAI's usage object."""
    usage = answer.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def model_object(name: str, created: int) -> dict[str, Any]:
    """One entry of `GET /v1/models`."""
    return {"id": name, "object": "model", "created": created, "owned_by": "tandem", "arm": MODEL_NAMES[name]}
