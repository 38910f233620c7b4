"""Tells an address of the operator's what becomes of training runs. Whatever it does, no run waits for it."""

import contextlib
import hashlib
import hmac
import json
import logging
import queue
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Literal

import httpx

from tandem.schemas import Value
from tandem.settings import TrainingSettings
from training.runs import Run

log = logging.getLogger(__name__)

TIMEOUT = 5.0  # seconds for each step of a request
PAUSES = (1.0, 5.0, 20.0)  # seconds before it is tried again
_KEPT = 100  # notices that may wait for an address that does not answer

Event = Literal["started", "finished", "not_promoted", "failed", "interrupted"]


class Notice(Value):
    """The body of a request.

    Attributes:
        event: `finished` is a run whose adapter answers now, `not_promoted` one whose adapter does not: its gate
            did not let it through, or a person moved the pointer meanwhile.
        reasons: The gate's.
        message: Why it failed, was interrupted, or was not promoted though the gate let it through.
    """

    event: Event
    adapter: str | None
    reasons: tuple[str, ...]
    message: str | None
    run: Run


class Webhook:
    """Sends notices, one after the other, in a thread of its own; without an address it does nothing.

    Args:
        settings: Address, token and key.
        pauses: Seconds before each further try.
        timeout: Seconds for each step of a request.
    """

    def __init__(
        self, settings: TrainingSettings, *, pauses: Sequence[float] = PAUSES, timeout: float = TIMEOUT
    ) -> None:
        self._url = str(settings.webhook) if settings.webhook else None
        self._token = settings.webhook_token
        self._secret = settings.webhook_secret
        self._pauses = pauses
        self._timeout = timeout
        self._waiting: queue.Queue[Notice | None] = queue.Queue(_KEPT)
        self._thread: threading.Thread | None = None

    def tell(self, event: Event, run: Run) -> None:
        """Sends a notice by and by. Returns at once."""
        if self._url is None:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_all, name="webhook", daemon=True)
            self._thread.start()
        notice = Notice(event=event, adapter=run.adapter, reasons=run.reasons, message=run.message, run=run)
        try:
            self._waiting.put_nowait(notice)
        except queue.Full:
            log.warning("the webhook does not keep up: %s of the run %s is not sent", event, run.id)

    def close(self, wait: float = 2.0) -> None:
        """Gives what waits a last chance.

        Args:
            wait: Seconds, after which it is left unsent.
        """
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._waiting.put_nowait(None)
            self._thread.join(wait)
            self._thread = None

    def _send_all(self) -> None:
        with httpx.Client(timeout=self._timeout, follow_redirects=False) as client:
            while (notice := self._waiting.get()) is not None:
                try:
                    self._send(client, notice)
                except Exception:  # nothing that an address does may end the thread
                    log.exception("the webhook failed")

    def _send(self, client: httpx.Client, notice: Notice) -> None:
        body = json.dumps(notice.model_dump(mode="json"), ensure_ascii=False).encode()
        headers = {"Content-Type": "application/json", "X-Tandem-Delivery": str(uuid.uuid4())}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        if self._secret is not None:
            digest = hmac.new(self._secret.get_secret_value().encode(), body, hashlib.sha256).hexdigest()
            headers["X-Tandem-Signature"] = f"sha256={digest}"
        for pause in (*self._pauses, None):
            problem, again = self._post(client, body, headers)
            if problem is None:
                return
            if not again or pause is None:
                log.warning("the webhook was not told that a run %s: %s", notice.event, problem)
                return
            time.sleep(pause)

    def _post(self, client: httpx.Client, body: bytes, headers: dict[str, str]) -> tuple[str | None, bool]:
        """What went wrong, and whether to try again."""
        assert self._url is not None
        try:
            with client.stream("POST", self._url, content=body, headers=headers) as response:  # its body is not read
                status = response.status_code
        except httpx.HTTPError as exc:
            return f"{type(exc).__name__} {exc}".strip(), True
        return (None, False) if status < 300 else (f"it answered with status {status}", status >= 500 or status == 429)
