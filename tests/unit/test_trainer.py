"""The trainer service: which run it makes, what is written down of it, and that none is made twice or forgotten.

The training process is a double here, to end in every way that one can; a real one, killed, is in
tests/integration/test_trainer.py.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from services.trainer import child, service
from services.trainer.child import Broken
from services.trainer.overview import Overview
from services.trainer.record import Record
from services.trainer.service import Trainer
from services.trainer.webhook import Webhook
from tandem.database import Database
from tandem.errors import AdapterError, Busy, DatabaseUnavailable, InputError
from tandem.registry import NONE_ACTIVE, Gate, Manifest, Registry
from tandem.settings import Settings, load_settings
from tandem.tables import StyleCandidateRow
from tests.adapter_files import add_adapter, write_adapter
from training.events import TrainingEvent
from training.examples import StyleExample, data_digest
from training.job import run_lock
from training.result import Result, result_path, write_result
from training.runs import ATTEMPTS, ENDED, Run, TrainingRuns
from training.taught import TAUGHT
from training.turn import Turn

MONDAY = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
SUNDAY = datetime(2026, 3, 8, 3, 0, tzinfo=UTC)
WEEK = timedelta(days=7)
STEP = TrainingEvent(stage="train", message="step 5 of 10", data={"step": 5, "steps": 10, "loss": 1.5})


def examples(count: int, start: int = 0) -> list[StyleExample]:
    return [
        StyleExample(question=f"Question {n}?", answer=f"Answer {n}.", approved_by="ada")
        for n in range(start, start + count)
    ]


def manifest(given: list[StyleExample] = (), digest: str = "a" * 64, *, passed: bool = True) -> Manifest:
    return Manifest(
        name="house-style",
        digest=digest,
        base_model="b",
        base_digest="b",
        data_digest=data_digest(given),
        prompt_version="p",
        created_at=MONDAY,
        gate=Gate(passed=passed, reasons=("It says what it should.",), metrics={}),
    )


def result(given: list[StyleExample] = (), *, passed: bool = True) -> Result:
    return Result(manifest=manifest(given, passed=passed), expected=NONE_ACTIVE, promoted=passed)


class Child:
    """What the training process does, one ending after the other."""

    def __init__(self) -> None:
        self.endings: list[Exception | Result | Callable[[], Awaitable[Result]]] = []
        self.given: list[list[str]] = []
        self.names: list[str] = []

    async def __call__(
        self, settings: Settings, path: Path, by: str, *, name: str, result: Path, on_event: Any, pulse: Any
    ) -> Result:
        self.names.append(name)
        self.given.append([json.loads(line)["question"] for line in path.read_text().splitlines()])
        await on_event(STEP)
        assert await pulse()
        ending = self.endings.pop(0)
        if isinstance(ending, Exception):
            raise ending
        return ending if isinstance(ending, Result) else await ending()


class Place:
    """A data directory with a clock."""

    def __init__(self, folder: Path, child: Child) -> None:
        self.file = folder / "examples.jsonl"
        self.child = child
        self.now = MONDAY
        self.settings = load_settings(
            data_dir=folder / "data",
            model={"url": "http://127.0.0.1:9/v1"},  # elsewhere, so that no base model is looked at
            training={"examples": self.file, "min_new_examples": 20, "schedule": "0 3 * * 0"},
        )
        self.database = Database(self.settings.database)
        self.database.migrate()
        self.runs = TrainingRuns(self.database)
        self.write(examples(50))
        self.trainer = self.start()

    def start(self) -> Trainer:
        """A trainer as after a restart."""
        return Trainer(self.settings, self.database, clock=lambda: self.now)

    def write(self, rows: list[StyleExample]) -> None:
        self.file.write_text("".join(f"{row.model_dump_json()}\n" for row in rows))

    async def look(self, now: datetime | None = None) -> Run | None:
        self.now = now or self.now
        return await self.trainer.look()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    child = Child()
    monkeypatch.setattr(service, "train_in_child", child)
    place = Place(tmp_path, child)
    yield place
    place.database.close()


async def test_a_run_at_its_time_with_its_log_and_its_verdict(place: Place):
    place.child.endings = [result(examples(50))]
    assert await place.look() is None
    assert await place.look(SUNDAY - timedelta(seconds=1)) is None
    run = await place.look(SUNDAY)
    assert run is not None
    assert (run.state, run.cause, run.due_at, run.attempt) == ("done", "schedule", SUNDAY, 1)
    assert (run.adapter, run.promoted, run.reasons) == (f"house-style@{'a' * 12}", True, ("It says what it should.",))
    assert [(line.stage, line.message, line.data) for line in place.runs.events(run.id)] == [
        ("train", "step 5 of 10", {"step": 5, "steps": 10, "loss": 1.5})
    ]
    assert len(place.child.given[0]) == 50
    assert await place.look(SUNDAY + timedelta(hours=1)) is None
    assert list(place.settings.runs_dir.glob("examples-*")) == []


async def test_too_few_new_examples_wait_for_the_next_time(place: Place):
    place.child.endings = [result(), result()]
    await place.look()
    await place.look(SUNDAY)
    place.write(examples(69))
    assert await place.look(SUNDAY + WEEK) is None
    place.write(examples(70))
    assert await place.look(SUNDAY + WEEK + timedelta(hours=1)) is None  # not in the middle of a working day
    run = await place.look(SUNDAY + 2 * WEEK)
    assert run is not None
    assert run.state == "done"
    assert len(place.runs.latest(10)) == 2


async def test_what_nobody_approved_is_not_new(place: Place):
    rows = [*examples(19), *(row.model_copy(update={"approved_by": ""}) for row in examples(30, start=100))]
    place.write(rows)
    await place.look()
    assert await place.look(SUNDAY) is None


async def test_what_the_active_adapter_was_trained_on_is_not_new(place: Place, tmp_path: Path):
    registry = Registry(place.settings.registry)
    digest = write_adapter(tmp_path / "another")
    registry.promote(registry.add(tmp_path / "another", manifest(examples(50), digest)), "ada")
    await place.look()
    for n, row in enumerate(examples(19, start=100)):
        add_candidate(place.database, str(n), row)
    assert await place.look(SUNDAY) is None
    add_candidate(place.database, "19", examples(1, start=200)[0])
    place.child.endings = [result()]
    assert await place.look(SUNDAY + WEEK) is not None


async def test_no_run_while_it_cannot_be_told_what_the_adapter_has_had(place: Place):
    listed = place.settings.registry / place.settings.adapter.name / TAUGHT
    listed.mkdir(parents=True)
    await place.look()
    with pytest.raises(AdapterError, match="cannot be read"):  # the service says so and looks again
        await place.look(SUNDAY)
    assert Overview(place.database, place.settings).status(place.now).new_examples is None
    listed.rmdir()
    place.child.endings = [result()]
    assert await place.look(SUNDAY + timedelta(hours=1)) is not None


def add_candidate(database: Database, id: str, example: StyleExample, state: str = "approved") -> None:
    with database.session() as session:
        row = example.model_dump(mode="json")
        session.add(StyleCandidateRow(id=id, document_ids=[], example=row, state=state, created_at=MONDAY))


async def test_approved_feedback_joins_the_run_and_nothing_else_does(place: Place):
    for n, state in enumerate(("approved", "open", "refused")):
        add_candidate(place.database, f"candidate-{n}", examples(1, start=100 + n)[0], state)
    with place.database.session() as session:
        broken = StyleCandidateRow(
            id="x", document_ids=[], example={"no": "example"}, state="approved", created_at=MONDAY
        )
        session.add(broken)
    place.child.endings = [result()]
    await place.look()
    await place.look(SUNDAY)
    assert place.child.given[0] == [f"Question {n}?" for n in [*range(50), 100]]


async def test_a_failed_run_is_not_tried_again_before_its_next_time_and_used_nothing_up(place: Place):
    place.child.endings = [Broken("The base model is missing."), result()]
    await place.look()
    run = await place.look(SUNDAY)
    assert run is not None
    assert (run.state, run.message) == ("failed", "The base model is missing.")
    assert await place.look(SUNDAY + timedelta(days=3)) is None
    again = await place.look(SUNDAY + WEEK)
    assert again is not None
    assert (again.state, again.id != run.id) == ("done", True)


async def test_a_process_killed_from_outside_is_marked_and_goes_on_at_the_next_look(place: Place):
    place.child.endings = [Broken("The training process was ended by signal 9.", again=True), result()]
    await place.look()
    first = await place.look(SUNDAY)
    assert first is not None
    assert (first.state, first.message) == ("interrupted", "The training process was ended by signal 9.")
    second = await place.look(SUNDAY + timedelta(minutes=1))
    assert second is not None
    assert (second.id, second.state, second.attempt, second.due_at) == (first.id, "done", 2, SUNDAY)
    assert len(place.runs.latest(10)) == 1
    assert len(place.runs.events(first.id)) == 2  # the log of both


async def test_a_run_that_always_dies_is_given_up(place: Place):
    place.child.endings = [Broken("Signal 9.", again=True) for _ in range(ATTEMPTS + 1)]
    await place.look()
    for _ in range(ATTEMPTS):
        run = await place.look(SUNDAY)
    assert run is not None
    assert run.state == "failed"
    assert f"given up after {ATTEMPTS} attempts" in (run.message or "")
    assert await place.look(SUNDAY) is None


async def test_a_service_that_was_killed_goes_on_with_its_run_once(place: Place):
    """What a SIGKILL leaves: a row that says it is running, and the examples of a document deleted since."""
    await place.look()
    left = place.settings.runs_dir / "examples-gone.jsonl"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_text("EUR 45")
    with place.database.session() as session:
        id = place.runs.want(session, "schedule", "house-style", "schedule", at=SUNDAY, due_at=SUNDAY)
    place.runs.start(id, examples(50), at=SUNDAY)
    place.child.endings = [result(examples(50))]
    place.trainer = place.start()
    run = await place.look(SUNDAY + WEEK + timedelta(hours=1))  # its next time was missed as well
    assert run is not None
    assert (run.id, run.state, run.attempt) == (id, "done", 2)
    assert not left.exists()
    assert await place.look() is None  # the missed time finds nothing new
    assert len(place.runs.latest(10)) == 1


async def test_a_service_that_is_stopped_marks_its_run_and_the_next_one_goes_on(place: Place):
    started = asyncio.Event()

    async def slow() -> Result:
        started.set()
        await asyncio.sleep(60)
        raise AssertionError

    place.child.endings = [slow, result()]
    await place.look()
    place.now = SUNDAY
    task = asyncio.create_task(place.trainer.look())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (run,) = place.runs.latest(10)
    assert (run.state, run.message) == ("interrupted", "The service was stopped.")
    place.trainer = place.start()
    again = await place.look()
    assert again is not None
    assert (again.id, again.state) == (run.id, "done")


async def test_a_run_that_is_cancelled_ends_and_is_not_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch):
    """With a real process, which by itself would go on for a minute."""
    monkeypatch.setattr(service, "train_in_child", child.train_in_child)
    monkeypatch.setattr(child, "PULSE", 0.1)
    monkeypatch.setattr(child, "LEASH", write_leash(place.settings.data_dir, "import time; time.sleep(60)"))
    await place.look()
    place.now = SUNDAY
    async with asyncio.timeout(30):
        making = asyncio.create_task(place.trainer.look())
        while not (run := place.runs.current()) or run.state != "running":
            assert not making.done(), making
            await asyncio.sleep(0.05)
        assert place.runs.cancel(run.id[:8], "ada", at=SUNDAY).state == "running"
        await making
    (run,) = place.runs.latest(10)
    assert (run.state, run.message) == ("failed", "It was cancelled by ada.")
    assert await place.look(SUNDAY + timedelta(minutes=1)) is None
    with pytest.raises(InputError, match="not under way any more"):
        place.runs.cancel(run.id, "ada", at=SUNDAY)


def write_leash(folder: Path, code: str) -> Path:
    path = folder / "leash_double.py"
    path.write_text(code)
    return path


async def test_a_run_that_waits_is_cancelled_at_once(place: Place):
    wanted = place.runs.request("house-style", "ada", at=MONDAY)
    assert place.runs.cancel(wanted.id, "bob", at=MONDAY).message == "It was cancelled by bob."
    assert await place.look() is None
    assert place.child.given == []
    assert place.runs.request("house-style", "ada", at=MONDAY).state == "waiting"


async def test_a_cancelled_run_whose_service_was_killed_is_not_gone_on_with(place: Place):
    wanted = place.runs.request("house-style", "ada", at=MONDAY)
    place.runs.start(wanted.id, examples(50), at=MONDAY)
    place.runs.cancel(wanted.id, "ada", at=MONDAY)
    assert await place.look() is None
    run = place.runs.get(wanted.id)
    assert (run.state, run.message) == ("failed", "It was cancelled by ada.")


async def test_a_run_of_a_terminal_is_ended_there(place: Place):
    with place.database.session() as session:
        id = place.runs.want(session, "manual", "house-style", "ada", at=MONDAY, resumes=False)
    place.runs.start(id, examples(50), at=MONDAY)
    with pytest.raises(InputError, match="Ctrl-C"):
        place.runs.cancel(id, "bob", at=MONDAY)
    assert place.runs.get(id).state == "running"


class Ended:
    """A run whose process reached its verdict, when the service that was to write it down was killed."""

    def __init__(self, place: Place, folder: Path, *, attempt: int = 1, passed: bool = True) -> None:
        self.registry = Registry(place.settings.registry)
        self.before = add_adapter(self.registry, folder / "before")
        self.registry.promote(self.before, "ada")
        with place.database.session() as session:
            self.id = place.runs.want(session, "schedule", "house-style", "schedule", at=SUNDAY)
        for _ in range(attempt):
            place.runs.start(self.id, examples(50), at=SUNDAY)
        recipe = manifest(examples(50), write_adapter(folder / "after", seed=2), passed=passed)
        base = self.registry.manifest(self.before).base_digest
        recipe = recipe.model_copy(update={"created_at": datetime.now(UTC), "base_digest": base})
        self.after = self.registry.add(folder / "after", recipe)
        self.path = result_path(place.settings, self.id)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_result(self.path, Result(manifest=recipe, expected=self.before.digest))
        place.trainer = place.start()


@pytest.mark.parametrize("attempt", [1, ATTEMPTS])
async def test_a_kill_after_the_promotion_neither_repeats_the_run_nor_undoes_a_rollback(
    place: Place, tmp_path: Path, attempt: int
):
    await place.look()
    ended = Ended(place, tmp_path, attempt=attempt)
    ended.registry.promote(ended.after, "schedule")
    ended.registry.rollback("house-style", "ada")
    assert await place.look() is None
    run = place.runs.get(ended.id)
    assert (run.state, run.adapter, run.promoted, run.message) == ("done", ended.after.served, True, None)
    assert ended.registry.active("house-style") == ended.before
    assert place.child.given == []
    assert not ended.path.exists()


async def test_a_kill_lets_no_run_undo_what_a_person_did_during_its_gate(place: Place, tmp_path: Path):
    """The gate compared with `before`; a person chose another while it ran, and the manifest is younger than that."""
    await place.look()
    ended = Ended(place, tmp_path)
    chosen = add_adapter(ended.registry, tmp_path / "chosen", seed=3)
    pointer = ended.registry.root / "house-style" / "active"
    early = datetime.now(UTC) - timedelta(hours=1)
    history = pointer.with_name("history.jsonl")
    ended.registry.promote(chosen, "ada")
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    history.write_text("".join(json.dumps(line | {"at": early.isoformat()}) + "\n" for line in lines))
    assert await place.look() is None
    assert ended.registry.active("house-style") == chosen
    run = place.runs.get(ended.id)
    assert (run.state, run.promoted) == ("done", False)
    assert f"house-style@{chosen.digest[:12]} is active by now" in (run.message or "")


@pytest.mark.parametrize("passed", [True, False])
async def test_a_kill_just_before_the_promotion_is_made_up_for(place: Place, tmp_path: Path, *, passed: bool):
    await place.look()
    ended = Ended(place, tmp_path, passed=passed)
    assert await place.look() is None
    assert place.runs.get(ended.id).promoted is passed
    assert ended.registry.active("house-style") == (ended.after if passed else ended.before)
    assert place.child.given == []


async def test_a_promotion_that_was_killed_before_the_pointer_moved_is_finished(place: Place, tmp_path: Path):
    await place.look()
    ended = Ended(place, tmp_path)
    pointer = place.settings.registry / "house-style" / "active"
    ended.registry.promote(ended.after, "schedule")
    pointer.write_text(f"{ended.before.digest}\n")
    assert await place.look() is None
    assert ended.registry.active("house-style") == ended.after


async def test_a_process_that_died_after_its_verdict_is_not_started_again(place: Place, tmp_path: Path):
    async def dies() -> Result:
        (run,) = place.runs.latest(9)
        write_result(result_path(place.settings, run.id), result(examples(50), passed=False))
        raise Broken("The training process was ended by signal 9.", again=True)

    place.child.endings = [dies]
    await place.look()
    run = await place.look(SUNDAY)
    assert run is not None
    assert (run.state, run.promoted, run.adapter) == ("done", False, f"house-style@{'a' * 12}")
    assert list(place.settings.runs_dir.glob("result-*")) == []


async def test_a_run_goes_on_with_its_own_examples_but_for_those_deleted_since(place: Place):
    place.child.endings = [Broken("Signal 9.", again=True), result()]
    await place.look()
    await place.look(SUNDAY)
    place.write(examples(51)[1:])
    add_candidate(place.database, "new", examples(1, start=100)[0])
    await place.look()
    assert place.child.given == [[f"Question {n}?" for n in range(50)], [f"Question {n}?" for n in range(1, 50)]]


async def test_a_run_trains_the_adapter_that_it_was_asked_for(place: Place):
    place.child.endings = [result()]
    place.runs.request("other-style", "ada", at=MONDAY)
    await place.look()
    assert place.child.names == ["other-style"]


async def test_old_checkpoints_of_no_run_that_goes_on_are_removed(place: Place):
    await place.look()
    place.settings.runs_dir.mkdir(parents=True, exist_ok=True)
    old, fresh = place.settings.runs_dir / "house-style-old", place.settings.runs_dir / "house-style-fresh"
    for folder in (old, fresh):
        (folder / "checkpoint-40").mkdir(parents=True)
    os.utime(old, (time.time() - 2 * service.KEPT,) * 2)
    place.child.endings = [Broken("Signal 9.", again=True), result()]
    place.runs.request("house-style", "ada", at=MONDAY)
    place.runs.start(place.runs.latest(1)[0].id, examples(50), at=MONDAY)
    await place.look()
    assert old.exists()  # it may be that run's
    await place.look()
    assert place.runs.latest(1)[0].state == "done"
    place.child.endings = [result()]
    place.runs.request("house-style", "ada", at=MONDAY)
    await place.look()
    assert (old.exists(), fresh.exists()) == (False, True)


async def test_a_stop_while_the_database_is_away_still_stops(place: Place, monkeypatch: pytest.MonkeyPatch):
    started = asyncio.Event()

    async def slow() -> Result:
        started.set()
        await asyncio.sleep(60)
        raise AssertionError

    def gone(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable("It is restarted.")

    place.child.endings = [slow]
    await place.look()
    place.now = SUNDAY
    task = asyncio.create_task(place.trainer.look())
    await started.wait()
    monkeypatch.setattr("services.trainer.record._PAUSES", (0.01, 5.0))
    monkeypatch.setattr("training.runs.TrainingRuns.interrupt", gone)
    before = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - before < 4


async def test_the_file_of_the_health_check_is_touched_by_looks_and_while_a_run_goes_on(place: Place):
    alive = place.settings.runs_dir / "alive"
    ages: list[float] = []

    def age() -> float:
        return time.time() - alive.stat().st_mtime

    async def ends() -> Result:  # after a pulse of its own
        ages.append(age())
        return result()

    place.child.endings = [ends]
    await place.look()
    place.settings.runs_dir.mkdir(parents=True, exist_ok=True)
    alive.touch()
    os.utime(alive, (0, 0))
    await place.look(SUNDAY)
    os.utime(alive, (0, 0))
    looking = asyncio.create_task(place.trainer.run())
    async with asyncio.timeout(10):
        while age() > 60:
            await asyncio.sleep(0.01)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert ages[0] < 60


async def test_a_command_that_was_killed_is_marked_and_left_to_who_gave_it(place: Place):
    with place.database.session() as session:
        id = place.runs.want(session, "manual", "house-style", "ada", at=MONDAY, resumes=False)
    place.runs.start(id, examples(5), at=MONDAY)
    assert await place.look() is None
    run = place.runs.get(id)
    assert (run.state, run.message) == ("interrupted", ENDED)
    assert await place.look() is None
    assert place.child.given == []


async def test_one_run_at_a_time_whoever_makes_the_other(place: Place):
    place.child.endings = [result()]
    await place.look()
    place.now = SUNDAY
    with Turn(place.database):
        assert await place.trainer.look() is None
    with run_lock(place.settings):  # what a killed service's process still holds
        assert await place.trainer.look() is None
    assert place.runs.latest(10) == []
    run = await place.trainer.look()
    assert run is not None
    assert run.due_at == SUNDAY  # put off, not lost


async def test_a_person_asks_for_a_run_once_at_a_time(place: Place):
    place.child.endings = [result(passed=False)]
    await place.look()
    wanted = place.runs.request("house-style", "ada", at=MONDAY)
    assert wanted.state == "waiting"
    with pytest.raises(Busy, match="waiting or under way"):
        place.runs.request("house-style", "bob")
    run = await place.look()
    assert run is not None
    assert (run.id, run.cause, run.user, run.state, run.promoted) == (wanted.id, "manual", "ada", "done", False)


def test_of_many_who_ask_at_once_one_gets_a_run(database: Database):
    runs, barrier = TrainingRuns(database), threading.Barrier(8)
    asked: list[bool] = []

    def ask() -> None:
        barrier.wait()
        try:
            runs.request("house-style", "ada")
            asked.append(True)
        except Busy:
            asked.append(False)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(asked) == [False] * 7 + [True]
    assert len(runs.latest(10)) == 1


async def test_nobody_gets_a_run_while_one_is_to_go_on(place: Place):
    place.child.endings = [Broken("Signal 9.", again=True)]
    await place.look()
    await place.look(SUNDAY)
    with pytest.raises(Busy, match="waiting or under way"):
        place.runs.request("house-style", "bob")


async def test_examples_that_cannot_be_read_are_a_failed_run_that_says_so(place: Place):
    await place.look()
    place.file.write_text("{")
    run = await place.look(SUNDAY)
    assert run is not None
    assert run.state == "failed"
    assert "line 1" in (run.message or "")
    assert await place.look() is None


def test_who_lost_the_turn_does_not_write_over_who_took_it(place: Place):
    with place.database.session() as session:
        id = place.runs.want(session, "schedule", "house-style", "schedule", at=MONDAY)
    first = place.runs.start(id, [], at=MONDAY)
    place.runs.break_off(at=MONDAY)
    second = place.runs.start(id, [], at=MONDAY)
    assert not place.runs.finish(id, first, result(), at=MONDAY)
    assert not place.runs.interrupt(id, first, "late", at=MONDAY)
    assert place.runs.get(id).state == "running"
    assert place.runs.finish(id, second, result(), at=MONDAY)


def test_a_database_that_is_away_for_a_moment_loses_a_line_and_no_verdict(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    with place.database.session() as session:
        id = place.runs.want(session, "schedule", "house-style", "schedule", at=MONDAY)
    record = Record(place.runs, Webhook(place.settings.training), id, place.runs.start(id, [], at=MONDAY))
    away = [DatabaseUnavailable("It is restarted.")] * 2
    finish = place.runs.finish

    def flaky(*args: Any, **named: Any) -> bool:
        if away:
            raise away.pop()
        return finish(*args, **named)

    def gone(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable("It is restarted.")

    monkeypatch.setattr("services.trainer.record._PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(place.runs, "log", gone)
    monkeypatch.setattr(place.runs, "finish", flaky)
    record.event(STEP)
    record.finished(result())
    assert place.runs.get(id).state == "done"


def test_the_service_does_not_import_torch():
    code = (
        "import json,sys; import services.trainer.__main__, training.job;"
        "print(json.dumps(sorted({'torch','transformers','peft','trl','vllm'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
