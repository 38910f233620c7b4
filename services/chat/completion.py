"""One chat completion on its way to the caller: admitted, streamed or whole, and stopped when the caller goes."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any

from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from services.chat.admission import Admission
from services.chat.metrics import Metrics
from services.chat.openai_schema import Envelope, usage_object
from services.chat.problems import problem, unexpected
from tandem.assistant import Assistant
from tandem.draft import TextDelta
from tandem.errors import TandemError
from tandem.schemas import Answer, Ask

log = logging.getLogger(__name__)

CLIENT_GONE = 499  # nginx's number for it; only metrics see it
_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class CompletionResponse(Response):
    """The response of `POST /v1/chat/completions`.

    All of the work happens while it is sent, so that one `finally` gives back the slot and closes the assistant's
    generator however it ends. Nothing is sent before the first event of the assistant: an error until then becomes an
    HTTP status, one after it an SSE error event.
    """

    def __init__(
        self, assistant: Assistant, ask: Ask, model: str, admission: Admission, metrics: Metrics, *, stream: bool,
        include_usage: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self._assistant = assistant
        self._ask = ask
        self._envelope = Envelope(model)
        self._admission = admission
        self._metrics = metrics
        self._stream = stream
        self._include_usage = include_usage
        self._started = time.perf_counter()
        self._status = 200

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            whole = await _until_gone(receive, self._run(scope, receive, send))
            if not whole:
                self._status = CLIENT_GONE
        except TandemError as exc:
            self._broke_off(exc)
            raise
        except Exception:
            self._status = 500
            raise
        finally:
            self._metrics.ended(self._ask.arm, self._status)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._admission.slot(), aclosing(self._events()) as events:
            if self._stream:
                await self._send_stream(events, send)
            else:
                answer = await self._whole(events)
                await JSONResponse(self._envelope.completion(answer))(scope, receive, send)

    async def _events(self) -> AsyncGenerator[TextDelta | Answer, None]:
        """The assistant's events, timed and counted; an answer whose text never came in pieces gets it as one."""
        streamed = False
        answers = self._assistant.answer(self._ask)
        async with aclosing(answers):  # type: ignore[type-var]
            async for event in answers:
                if isinstance(event, Answer):
                    if event.text and not streamed:
                        self._metrics.first_text(self._ask.arm, time.perf_counter() - self._started)
                        yield TextDelta(text=event.text)
                    self._metrics.answered(event, time.perf_counter() - self._started)
                elif not streamed:
                    streamed = True
                    self._metrics.first_text(self._ask.arm, time.perf_counter() - self._started)
                yield event

    def _broke_off(self, fault: TandemError) -> None:
        self._status = fault.status
        if fault.degraded:
            self._metrics.degraded(fault.degraded)

    async def _whole(self, events: AsyncIterator[TextDelta | Answer]) -> Answer:
        answer = None
        async for event in events:
            if isinstance(event, Answer):
                answer = event
        if answer is None:
            raise RuntimeError("The assistant ended without an answer.")
        return answer

    async def _send_stream(self, events: AsyncIterator[TextDelta | Answer], send: Send) -> None:
        event = await anext(events)  # the first one: errors until here are HTTP errors
        await send({"type": "http.response.start", "status": 200, "headers": _SSE_HEADERS})
        head, tail = self._content_frame()
        await self._emit(send, self._chunk({"role": "assistant", "content": ""}))
        try:
            while True:
                if isinstance(event, Answer):
                    await self._emit(send, self._chunk({}, event.finish_reason, {"tandem": event.receipt()}))
                    if self._include_usage:
                        await self._emit(send, {**self._fields(), "choices": [], "usage": usage_object(event)})
                    break
                text = json.dumps(event.text, ensure_ascii=False).encode()
                await send({"type": "http.response.body", "body": head + text + tail, "more_body": True})
                event = await anext(events)
        except TandemError as exc:
            self._broke_off(exc)
            log.warning("a stream ended early: %s: %s", exc.code, exc.message)
            await self._emit(send, problem(exc))
        except Exception as exc:
            self._status = 500
            await self._emit(send, unexpected(exc))
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    def _content_frame(self) -> tuple[bytes, bytes]:
        """What stands before and after the text in a content chunk; the same for the whole stream, so made once."""
        frame = _sse(self._chunk({"content": "\x00"}))
        head, tail = frame.split(b'"\\u0000"')
        return head, tail

    def _fields(self) -> dict[str, Any]:
        return self._envelope.fields("chat.completion.chunk")

    def _chunk(
        self, delta: dict[str, Any], finish_reason: str | None = None, extra: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        chunk = {**self._fields(), "choices": [choice], **(extra or {})}
        return {**chunk, "usage": None} if self._include_usage else chunk  # as OpenAI does

    @staticmethod
    async def _emit(send: Send, payload: dict[str, Any]) -> None:
        await send({"type": "http.response.body", "body": _sse(payload), "more_body": True})


def _sse(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def _until_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> bool:
    """Runs `work` and cancels it when the client disconnects.

    Returns:
        Whether the work ran to its end.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        await task  # raises what the work raised
        return True
    finally:
        for unfinished in (task, watcher):
            unfinished.cancel()
        # Waits until the generator is closed and the slot is free again.
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
