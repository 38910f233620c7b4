"""`tandem up` as a process on a small disk: a second ingest beside it, and what it answers when the disk is full."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from ingest.lock import exclusive
from tandem.settings import REPOSITORY
from tests.e2e.conftest import free_port, wait_until_ready
from tests.integration.test_faults import fill

LEAVE = "---\ngroups: [everyone]\n---\n# Leave\n\nEverybody has 27 days of leave a year.\n"


@dataclass(frozen=True)
class Served:
    """A running Tandem without a model, and the disk that it is on."""

    url: str
    data_dir: Path
    environment: dict[str, str]

    def tandem(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "services.cli.main", *arguments]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)

    def upload(self, name: str, text: str) -> httpx.Response:
        return httpx.post(f"{self.url}/v1/documents", files={"file": (name, text.encode())}, timeout=60)

    def documents(self) -> list[str]:
        return sorted(row["id"] for row in httpx.get(f"{self.url}/v1/documents", timeout=30).json()["data"])

    def ask(self, question: str) -> httpx.Response:
        body = {"model": "tandem", "messages": [{"role": "user", "content": question}]}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, embedder_dir: Path) -> Iterator[Served]:
    data_dir = tmp_path_factory.mktemp("served") / "disk"
    data_dir.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs", data_dir], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    port = free_port()
    ours = {name: value for name, value in os.environ.items() if not name.startswith("TANDEM_")}
    ours |= {"PYTHONPATH": str(REPOSITORY), "TANDEM_DATA_DIR": str(data_dir), "TANDEM_INGEST__LOCK_TIMEOUT": "1"}
    ours |= {"TANDEM_URL": "http://127.0.0.1:1"}
    command = [sys.executable, "-m", "services.cli.main", "up", "--no-model", "--port", str(port)]
    with (data_dir.parent / "up.log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=ours, cwd=REPOSITORY, text=True)
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", process, Path(log.name))
            yield Served(f"http://127.0.0.1:{port}", data_dir, ours)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)
            subprocess.run(["umount", "-l", data_dir], check=True)


def test_a_command_beside_a_running_server_goes_through_it(served: Served, tmp_path: Path) -> None:
    (tmp_path / "pay.md").write_text(LEAVE.replace("leave", "pay"))
    done = served.tandem("ingest", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    assert "pay.md" in served.documents()


def test_a_command_that_cannot_find_the_server_says_who_holds_the_folder(served: Served, tmp_path: Path) -> None:
    (tmp_path / "sick.md").write_text(LEAVE)
    address = served.data_dir / "server.json"
    hidden = address.rename(served.data_dir / "hidden.json")
    try:
        refused = served.tandem("ingest", str(tmp_path))
    finally:
        hidden.rename(address)
    assert refused.returncode == 1, refused.stderr
    assert "is held by another process: is a Tandem server running on it?" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "sick.md" not in served.documents()


def test_an_upload_beside_another_ingest_says_so(served: Served) -> None:
    with exclusive(served.data_dir, 0, work="run 1a2b3c4d"):
        refused = served.upload("sick.md", LEAVE)
    assert refused.status_code == 429
    assert "Retry-After" in refused.headers
    told = refused.json()["error"]["message"]
    assert f"run 1a2b3c4d, process {os.getpid()} on {socket.gethostname()}" in told
    assert served.upload("sick.md", LEAVE).status_code in (200, 201)


def test_a_full_disk_is_told_and_the_old_documents_answer(served: Served) -> None:
    assert served.upload("leave.md", LEAVE).status_code in (200, 201)
    filler = fill(served.data_dir, 0)
    try:
        failed = served.upload("leave.md", LEAVE.replace("27", "30"))
        assert failed.status_code == 503, failed.text
        assert "full" in failed.json()["error"]["message"]
        assert "Retry-After" in failed.headers
        assert "leave.md" in served.documents()
        text = httpx.get(f"{served.url}/v1/documents/leave.md", timeout=30).json()["text"]
        assert "27 days" in text
    finally:
        filler.unlink()
    assert "27 days" in served.ask("How many days of leave are there?").text
    assert served.upload("leave.md", LEAVE.replace("27", "30")).status_code in (200, 201)
    assert "30 days" in served.ask("How many days of leave are there?").text
