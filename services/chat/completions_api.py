"""`/v1/chat/completions` and `/v1/models`: what the official `openai` client speaks to."""

import time
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from services.chat.admission import Admission
from services.chat.auth import CurrentUser
from services.chat.completion import CompletionResponse
from services.chat.metrics import Metrics
from services.chat.openai_schema import ChatRequest, model_object
from services.chat.problems import ErrorBody
from tandem.assistant import Assistant
from tandem.errors import InputError
from tandem.schemas import MODEL_NAMES

_EXAMPLE = {
    "id": "chatcmpl-5d1c",
    "object": "chat.completion",
    "created": 1770000000,
    "model": "tandem",
    "system_fingerprint": "fp_2f6c1d0e9a3b",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "You have 28 days of annual leave. [1]", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 210, "completion_tokens": 12, "total_tokens": 222},
    "tandem": {
        "arm": "tandem",
        "adapter": "house-style@0f3a9c1b2d4e",
        "answer_id": "ans_7b1f",
        "as_of": "2026-03-01",
        "degraded": None,
        "citations": [],
        "passages": [],
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody, "description": text}
    for code, text in {
        400: "The request is wrong; `param` names where",
        401: "The API key is missing or wrong",
        404: "No such model",
        413: "The body is too large",
        429: "Too many requests; see Retry-After",
        503: "A part that is needed does not answer; see Retry-After",
    }.items()
}


class ModelNotFound(InputError):
    """OpenAI's code and status for a model that does not exist."""

    code = "model_not_found"
    status = 404


def completions_router(assistant: Assistant, admission: Admission, metrics: Metrics, *, max_tokens: int) -> APIRouter:
    """The routes of OpenAI's API.

    Args:
        assistant: What answers.
        admission: How many at once.
        metrics: Where requests are counted.
        max_tokens: The longest answer that a request may ask for.
    """
    router = APIRouter(prefix="/v1", tags=["openai"])
    started = int(time.time())

    @router.post(
        "/chat/completions",
        response_class=Response,
        responses={
            200: {
                "description": "A completion, or with stream=true a stream of chunks that ends in `data: [DONE]`",
                "content": {
                    "application/json": {"example": _EXAMPLE},
                    "text/event-stream": {"schema": {"type": "string"}},
                },
            },
            **_ERRORS,
        },
    )
    async def complete(body: ChatRequest, principal: CurrentUser) -> Response:
        """Answers the last message from the documents in force, in the arm that `model` names."""
        arm = MODEL_NAMES.get(body.model)
        if arm is None:
            raise ModelNotFound(_unknown_model(body.model), param="model")
        return CompletionResponse(
            assistant,
            body.ask(arm, principal, max_tokens),
            body.model,
            admission,
            metrics,
            stream=bool(body.stream),
            include_usage=body.include_usage,
        )

    @router.get("/models")
    async def models(_: CurrentUser) -> dict[str, Any]:
        """The four arms."""
        return {"object": "list", "data": [model_object(name, started) for name in MODEL_NAMES]}

    @router.get("/models/{model}", responses={404: _ERRORS[404]})
    async def model(model: str, _: CurrentUser) -> dict[str, Any]:
        """One arm."""
        if model not in MODEL_NAMES:
            raise ModelNotFound(_unknown_model(model), param="model")
        return model_object(model, started)

    return router


def _unknown_model(name: str) -> str:
    shown = name if len(name) <= 60 else f"{name[:57]}..."
    return f"The model {shown!r} does not exist; there are {', '.join(MODEL_NAMES)}."
