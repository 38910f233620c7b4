"""Every error as the caller sees it: OpenAI's error object, from one table."""

import logging
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from tandem.errors import InputError, TandemError

log = logging.getLogger(__name__)

# The status comes with the error (tandem/errors.py); OpenAI's clients look at the type as well.
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


class ErrorDetail(BaseModel):
    """What went wrong, in one sentence, and which parameter is at fault."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """OpenAI's error shape."""

    error: ErrorDetail


class BodyTooLarge(HTTPException):
    """The request body is over the limit. An HTTPException: FastAPI makes any other error of a body a 400."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"The request body is larger than the {limit:,} bytes that this server accepts.")


def error_body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object as a dictionary."""
    message = message.encode("utf-8", "backslashreplace").decode()  # it may quote what no UTF-8 can carry
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code)).model_dump()


def problem(exc: TandemError) -> dict[str, Any]:
    """The error object of a deliberate error."""
    param = exc.param if isinstance(exc, InputError) else None
    return error_body(exc.status, exc.message, param=param, code=exc.code)


def unexpected(exc: BaseException) -> dict[str, Any]:
    """The error object of a bug: an id to find the trace by in the log, and nothing about its inside."""
    error_id = uuid.uuid4().hex[:12]
    log.error("unexpected error %s", error_id, exc_info=exc)
    return error_body(500, f"Tandem failed unexpectedly; its log has the details under {error_id}.", code=error_id)


def problem_response(exc: TandemError) -> JSONResponse:
    """The response for a deliberate error, with Retry-After and WWW-Authenticate where they belong."""
    headers = {}
    retry_after = getattr(exc, "retry_after", None)
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    if exc.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(problem(exc), exc.status, headers)


def describe(errors: Sequence[Any]) -> tuple[str, str | None, str]:
    """Turns pydantic's errors into one sentence.

    Args:
        errors: What `ValidationError.errors()` gives; the first is told.

    Returns:
        The sentence, the parameter at fault in the form `messages[0].content`, and a code.
    """
    first = errors[0]
    kind, value = str(first["type"]), first.get("input")
    if kind == "json_invalid":
        reason = first.get("ctx", {}).get("error", "it ends too early")
        return f"The request body is not JSON: {reason} (at character {first['loc'][-1]}).", None, "invalid_json"
    param = _parameter(first["loc"])
    if kind == "refused_parameter":
        context = first.get("ctx", {})
        return first["msg"], ".".join(filter(None, (param, context.get("param")))), str(context.get("code", kind))
    if kind == "missing":
        if param is None:
            return "The request has no body: send a JSON object.", None, "missing_body"
        return f"The request lacks {param!r}.", param, "missing_parameter"
    if param is None:
        return (
            "The request body is not a JSON object: send one, with the header Content-Type: application/json.",
            None,
            "invalid_json",
        )
    if kind == "extra_forbidden":
        return f"There is no parameter {param!r}.", param, "unknown_parameter"
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    reason = str(first["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return f"The parameter {param!r} is wrong: it {reason} (it is {shown}).", param, "invalid_value"


def _parameter(loc: Sequence[Any]) -> str | None:
    parts = list(loc)
    if parts and parts[0] in ("body", "query", "path", "header"):
        parts = parts[1:]
    name = ""
    for part in parts:
        name += f"[{part}]" if isinstance(part, int) else f".{part}"
    return name.removeprefix(".") or None


def install(app: FastAPI) -> None:
    """Registers the handlers; unexpected exceptions are the gate's (see gate.py)."""

    @app.exception_handler(TandemError)
    async def _deliberate(_: Request, exc: TandemError) -> JSONResponse:
        if exc.status >= 500:
            log.warning("%s: %s", exc.code, exc.message)
        return problem_response(exc)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, exc: RequestValidationError) -> JSONResponse:
        message, param, code = describe(exc.errors())
        return JSONResponse(error_body(400, message, param=param, code=code), 400)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, exc: HTTPException) -> JSONResponse:
        message = str(exc.detail)
        if exc.status_code == 404:
            message = f"There is nothing at {request.url.path!r}; /openapi.json lists what there is."
        elif exc.status_code == 405:
            message = f"{request.method} is not possible at {request.url.path!r}; /openapi.json lists what is."
        elif exc.status_code == 400 and message == "There was an error parsing the body":
            message = "The request body cannot be read: send a JSON object in UTF-8."
        code = "body_too_large" if exc.status_code == 413 else None
        return JSONResponse(error_body(exc.status_code, message, code=code), exc.status_code, exc.headers)
