"""`tandem up` as a process of its own, in front of the session's one vLLM."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tandem.settings import REPOSITORY


@dataclass(frozen=True)
class Up:
    """A running Tandem."""

    url: str
    data_dir: Path
    process: "subprocess.Popen[str]"

    def cli(self, *arguments: str, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
        """Runs `tandem ...` against it."""
        command = [sys.executable, "-m", "services.cli.main", *arguments, "--data-dir", str(self.data_dir)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=REPOSITORY, check=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def up(model_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Tandem over the sample corpus, first version."""
    data_dir = tmp_path_factory.mktemp("up") / "data"
    port = free_port()
    env = os.environ | {"TANDEM_MODEL__URL": model_server.url}
    command = [sys.executable, "-m", "services.cli.main", "up", "--data-dir", str(data_dir), "--port", str(port)]
    log = (data_dir.parent / "up.log").open("w+")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env, cwd=REPOSITORY, text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process, Path(log.name))
        running = Up(url, data_dir, process)
        ingested = running.cli("ingest", str(REPOSITORY / "samples/corpus/v1"), "--json")
        assert ingested.returncode == 0, ingested.stderr
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        log.close()


def wait_until_ready(url: str, process: "subprocess.Popen[str]", log: Path, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"not ready in {timeout} s: {log.read_text()}")
