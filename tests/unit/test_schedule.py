"""When training starts by itself."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.trainer.service import Trainer
from tandem.database import Database
from tandem.errors import Busy, SettingsError
from tandem.registry import Manifest, Registry
from tandem.settings import Settings, load_settings
from tandem.tables import StyleCandidateRow
from tests.adapter_files import write_adapter
from training.examples import StyleExample, data_digest
from training.job import run_lock
from training.runs import TrainingRuns
from training.schedule import Schedule, gather_examples

MONDAY = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
WEEK = timedelta(days=7)


def examples(count: int, start: int = 0) -> list[StyleExample]:
    return [
        StyleExample(question=f"Question {n}?", answer=f"Answer {n}.", approved_by="ada")
        for n in range(start, start + count)
    ]


def manifest(given: list[StyleExample] = (), digest: str = "a" * 64) -> Manifest:
    return Manifest(
        name="house-style",
        digest=digest,
        base_model="b",
        base_digest="b",
        data_digest=data_digest(given),
        prompt_version="p",
        created_at=MONDAY,
    )


@pytest.fixture
def configured(tmp_path: Path) -> Settings:
    training = {"schedule": "0 3 * * 0", "min_new_examples": 20}
    return load_settings(data_dir=tmp_path / "data", training=training)


@pytest.fixture
def database(configured: Settings):
    database = Database(configured.database)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def runs(database: Database) -> TrainingRuns:
    return TrainingRuns(database)


@pytest.fixture
def schedule(configured: Settings, runs: TrainingRuns) -> Schedule:
    return Schedule(configured, runs, since=MONDAY)


def test_nothing_before_its_time(schedule: Schedule):
    decision = schedule.decide(MONDAY + timedelta(days=5), examples(50))
    assert not decision.start
    assert "2026-03-08 03:00" in decision.reason


def test_a_run_at_its_time_with_enough_new_examples(schedule: Schedule):
    now = datetime(2026, 3, 8, 3, 0, 30, tzinfo=UTC)
    assert schedule.decide(now, examples(20)).start
    few = schedule.decide(now, examples(19))
    assert not few.start
    assert few.new_examples == 19
    assert "20 are needed" in few.reason


def test_however_many_were_missed_one_makes_up_for_them(schedule: Schedule, runs: TrainingRuns):
    now = MONDAY + 5 * WEEK
    assert schedule.decide(now, examples(50)).start
    runs.finish(runs.start("schedule", examples(50), at=now), manifest())
    assert not schedule.decide(now + timedelta(hours=1), examples(90)).start
    assert schedule.decide(now + WEEK, examples(90)).start


def test_new_means_not_seen_by_the_last_finished_run(schedule: Schedule, runs: TrainingRuns):
    runs.finish(runs.start("manual", examples(50), at=MONDAY), manifest())
    assert schedule.decide(MONDAY + WEEK, examples(69)).new_examples == 19
    runs.fail(runs.start("schedule", examples(70), at=MONDAY + WEEK), "power cut")
    # The failed one is not tried again before its next time, and did not use its examples up.
    assert not schedule.decide(MONDAY + WEEK + timedelta(hours=1), examples(70)).start
    assert schedule.decide(MONDAY + 2 * WEEK, examples(70)).new_examples == 20


def test_what_the_active_adapter_was_trained_on_is_not_new(schedule: Schedule, configured: Settings, tmp_path: Path):
    registry = Registry(configured.registry)
    registry.promote(registry.add(tmp_path, manifest(examples(50), write_adapter(tmp_path))), "ada")
    assert schedule.decide(MONDAY + WEEK, examples(50)).new_examples == 0
    assert schedule.decide(MONDAY + WEEK, examples(51)).start


def test_one_at_a_time_and_broken_runs_are_marked(schedule: Schedule, runs: TrainingRuns, configured: Settings):
    runs.start("schedule", examples(5), at=MONDAY - WEEK)
    with run_lock(configured):
        busy = schedule.decide(MONDAY + WEEK, examples(50))
        assert not busy.start
        assert "under way" in busy.reason
        assert runs.last().state == "running"
        with pytest.raises(Busy), run_lock(configured):
            pass
    assert schedule.decide(MONDAY + WEEK, examples(50)).start
    assert runs.last().state == "failed"


def test_a_wrong_expression_is_named(runs: TrainingRuns):
    wrong = load_settings(training={"schedule": "every sunday"})
    with pytest.raises(SettingsError, match=r"TANDEM_TRAINING__SCHEDULE.*'every sunday'"):
        Schedule(wrong, runs, since=MONDAY)


def test_approved_feedback_joins_the_examples(
    configured: Settings, runs: TrainingRuns, database: Database, tmp_path: Path
):
    path = tmp_path / "own.jsonl"
    path.write_text(examples(1)[0].model_dump_json() + "\n")
    configured = load_settings(data_dir=configured.data_dir, training={"examples": path})
    with database.session() as session:
        for n, state in enumerate(("approved", "open", "approved")):
            example = examples(1, start=10 + n)[0].model_dump(mode="json") if n < 2 else {"no": "example"}
            row = StyleCandidateRow(id=str(n), document_ids=[], example=example, state=state, created_at=MONDAY)
            session.add(row)
    assert [example.question for example in gather_examples(configured, runs)] == ["Question 0?", "Question 10?"]


async def test_a_run_that_fails_is_written_down_with_its_sentence(
    configured: Settings, runs: TrainingRuns, database: Database
):
    # A real training process, which finds no base model in its cache and says so.
    empty = load_settings(
        data_dir=configured.data_dir, cache_dir=configured.data_dir / "no-cache", training={"min_new_examples": 1}
    )
    trainer = Trainer(empty, database, clock=lambda: MONDAY)
    trainer_later = Trainer(empty, database, clock=lambda: MONDAY + WEEK)
    assert not (await trainer.tick()).start
    assert (await trainer_later.tick()).start  # the first trainer's start was remembered
    run = runs.last()
    assert run.state == "failed"
    assert run.started_at == MONDAY + WEEK
    assert not (await trainer_later.tick()).start
    assert list(empty.runs_dir.glob("examples-*")) == []


def test_the_service_does_not_import_torch():
    code = (
        "import json,sys; import services.trainer.__main__, training.job;"
        "print(json.dumps(sorted({'torch','transformers','peft','trl','vllm'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
