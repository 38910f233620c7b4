"""`tandem demo`: a document changes, the answers change with it, the voice stays.

It starts `tandem up` as anyone would and speaks to it with the official `openai` client. Every line it prints was
measured in this run, and it ends with a non-zero status if something did not hold.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from openai import OpenAI
from rich.table import Table

from eval.metrics import is_right
from eval.suite import Case
from services.cli.options import err, out
from services.cli.server import Server
from tandem.declines import is_decline
from tandem.errors import TandemError, Unavailable
from tandem.schemas import MODEL_NAMES
from tandem.settings import REPOSITORY

SAMPLES = REPOSITORY / "samples"
DATA_DIR = Path(".tandem") / "demo"
ANSWER_CHARS = 220  # the bare model goes on and on
START_TIMEOUT = 420.0  # seconds, the first preparation of both models included


@dataclass(frozen=True)
class Reply:
    """One answer of one arm."""

    model: str
    text: str
    tandem: dict[str, Any]
    first_token: float
    total: float


def run_demo(*, keep: bool) -> int:
    """Runs the demo.

    Returns:
        0 when every check held, else 1.
    """
    started = time.perf_counter()
    questions = yaml.safe_load((SAMPLES / "demo.yaml").read_text())
    shutil.rmtree(DATA_DIR, ignore_errors=True)
    checks: list[tuple[str, bool]] = []
    with _server() as server:
        adapter = _adapter_name(server)
        out.print(f"\n[bold]1. The corpus as it was[/bold] (adapter: {adapter})")
        first = _ingest(server, "v1")
        checks.append(("the first version was ingested whole", bool(first["added"]) and not first["failed"]))
        checks += _ask_all(server, questions, "v1")
        out.print("\n[bold]2. Its owners replace some documents[/bold]")
        second = _ingest(server, "v2")
        _show_changes(second)
        checks.append(("documents were added, updated, left alone and deleted", _all_four(second)))
        checks.append(("more chunks were reused than embedded", second["chunks_reused"] > second["chunks_embedded"]))
        out.print("\n[bold]3. The same questions again[/bold]")
        checks += _ask_all(server, questions, "v2")
    if not keep:
        shutil.rmtree(DATA_DIR, ignore_errors=True)
    return _verdict(checks, time.perf_counter() - started)


@contextlib.contextmanager
def _server() -> Iterator[Server]:
    """`tandem up` on a free port, ended with everything it started."""
    port = _free_port()
    DATA_DIR.mkdir(parents=True, exist_ok=True)
    log = DATA_DIR / "demo.log"
    command = [sys.executable, "-m", "services.cli.main", "up", "--data-dir", str(DATA_DIR), "--port", str(port)]
    err.print("Preparing the models and starting vLLM on the CPU ...", style="dim")
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=os.environ.copy())
    server = Server(f"http://127.0.0.1:{port}")
    try:
        _wait(process, log)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Waits for the line that says the model has answered, and passes on what comes before it."""
    deadline = time.monotonic() + START_TIMEOUT
    shown = 0
    while time.monotonic() < deadline:
        lines = log.read_text(errors="replace").splitlines()
        if any(line.startswith("Tandem is ready") for line in lines):
            return
        for line in lines[shown:]:
            err.print(f"  {line}", style="dim", markup=False)
        shown = len(lines)
        if process.poll() is not None:
            raise TandemError(f"`tandem up` ended with status {process.returncode}; its output stands above.")
        time.sleep(0.3)
    raise Unavailable(f"The server was not ready within {START_TIMEOUT:.0f} s. Its log: {log}")


def _ingest(server: Server, version: str) -> dict[str, Any]:
    run = server.post("/v1/ingest/runs", {"paths": [str(SAMPLES / "corpus" / version)], "wait": True})
    report: dict[str, Any] = run["report"]
    counts = ", ".join(f"{len(report[kind])} {kind}" for kind in ("added", "updated", "unchanged", "deleted", "failed"))
    out.print(
        f"samples/corpus/{version}: {counts}; chunks embedded {report['chunks_embedded']}, "
        f"reused {report['chunks_reused']}; {report['seconds']:.1f} s"
    )
    return report


def _show_changes(report: dict[str, Any]) -> None:
    for kind in ("added", "updated", "deleted"):
        out.print(f"  {kind}: {', '.join(report[kind]) or 'none'}", markup=False)


def _all_four(report: dict[str, Any]) -> bool:
    return all(report[kind] for kind in ("added", "updated", "unchanged", "deleted"))


def _ask_all(server: Server, questions: list[dict[str, Any]], version: str) -> list[tuple[str, bool]]:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    checks: list[tuple[str, bool]] = []
    for number, row in enumerate(questions, start=1):
        case = Case(id=f"demo-{number}", question=row["question"], **row[version])
        with ThreadPoolExecutor(len(MODEL_NAMES)) as pool:  # the four arms at once: vLLM runs them as one batch
            replies = list(pool.map(partial(_ask, client, case.question), MODEL_NAMES))
        _show_replies(number, case, replies)
        tandem = replies[0]
        label = f"{version} question {number}"
        checks.append((f"{label}: the answer is right", _right(case, tandem)))
        if case.answerable:
            checks.append((f"{label}: it cites its source", bool(tandem.tandem["citations"])))
        checks.append((f"{label}: nothing was degraded", all(reply.tandem["degraded"] is None for reply in replies)))
    return checks


def _ask(client: OpenAI, question: str, model: str) -> Reply:
    started = time.perf_counter()
    first = 0.0
    text = ""
    receipt: dict[str, Any] = {}
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], stream=True, max_tokens=72
    )
    for chunk in stream:
        piece = chunk.choices[0].delta.content if chunk.choices else None
        if piece and not first:
            first = time.perf_counter() - started
        text += piece or ""
        receipt = (chunk.model_extra or {}).get("tandem") or receipt
    return Reply(model, text, receipt, first, time.perf_counter() - started)


def _right(case: Case, reply: Reply) -> bool:
    return is_right(case, reply.text, declined=is_decline(reply.text))


def _show_replies(number: int, case: Case, replies: list[Reply]) -> None:
    table = Table(
        "arm", "answer", "", "sources", "first / total", title=f"{number}. {case.question}", title_justify="left"
    )
    for reply in replies:
        cited = ", ".join(f"[{c['n']}] {c['document_id']}" for c in reply.tandem["citations"])
        mark = "[green]right[/green]" if _right(case, reply) else "[red]wrong[/red]"
        adapter = "\n[dim]+ adapter[/dim]" if reply.tandem["adapter"] else ""
        table.add_row(
            f"{reply.model}{adapter}",
            _plain(reply.text),
            mark,
            _plain(cited),
            f"{reply.first_token:.1f} / {reply.total:.1f} s",
        )
    out.print(table)


def _short(text: str) -> str:
    text = text.replace("\n\n", "\n")
    return text if len(text) <= ANSWER_CHARS else text[:ANSWER_CHARS].rsplit(" ", 1)[0] + " ..."


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def _adapter_name(server: Server) -> str:
    active = [row["served"] for row in server.get("/v1/adapters")["data"] if row["active"]]
    return active[0] if active else "none"


def _verdict(checks: list[tuple[str, bool]], seconds: float) -> int:
    failed = [label for label, held in checks if not held]
    for label in failed:
        out.print(f"[red]did not hold:[/red] {label}")
    out.print(f"\n{len(checks) - len(failed)} of {len(checks)} checks held, in {seconds:.0f} s.")
    return 1 if failed else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
