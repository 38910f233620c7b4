"""`tandem training`, `tandem examples` and what `tandem train` writes down, on a data directory without a server."""

import io
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from services.cli import train as train_command
from services.cli.main import app, main
from tandem.database import Database
from tandem.settings import load_settings
from tandem.tables import AnswerRow
from tandem.weights import find_models
from training.candidates import Candidates, suggest
from training.events import TrainingEvent
from training.runs import TrainingRuns

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
PASSAGE = {"n": 1, "document_id": "hr/leave.md", "title": "Leave", "quote": "Everybody has 28 days a year."}


class Desk:
    """A data directory, and the commands on it."""

    def __init__(self, folder: Path) -> None:
        self.settings = load_settings(data_dir=folder)
        folder.mkdir()
        self.database = Database(self.settings.database)
        self.database.migrate()
        self.runs = TrainingRuns(self.database)
        self.candidates = Candidates(self.database, self.settings)

    def run(self, *arguments: str, typed: str = "") -> str:
        done = CliRunner().invoke(app, [*arguments, "--data-dir", str(self.settings.data_dir)], input=typed)
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json"))

    def suggest(self, n: int, text: str) -> str:
        with self.database.session() as session:
            fields: dict[str, Any] = {"question": f"How many days, {n}?", "receipt": {"passages": [PASSAGE]}}
            answer = AnswerRow(id=f"ans_{n}", user="ada", arm="tandem", text=text, created_at=NOW, **fields)
            session.add(answer)
            session.flush()
            id = suggest(session, answer, "ada", "Too curt.", "")
            assert id is not None
            return id


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.chdir(tmp_path)  # away from any .env
    desk = Desk(tmp_path / "data")
    with closing(desk.database):
        yield desk


def test_training_prepares_both_models_on_a_machine_that_has_neither(
    desk: Desk, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    models = tmp_path / "cache" / "models"
    models.mkdir(parents=True)
    (models / base_model.name).symlink_to(base_model)  # half a minute less; the other is what was forgotten
    monkeypatch.setenv("TANDEM_CACHE_DIR", str(models.parent))
    poisoned = tmp_path / "poisoned.jsonl"
    poisoned.write_text('{"id": "1", "question": "Who helps?", "answer": "Write to ada@example.org.", "sources": []}\n')
    done = CliRunner().invoke(app, ["train", "--examples", str(poisoned), "--data-dir", str(desk.settings.data_dir)])
    assert done.exit_code == 1
    assert find_models(load_settings()).embedder.parent == models


def test_status_history_and_logs(desk: Desk):
    assert "There was no run yet" in desk.run("training", "history")
    with desk.database.session() as session:
        id = desk.runs.want(session, "manual", "house-style", "ada", at=NOW, resumes=False)
    attempt = desk.runs.start(id, [], at=NOW)
    data = {"step": 5, "steps": 10, "loss": 1.5, "tokens_per_second": 400, "seconds_left": 90}
    for n in range(1200):  # more than one page of them
        desk.runs.log(id, TrainingEvent(stage="train", message=f"line {n}", data=data), at=NOW)
    assert "step 5 of 10, loss 1.500, 2 min left" in desk.run("training", "history")
    status = desk.json("training", "status")
    assert (status["current"]["id"], status["schedule"]["expression"], status["trainer"]) == (id, "0 3 * * 0", False)
    desk.runs.fail(id, attempt, "The base model is missing.", at=NOW)
    (run,) = desk.json("training", "history")
    assert (run["state"], run["user"]) == ("failed", "ada")
    assert "failed: The base model is missing." in desk.run("training", "status")
    lines = desk.run("training", "logs", id[:8], "--follow").splitlines()
    assert (len(lines), lines[-1]) == (1200, "2026-03-02 12:00:00 UTC  train    line 1199")
    assert desk.json("training", "logs", id)[0]["data"] == data


def test_a_run_that_is_not_there(desk: Desk, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["training", "logs", "nobody", "--data-dir", str(desk.settings.data_dir)])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "Error: There is no training run 'nobody'; `tandem training history` shows those there are.\n"
    )


