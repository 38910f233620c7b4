"""What every request passes first: address, authority, size. Pure ASGI, so that streams pass through untouched."""

import logging

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.chat.auth import Authenticator, LocalOnly
from services.chat.metrics import Metrics
from services.chat.problems import BodyTooLarge, error_body, problem_response, unexpected
from tandem.errors import TandemError

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json"})
UPLOAD_PATH = "/v1/documents"
UPLOAD_OVERHEAD = 65_536  # multipart boundaries and the metadata fields

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    # Scripts and styles come from here, as files; the page loads nothing from anywhere else.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


class Gate:
    """ASGI middleware around the whole app.

    Checks Host and Origin in single-user mode, turns the key into a principal before the body is read, holds the body
    to its limit, adds the security headers, and turns an unexpected exception into a 500 without a trace.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticator: Authenticator,
        local: LocalOnly | None,
        metrics: Metrics,
        max_body: int,
        max_upload: int,
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._local = local
        self._metrics = metrics
        self._max_body = max_body
        self._max_upload = max_upload + UPLOAD_OVERHEAD

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def guarded_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._dress(scope, message)
                self._metrics.responded(message["status"])
            await send(message)

        try:
            limit = self._admit(scope)
            await self._app(scope, _limited(receive, limit), guarded_send)
        except TandemError as exc:
            await problem_response(exc)(scope, receive, guarded_send)
        except BodyTooLarge as exc:
            await JSONResponse(error_body(413, exc.detail, code="body_too_large"), 413)(scope, receive, guarded_send)
        except Exception as exc:
            body = unexpected(exc)
            if started:  # nothing can be said any more; the server closes the connection
                raise
            await JSONResponse(body, 500)(scope, receive, guarded_send)

    def _admit(self, scope: Scope) -> int:
        """Raises unless the request may go on; returns how many bytes its body may have."""
        headers, path = Headers(scope=scope), scope["path"]
        if self._local is not None and path not in ("/healthz", "/readyz"):  # probes come by any name
            self._local.check(
                scope["method"], headers.get("host", ""), headers.get("origin"), headers.get("sec-fetch-site")
            )
        if path.startswith("/v1/") and path not in OPEN_PATHS:
            principal = self._authenticator.principal(headers.get("authorization"))
            scope.setdefault("state", {})["principal"] = principal
        limit = self._max_upload if path.rstrip("/") == UPLOAD_PATH else self._max_body
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length) > limit:
            raise BodyTooLarge(limit)
        return limit

    def _dress(self, scope: Scope, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in SECURITY_HEADERS.items():
            headers.setdefault(name, value)
        if scope["path"].startswith("/v1/"):
            headers.setdefault("Cache-Control", "no-store")


def _limited(receive: Receive, limit: int) -> Receive:
    """`receive` that stops a body which is longer than its Content-Length said, or said nothing."""
    seen = 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                raise BodyTooLarge(limit)
        return message

    return limited
