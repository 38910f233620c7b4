"""`python -m services.ingest` as a process: it catches up, follows changes, says how it went, and ends on a signal."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tandem.settings import REPOSITORY

PATIENCE = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(tmp_path: Path, port: int, watched: Path | None) -> dict[str, str]:
    keep = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    cache = {name: value for name, value in os.environ.items() if name == "TANDEM_CACHE_DIR"}
    ours = {"TANDEM_DATA_DIR": str(tmp_path / "data"), "TANDEM_SERVER__PORT": str(port)}
    if watched is not None:
        ours["TANDEM_INGEST__WATCH"] = json.dumps([str(watched)])
    return keep | cache | ours | {"PYTHONPATH": str(REPOSITORY)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "_folder.yaml").write_text("groups: [everyone]\n")
    (folder / "leave.md").write_text("# Leave\n\nEverybody has 27 days of leave a year.\n")
    return folder


@pytest.fixture
def service(tmp_path: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "services.ingest"],
        env=environment(tmp_path, port, folder),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process, port
    process.kill()  # nothing, if the test has ended it
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


def health_when(service: tuple[subprocess.Popen[str], int], key: str, number: int) -> dict[str, Any]:
    """Polls /healthz until the last run counts `number` under `key`."""
    process, port = service
    deadline = time.monotonic() + PATIENCE
    last: object = None
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as response:
                last = json.load(response)
        except OSError as exc:
            last = exc
        if isinstance(last, dict) and last["last_run"] and last["last_run"][key] == number:
            return last
        time.sleep(0.1)
    raise AssertionError(f"no run with {key}={number} within {PATIENCE:g} s; the last was {last}")


def test_it_catches_up_follows_changes_and_ends_on_a_signal(
    service: tuple[subprocess.Popen[str], int], folder: Path
) -> None:
    process, _ = service
    health = health_when(service, "added", 1)
    assert health["service"] == "tandem-ingest"
    assert health["watching"] == [str(folder)]

    (folder / "leave.md").write_text("# Leave\n\nEverybody has 30 days of leave a year.\n")
    assert health_when(service, "updated", 1)["last_run"]["added"] == 0
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing more")
    assert health_when(service, "failed", 1)["last_run"]["unchanged"] == 1

    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, log
    assert "broken.pdf was refused" in log
    assert "Traceback" not in log


@pytest.mark.parametrize(
    ("watched", "sentence"),
    [
        (None, "has no folder to watch"),
        (Path("/nowhere/at/all"), "'/nowhere/at/all' (TANDEM_INGEST__WATCH) does not exist"),
    ],
)
def test_it_says_what_it_lacks(tmp_path: Path, watched: Path | None, sentence: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.ingest"],
        env=environment(tmp_path, free_port(), watched),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_told(tmp_path: Path, folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "services.ingest"],
            env=environment(tmp_path, port, folder),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
