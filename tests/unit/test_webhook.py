"""The webhook, against a real HTTP server that answers, fails, hangs or leads elsewhere."""

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from services.trainer.webhook import Webhook
from tandem.errors import SettingsError
from tandem.settings import TrainingSettings, load_settings
from training.runs import Run

RUN = Run(
    id="run-1",
    state="done",
    cause="schedule",
    name="house-style",
    adapter="house-style@abc",
    promoted=False,
    reasons=("It cites less.",),
    started_at=datetime(2026, 3, 1, tzinfo=UTC),
)


class Receiver(ThreadingHTTPServer):
    """Answers with the statuses it is given, the last one again and again; 0 hangs."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = [200]
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"

    def wait(self, count: int) -> None:
        deadline = time.monotonic() + 5
        while len(self.got) < count:
            assert time.monotonic() < deadline, f"{len(self.got)} of {count} came"
            time.sleep(0.01)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((dict(self.headers), body))
        status = self.server.statuses.pop(0) if len(self.server.statuses) > 1 else self.server.statuses[0]
        if status == 0:
            self.server.over.wait(20)
            return
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.server.url + "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def webhook(receiver: Receiver, **settings: Any) -> Webhook:
    chosen = TrainingSettings.model_validate({"webhook": receiver.url, **settings})
    return Webhook(chosen, pauses=(0.02, 0.02), timeout=0.3)


def test_a_notice_says_what_became_of_the_run_and_is_signed(receiver: Receiver):
    hook = webhook(receiver, webhook_token="letmein", webhook_secret="key")
    hook.tell("not_promoted", RUN)
    hook.close()
    ((headers, body),) = receiver.got
    notice = json.loads(body)
    assert (notice["event"], notice["adapter"], notice["reasons"]) == (
        "not_promoted",
        "house-style@abc",
        ["It cites less."],
    )
    assert (notice["run"]["id"], notice["run"]["state"], "examples" in notice["run"]) == ("run-1", "done", False)
    assert headers["Authorization"] == "Bearer letmein"
    assert headers["X-Tandem-Signature"] == f"sha256={hmac.new(b'key', body, hashlib.sha256).hexdigest()}"
    assert headers["Content-Type"] == "application/json"


def test_one_that_fails_is_tried_again_and_the_next_notice_still_comes(receiver: Receiver):
    receiver.statuses = [500, 503, 200]
    hook = webhook(receiver)
    hook.tell("started", RUN)
    hook.tell("finished", RUN)
    receiver.wait(4)
    hook.close()
    assert [json.loads(body)["event"] for _, body in receiver.got] == ["started"] * 3 + ["finished"]
    assert len({headers["X-Tandem-Delivery"] for headers, _ in receiver.got}) == 2


def test_one_that_is_refused_is_not_tried_again_and_no_redirect_is_followed(receiver: Receiver):
    receiver.statuses = [400, 302, 200]
    hook = webhook(receiver, webhook_token="letmein")
    for event in ("started", "failed", "finished"):
        hook.tell(event, RUN)
    receiver.wait(3)
    hook.close()
    assert [json.loads(body)["event"] for _, body in receiver.got] == ["started", "failed", "finished"]


def test_one_that_hangs_holds_nobody_up(receiver: Receiver):
    receiver.statuses = [0]
    hook = webhook(receiver)
    started = time.monotonic()
    for _ in range(300):  # more than are kept
        hook.tell("finished", RUN)
    assert time.monotonic() - started < 3
    receiver.wait(3)  # tried, and tried again
    closing = time.monotonic()
    hook.close(wait=0.1)
    assert time.monotonic() - closing < 3


def test_nobody_there(receiver: Receiver, caplog: pytest.LogCaptureFixture):
    chosen = TrainingSettings.model_validate({"webhook": "http://127.0.0.1:9/"})
    hook = Webhook(chosen, pauses=(0.0,), timeout=0.3)
    hook.tell("finished", RUN)
    hook.close(wait=5)
    assert "was not told that a run finished: ConnectError" in caplog.text


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/", "javascript:alert(1)", "127.0.0.1:80"])
def test_only_http_addresses(url: str):
    with pytest.raises(SettingsError, match="TANDEM_TRAINING__WEBHOOK"):
        load_settings(training={"webhook": url})