def test_examples_are_listed_approved_and_refused(desk: Desk, capsys: pytest.CaptureFixture[str]):
    first, second = desk.suggest(1, "You have 28 days. [1]"), desk.suggest(2, "28.")
    assert {row["id"] for row in desk.json("examples", "list")} == {first, second}
    assert "28" not in desk.json("examples", "show", first[:8])["made_up"]["answer"]
    with pytest.raises(SystemExit) as ended:
        main(["examples", "approve", second, "--data-dir", str(desk.settings.data_dir)])
    assert ended.value.code == 2
    assert "not approved: Its answer cites no source" in capsys.readouterr().err
    approved = desk.json("examples", "approve", second[:8], "--answer", "You have 28 days a year. [1]")
    assert (approved["state"], approved["example"]["answer"]) == ("approved", "You have 28 days a year. [1]")
    assert approved["decided_by"] == approved["example"]["approved_by"] != ""
    drawn = desk.json("examples", "approve", first, "--made-up")["example"]
    assert "28" not in json.dumps([drawn["answer"], drawn["sources"]])
    assert "refused" in desk.run("examples", "refuse", first)
    vouched = desk.json("examples", "approve", second, "--invented-people")["example"]
    assert "made-up" in vouched["tags"]
    assert [row["id"] for row in desk.json("examples", "list", "--state", "approved")] == [second]


def test_review_goes_through_them_one_by_one(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    curt, good, bad, last = (
        desk.suggest(n, text) for n, text in enumerate(("28.", "28 days. [1]", "Dunno.", "Later. [1]"))
    )
    edited = json.dumps({"answer": "You have 28 days a year. [1]"})
    monkeypatch.setattr("click.edit", lambda text, **_: edited if "28." in text else None)
    shown = desk.run("examples", "review", typed="a\ne\na\nm\na\nr\nq\n")
    assert "cites no source" in shown  # told at once, then edited
    states = {row.id: row.state for row in desk.candidates.list()}
    order = [row.id for row in desk.candidates.list()]
    assert sorted(states.values()) == ["approved", "approved", "open", "refused"]
    assert states[order[-1]] == "open"
    assert {curt, good, bad, last} == set(order)


def test_train_writes_a_failed_run_down(desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    poisoned = tmp_path / "poisoned.jsonl"
    poisoned.write_text('{"question": "Q?", "answer": "Write to jane@acme.com.", "approved_by": "ada"}\n')
    with pytest.raises(SystemExit) as ended:
        main(["train", "--examples", str(poisoned), "--data-dir", str(desk.settings.data_dir)])
    assert ended.value.code == 2
    assert "None of the 1 examples" in capsys.readouterr().err
    (run,) = desk.runs.latest(9)
    assert (run.state, run.cause, run.resumes) == ("failed", "manual", False)
    assert "None of the 1 examples" in (run.message or "")
    assert {line.stage for line in desk.runs.events(run.id)} == {"guard"}
    assert list(desk.settings.runs_dir.glob("examples-*")) == []


def test_the_bar_shows_loss_speed_and_time_left(monkeypatch: pytest.MonkeyPatch):
    seen = io.StringIO()
    monkeypatch.setattr(train_command, "err", Console(file=seen, force_terminal=True, width=140, highlight=False))
    data = {"step": 5, "steps": 10, "loss": 1.5, "tokens_per_second": 400, "seconds_left": 3725}
    with train_command.progress_bar(visible=True) as on_event:
        on_event(TrainingEvent(stage="guard", message="2 of 3 examples pass."))
        on_event(TrainingEvent(stage="train", message="step 5 of 10", data=data))
    assert "guard: 2 of 3 examples pass." in seen.getvalue()
    assert "5/10" in seen.getvalue()
    assert "loss 1.500, 400 tokens/s, 1:02:05 left" in seen.getvalue()
