"""The trainer service killed in the middle of a scheduled run: real processes, real steps on a tiny model."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tandem.database import Database
from tandem.registry import Registry
from tandem.settings import REPOSITORY, Settings, load_settings
from tandem.tables import StyleCandidateRow, TrainingRunRow
from tests.adapter_files import add_adapter
from tests.crash.scene import postgres_answers
from tests.integration.test_training import TRAINING
from tests.unit.conftest import postgres_url
from tests.unit.test_database import NOW
from tests.unit.test_webhook import Receiver, receiver  # noqa: F401
from training.examples import load_examples
from training.runs import Run, TrainingRuns
from training.schedule import Schedule

PATIENCE = 150.0


class House:
    """A data directory, and the trainer service on it."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database
        self.runs = TrainingRuns(database)

    def environment(self, **more: str) -> dict[str, str]:
        """The settings, as a process is given them."""
        training = self.settings.training
        return {
            **os.environ,
            "TANDEM_DATA_DIR": str(self.settings.data_dir),
            "TANDEM_DATABASE_URL": self.database.engine.url.render_as_string(hide_password=False),
            "TANDEM_MODEL__PATH": str(self.settings.model.path),
            "TANDEM_TRAINING__MIN_NEW_EXAMPLES": "1",
            "PYTHONPATH": str(REPOSITORY),
            **{f"TANDEM_TRAINING__{name.upper()}": str(getattr(training, name)) for name in TRAINING if name != "gate"},
            "TANDEM_TRAINING__GATE": training.gate.model_dump_json(),
            "TANDEM_TRAINING__EXAMPLES": str(training.examples),
            **more,
        }

    @contextmanager
    def service(self) -> "Iterator[subprocess.Popen[str]]":
        """`python -m services.trainer`, as docker-compose starts it."""
        log = (self.settings.data_dir.parent / "trainer.log").open("a+")
        command = [sys.executable, "-m", "services.trainer"]
        process = subprocess.Popen(command, env=self.environment(), cwd=REPOSITORY, stderr=log, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            log.close()

    def until(self, seen: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := seen()):
            log = (self.settings.data_dir.parent / "trainer.log").read_text()[-3000:]
            assert time.monotonic() < deadline, f"{what} did not come.\n{log}"
            time.sleep(0.1)
        return found

    def steps(self) -> list[float]:
        return [line.data["step"] for run in self.runs.latest(9) for line in self.runs.events(run.id) if line.data]

    def run(self) -> Run:
        (run,) = self.runs.latest(9)
        return run


def children(pid: int) -> list[int]:
    """Processes that one has started, by /proc."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            parent = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()[1]
        except OSError:  # it ended just now
            continue
        found += [int(name)] if int(parent) == pid else []
    return found


def descendants(pid: int) -> list[int]:
    """Those, and what they have started."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def alive(pids: list[int]) -> list[int]:
    def state(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
        except OSError:
            return "gone"

    return [pid for pid in pids if state(pid) not in ("gone", "Z")]


@pytest.fixture
def house(tiny: Path, tmp_path: Path) -> Iterator[House]:
    urls = postgres_url() if postgres_answers() else iter([f"sqlite:///{tmp_path / 'tandem.db'}"])
    few = tmp_path / "examples.jsonl"
    shipped = load_settings().training.examples.read_text(encoding="utf-8").splitlines(keepends=True)
    few.write_text("".join(shipped[::15]), encoding="utf-8")
    # Some fifty steps; a checkpoint after forty.
    training = TRAINING | {"passes": 0.17, "batch_size": 2, "examples": few}
    for url in urls:
        settings = load_settings(data_dir=tmp_path / "data", model={"path": tiny}, training=training)
        with closing(Database(url)) as database:
            database.migrate()
            yield House(settings, database)


def promote_another(settings: Settings, folder: Path) -> str:
    registry = Registry(settings.registry)
    ref = add_adapter(registry, folder)
    registry.promote(ref, "ada")
    return ref.served


def test_killed_in_the_middle_of_a_scheduled_run(house: House, tmp_path: Path):
    active = promote_another(house.settings, tmp_path / "another")
    Schedule(house.settings, house.database).due(datetime.now(UTC) - timedelta(days=15))  # so it is due at once
    pointer = Registry(house.settings.registry)

    with house.service() as service:
        house.until(lambda: house.steps(), "the first step")
        (leash,) = children(service.pid)
        (training,) = children(leash)
        os.kill(training, signal.SIGKILL)
        house.until(lambda: house.run().attempt == 2, "the second attempt")  # by itself, at its next look
        house.until(lambda: house.steps()[-1] >= 45 and house.run().state == "running", "the checkpoint")
        below = descendants(service.pid)
        assert len(below) >= 2
        service.kill()
        service.wait()
        house.until(lambda: not alive(below), "the end of what the service had started")

    killed = house.run()
    assert (killed.state, killed.cause, killed.attempt) == (
        "running",
        "schedule",
        2,
    )  # nobody was left to say otherwise
    before = len(house.steps())
    current = pointer.active("house-style")
    assert current is not None
    assert current.served == active

    with house.service() as service:
        house.until(lambda: house.run().state == "done", "the end of the run")
        below = descendants(service.pid)
        service.send_signal(signal.SIGTERM)
        assert service.wait(20) == 0
        assert not alive(below)

    done = house.run()  # the only one
    assert (done.id, done.attempt, done.promoted) == (killed.id, 3, False)  # random weights say nothing right
    assert house.steps()[before] > 40  # it went on from the checkpoint
    assert {ref.served for ref in pointer.list()} == {active, done.adapter}
    current = pointer.active("house-style")
    assert current is not None
    assert current.served == active
    left = sorted(path.name for path in house.settings.runs_dir.iterdir())
    assert left == [".lock", "alive", "refused.jsonl"]


def test_a_run_by_hand_is_written_down_with_its_log_and_told(house: House, receiver: Receiver):  # noqa: F811
    with house.database.session() as session:
        example = {"question": "How do I say it?", "answer": "Like this. [1]", "sources": [{"text": "Like this."}]}
        row = example | {"approved_by": "ada"}
        session.add(StyleCandidateRow(id="c", document_ids=[], example=row, state="approved", created_at=NOW))
    environment = house.environment(TANDEM_TRAINING__WEBHOOK=receiver.url, TANDEM_TRAINING__PASSES="0.05")
    command = [sys.executable, "-m", "services.cli.main", "train", "--json"]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]
    made = json.loads(done.stdout)
    run = house.run()
    assert (run.state, run.cause, run.promoted) == ("done", "manual", False)
    assert run.adapter == f"{made['name']}@{made['digest'][:12]}"
    assert made["data"]["read"] == 1 + len(load_examples(house.settings.training.examples))
    log = house.runs.events(run.id)
    assert list(dict.fromkeys(line.stage for line in log)) == ["guard", "augment", "train", "gate", "register"]
    assert [line.data for line in log if line.stage == "train"][-1].keys() >= {"step", "loss", "seconds_left"}
    assert [json.loads(body)["event"] for _, body in receiver.got] == ["started", "not_promoted"]
    assert json.loads(receiver.got[1][1])["reasons"] == made["gate"]["reasons"]
    with house.database.session() as session:  # so that a deletion can name the adapter that learned from it
        assert session.get_one(TrainingRunRow, run.id).detail["candidates"] == ["c"]
