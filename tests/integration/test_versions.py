"""Versions, dates and what became of them, as people see them: over HTTP and the command line, with the real index,
database and embedder. There is no model, so that answers are the passages themselves."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import update

from ingest.engine import LocalEngine
from ingest.publish import Publisher
from ingest.report import IngestReport
from ingest.run import Ingestor
from ingest.sandbox import Sandbox
from ingest.source import locate, read_bytes
from ingest.watch import watch
from services.chat.app import create_app
from services.cli.main import main
from services.embedded import NOWHERE
from services.ingest.runs import IngestRuns
from tandem.bootstrap import Container, bootstrap
from tandem.embedder import Embedder
from tandem.errors import DocumentError, IndexUnavailable
from tandem.settings import IngestSettings, Settings, load_settings
from tandem.tables import FeedbackRow, StyleCandidateRow, TrainingRunRow
from training.examples import StyleExample
from training.runs import TrainingRuns

CLOCKS = ("tandem.assistant", "services.chat.library", "services.chat.answers_api", "ingest.sync", "ingest.publish")


class Clock(datetime):
    """The moment that a test says it is."""

    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return cls.moment.astimezone(tz)


@dataclass
class House:
    """A running service."""

    settings: Settings
    container: Container
    ingestor: Ingestor
    runs: IngestRuns
    app: FastAPI

    def ingest(self, *paths: Path, **options: Any) -> IngestReport:
        return self.ingestor.ingest(paths, groups=("everyone",), **options)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://127.0.0.1:8080")

    async def get(self, path: str) -> Any:
        async with self.client() as client:
            response = await client.get(path)
            assert response.status_code == 200, response.text
            return response.json()

    async def ask(self, question: str = "How much is the meal allowance a day?", **tandem: Any) -> dict[str, Any]:
        body = {"model": "tandem-rag", "messages": [{"role": "user", "content": question}], "tandem": tandem}
        async with self.client() as client:
            response = await client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()["tandem"]
        return answer


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(IngestSettings()) as box:
        yield box


@pytest.fixture
async def house(
    tmp_path: Path, embedder: Embedder, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tandem.bootstrap.Embedder", lambda *_: embedder)  # loaded once for all tests
    settings = load_settings(data_dir=tmp_path / "data", ingest={"keep_versions": 20, "lock_timeout": 5})
    container = bootstrap(settings, model_url=NOWHERE)
    parts = (container.database, container.generations, container.sparse, settings)
    ingestor = Ingestor(*parts, engine=LocalEngine(settings.ingest, sandbox))
    runs = IngestRuns(container.database, ingestor)
    yield House(settings, container, ingestor, runs, create_app(container, runs))
    await runs.close()
    ingestor.close()
    await container.aclose()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    for module in CLOCKS:
        monkeypatch.setattr(f"{module}.datetime", Clock)
    monkeypatch.setattr(Clock, "moment", datetime(2026, 3, 1, 12, tzinfo=UTC))
    return Clock


def publisher_of(house: House) -> Publisher:
    live = house.container.generations.live()
    return Publisher(house.container.database, house.ingestor._writer(live))


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def meals(amount: int, head: str = "") -> str:
    return f"---\ngroups: [everyone]\n{head}---\n# Meals\n\nThe meal allowance is EUR {amount} a day.\n"


# Dates


async def test_a_future_version_takes_over_at_midnight_by_itself(
    house: House, tmp_path: Path, clock: type[Clock]
) -> None:
    root = write(tmp_path / "docs", meals=meals(45))
    house.ingest(root)
    house.ingest(write(root, meals=meals(50, "effective_from: 2026-03-10\neffective_until: 2026-04-01\n")))

    async def seen() -> tuple[str, list[str]]:
        (document,) = (await house.get("/v1/documents"))["data"]
        versions = (await house.get("/v1/documents/meals.md/versions"))["data"]
        return document["status"], [version["status"] for version in versions]

    async def quoted(**tandem: Any) -> list[str]:
        return [passage["quote"] for passage in (await house.ask(**tandem))["passages"]]

    assert await seen() == ("live", ["upcoming", "live"])
    clock.moment = datetime(2026, 3, 9, 23, 59, 59, tzinfo=UTC)
    assert await quoted() == ["The meal allowance is EUR 45 a day."]
    assert await quoted(as_of="2026-03-10") == ["The meal allowance is EUR 50 a day."]
    clock.moment = datetime(2026, 3, 10, tzinfo=UTC)
    assert await quoted() == ["The meal allowance is EUR 50 a day."]
    assert await quoted(as_of="2026-03-09") == ["The meal allowance is EUR 45 a day."]
    assert await seen() == ("live", ["live", "ended"])
    clock.moment = datetime(2026, 4, 1, tzinfo=UTC)
    assert await seen() == ("ended", ["ended", "ended"])
    assert await quoted() == []


async def test_a_receipt_keeps_its_passage_and_says_what_became_of_it(
    house: House, tmp_path: Path, clock: type[Clock]
) -> None:
    root = write(tmp_path / "docs", meals=meals(45))
    house.ingest(root)
    answer = await house.ask()

    async def standing() -> tuple[str, str]:
        receipt = (await house.get(f"/v1/answers/{answer['answer_id']}"))["receipt"]
        (passage,) = receipt["passages"]
        assert [each["status"] for each in receipt["citations"]] == [passage["status"]]
        return passage["quote"], passage["status"]

    quote = "The meal allowance is EUR 45 a day."
    assert await standing() == (quote, "live")
    clock.moment += timedelta(days=1)
    house.ingest(write(root, meals=meals(50)))
    assert await standing() == (quote, "replaced")
    assert (await house.get("/v1/documents/meals.md"))["text"].endswith("EUR 50 a day.")
    publisher_of(house).prune(1, clock.now(UTC).date())
    assert await standing() == (quote, "gone")


@pytest.mark.parametrize(("keep", "days", "left"), [(20, None, 4), (2, None, 2), (1, None, 2), (20, 9, 3), (20, 0, 2)])
async def test_retention_drops_what_has_ended_and_nothing_else(
    house: House, tmp_path: Path, clock: type[Clock], keep: int, days: int | None, left: int
) -> None:
    root = tmp_path / "docs"
    for amount, start in ((1, "2026-01-01"), (2, "2026-02-01"), (3, "2026-02-25"), (4, "2026-06-01")):
        house.ingest(write(root, meals=meals(amount, f"effective_from: {start}\n")))
    publisher_of(house).prune(keep, clock.now(UTC).date(), days)
    versions = (await house.get("/v1/documents/meals.md/versions"))["data"]
    assert [version["status"] for version in versions] == ["upcoming", "live", "ended", "ended"][:left]
    assert sum(house.container.generations.live().index.version_counts().values()) == left


# What changed


async def test_a_difference_lists_passages_metadata_and_groups(house: House, tmp_path: Path) -> None:
    head = "---\ntitle: Travel\nowner: finance\ngroups: [everyone]\n---\n"
    text = "# Meals\n\nThe allowance is EUR 45 a day.\n\nKeep receipts.\n\n# Hotels\n\nUp to EUR 160 a night.\n"
    root = write(tmp_path / "docs", travel=head + text)
    house.ingest(root)
    newer = text.replace("45", "50").replace("Keep receipts.\n\n", "") + "\nKeep receipts.\n\nBook early.\n"
    head = head.replace("finance", "people").replace("[everyone]", "[everyone, guests]")
    house.ingest(write(root, travel=head.replace("---\ntitle", "---\neffective_from: 2026-01-01\ntitle") + newer))
    found = await house.get("/v1/documents/travel.md/diff")
    assert [(each["kind"], each["heading"], each["before"], each["after"]) for each in found["passages"]] == [
        ("changed", "Meals", "The allowance is EUR 45 a day.", "The allowance is EUR 50 a day."),
        ("moved", "Hotels", "Keep receipts.", "Keep receipts."),
        ("added", "Hotels", "", "Book early."),
    ]
    assert {each["field"]: (each["before"], each["after"]) for each in found["metadata"]} == {
        "owner": ("finance", "people"),
        "effective_from": (None, "2026-01-01"),
        "groups": (["everyone"], ["everyone", "guests"]),
    }
    assert "-The allowance is EUR 45 a day." in found["lines"]


def test_the_command_line_compares_without_server_or_model(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "docs", meals=meals(45))
    house.ingest(root)
    house.ingest(write(root, meals=meals(50)))
    for options in ([], ["--lines"], ["--json"]):
        # The index is held by this process, so this also shows that nothing but the database is opened.
        with pytest.raises(SystemExit) as ended:
            main(["documents", "diff", "meals.md", "--data-dir", str(house.settings.data_dir), *options])
        assert ended.value.code == 0
    shown, lines, document = capsys.readouterr().out.partition("---")[0], "", ""
    assert "~ The meal allowance is EUR [-45-]{+50+} a day." in shown
    assert lines == document


# Contradictions


PLANTED = {
    "travel": "# Travel\n\n## Meal allowance\n\nThe daily meal allowance is EUR 45 for a full day of travel.\n\n"
    "## Hotels\n\nA hotel may cost up to EUR 160 a night.\n",
    "welcome": "# Welcome\n\n## Money\n\nWhen you travel, the daily meal allowance is EUR 50 for a full day of travel."
    "\n\n## Holidays\n\nFull-time employees have 28 days of annual leave in a calendar year.\n\n"
    "## Hotels\n\nA hotel costs at least EUR 60 a night.\n",
    "leave": "# Leave\n\n## Entitlement\n\nFull-time employees have 30 days of annual leave in a calendar year.\n",
    "part": "# Part\n\n## Entitlement\n\nPart-time employees have 15 days of annual leave in a calendar year.\n",
    "brook": "---\ntitle: Brook 2 manual\n---\n# Warranty\n\nThe warranty on the sensor is 24 months from delivery.\n",
    "weir": "---\ntitle: Weir L manual\n---\n# Warranty\n\nThe warranty on the sensor is 36 months from delivery.\n",
    "france": "---\ngroups: [france]\n---\n# Leave\n\n## Entitlement\n\nFull-time employees have 25 days of annual "
    "leave in a calendar year.\n",
}


def test_planted_contradictions_are_told_and_look_alikes_are_not(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", **PLANTED)
    report = house.ingest(root)
    pairs = {frozenset((each.first.document_id, each.second.document_id)): each for each in report.contradictions}
    assert set(pairs) == {frozenset({"travel.md", "welcome.md"}), frozenset({"leave.md", "welcome.md"})}
    meal = pairs[frozenset({"travel.md", "welcome.md"})]
    assert sorted(meal.figures) == ["EUR 45", "EUR 50"]
    assert {meal.first.groups, meal.second.groups} == {("everyone",)}
    for each in report.contradictions:
        assert each.sentence in report.warnings
        assert all(part in each.sentence for part in (each.first.sentence, each.second.sentence, "everyone"))
    assert house.ingest(root).contradictions == ()  # told once, when it came


def test_versions_of_one_document_never_contradict_and_dates_keep_apart(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", travel=PLANTED["travel"])
    assert house.ingest(root).contradictions == ()
    assert house.ingest(write(root, travel=PLANTED["travel"].replace("45", "47"))).contradictions == ()
    head = "---\neffective_until: 2026-01-01\n---\n"
    assert house.ingest(write(root, old=head + PLANTED["welcome"])).contradictions == ()
    assert len(house.ingest(write(root, now=PLANTED["welcome"])).contradictions) == 1


def test_above_the_limit_the_report_says_that_nothing_was_compared(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.contradictions.MAX_CHUNKS", 3)
    report = house.ingest(write(tmp_path / "docs", **PLANTED))
    assert report.contradictions == ()
    assert "Contradictions were not looked for" in report.warnings[-1]


# Dry runs


def _edit(root: Path) -> None:
    write(root, a=meals(10), new=meals(3))


def _delete(root: Path) -> None:
    (root / "b.md").unlink()


def _move(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "a.md").rename(root / "sub" / "c.md")


def _metadata(root: Path) -> None:
    write(root, a=meals(1, "owner: finance\n"))


def _touch(root: Path) -> None:
    os.utime(root / "a.md", (1, 1))
    write(root, b=meals(2) + "\n\n")


def _break(root: Path) -> None:
    (root / "a.md").write_bytes(b"\xff\xfe\x00")
    (root / "x.pdf").write_bytes(b"%PDF-1.4 broken")
    (root / "out.md").symlink_to("/etc/hostname")


def _twice(root: Path) -> None:
    write(root, twin=meals(77), twin2=meals(77))


@pytest.mark.parametrize("change", [_edit, _delete, _move, _metadata, _touch, _break, _twice])
@pytest.mark.parametrize("overlapping", [False, True])
def test_a_dry_run_says_exactly_what_the_run_then_does(
    house: House, tmp_path: Path, change: Callable[[Path], None], overlapping: bool
) -> None:
    root = write(tmp_path / "docs", a=meals(1), b=meals(2), keep=meals(9))
    house.ingest(root)
    change(root)
    paths = (root / "keep.md", root, root) if overlapping else (root,)
    apart = {"run_id", "seconds", "dry_run", "contradictions", "warnings"}
    dry, wet = house.ingest(*paths, dry_run=True), house.ingest(*paths)
    assert (dry.dry_run, wet.dry_run) == (True, False)
    assert dry.model_dump(exclude=apart) == wet.model_dump(exclude=apart)
    said = {each.sentence for each in wet.contradictions}
    assert list(dry.warnings) == [warning for warning in wet.warnings if warning not in said]


# Deleting


async def test_a_deletion_names_everything_that_held_the_text(house: House, tmp_path: Path) -> None:
    shared = "# Both\n\nA sentence that two documents share.\n"
    root = write(tmp_path / "docs", meals=meals(45), one=shared, two=shared)
    house.ingest(root)
    first = await house.ask()
    said = "\n".join(passage["quote"] for passage in first["passages"])
    database = house.container.database
    stored = (await house.get(f"/v1/answers/{first['answer_id']}"))["text"]
    messages = [("user", "How much?"), ("assistant", stored), ("user", "What do two documents share?")]
    async with house.client() as client:
        body = {"model": "tandem-rag", "messages": [{"role": role, "content": text} for role, text in messages]}
        second = (await client.post("/v1/chat/completions", json=body)).json()["tandem"]["answer_id"]
    example = {"question": "How much?", "answer": "EUR 45 [1]", "sources": [{"text": said}], "approved_by": "ada"}
    now = datetime.now(UTC)
    with database.session() as session:
        session.add(
            StyleCandidateRow(
                id="s", answer_id=None, document_ids=["meals.md"], example=example, state="approved", created_at=now
            )
        )
        session.add(FeedbackRow(id="f", answer_id=first["answer_id"], user="local", rating="up", created_at=now))
    runs = TrainingRuns(database)
    with database.session() as session:
        run = runs.want(session, "schedule", "house-style", "schedule", at=now)
    runs.start(run, [StyleExample.model_validate(example)], at=now)
    with database.session() as session:
        session.execute(update(TrainingRunRow).where(TrainingRunRow.id == run).values(adapter="house-style@abc"))
    async with house.client() as client:
        report = (await client.delete("/v1/documents/meals.md")).json()
        assert (await client.get(f"/v1/answers/{second}")).status_code == 404
        (shared_text,) = [(await client.delete("/v1/documents/one.md")).json()]
    counts = {name: value for name, value in report.items() if isinstance(value, int)}
    assert counts == {
        "versions": 1, "chunks": 1, "points": 1, "embeddings": 1, "embeddings_shared": 0, "answers": 2, "feedback": 1,
        "style_candidates": 1,
    }  # fmt: skip
    assert report["adapters"] == ["house-style@abc"]
    assert set(report["remaining"].values()) == {0}
    assert {"points", "embeddings", "answers", "style_candidates", "feedback"} <= report["remaining"].keys()
    assert (shared_text["embeddings"], shared_text["embeddings_shared"]) == (0, 1)
    text = json.dumps(database_dump(house))
    assert "EUR 45" not in text
    assert "two documents share" in text  # two.md is still there


def database_dump(house: House) -> list[list[str]]:
    """Every row of every table, as text."""
    with house.container.database.engine.connect() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
        return [[str(row) for row in connection.exec_driver_sql(f'SELECT * FROM "{name}"')] for name in tables]


def test_a_sync_says_what_went_with_the_deleted(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", a=meals(1), b=meals(2))
    house.ingest(root)
    (root / "a.md").unlink()
    removed = house.ingest(root).removed
    assert removed is not None
    assert (removed.versions, removed.chunks, removed.points) == (1, 1, 1)
    assert house.ingest(root).removed is None


# Ways in


async def test_events_tell_of_every_stage_and_end_with_the_report(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", **{f"d{n}": meals(n) for n in range(40)})
    async with house.client() as client:
        run = (await client.post("/v1/ingest/runs", json={"paths": [str(root)], "groups": ["everyone"]})).json()
        response = await client.get(f"/v1/ingest/runs/{run['id']}/events")
        assert (await client.get("/v1/ingest/runs/none/events")).status_code == 404
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
    assert events[-1]["state"] == "done"
    assert len(events[-1]["report"]["added"]) == 40
    assert {event["state"] for event in events[:-1]} <= {"running"}


def test_a_run_of_another_process_shows_how_far_it_is(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ingest.progress._EVERY", 0.0)
    root = write(tmp_path / "docs", **{f"d{n}": meals(n) for n in range(5)})
    seen: list[Any] = []

    def look(_: object) -> None:
        run = asyncio.run(IngestRuns(house.container.database, house.ingestor).latest(1))[0]
        seen.append(run.progress and (run.progress.stage, run.state, run.report))

    house.ingest(root, on_progress=look)
    stages = {each[0] for each in seen if each}
    assert {"read", "embed"} <= stages
    assert {each[1:] for each in seen if each} == {("running", None)}
    (done,) = asyncio.run(IngestRuns(house.container.database, house.ingestor).latest(1))
    assert (done.progress, done.state) == (None, "done")


@pytest.mark.parametrize("name", ["../docs", "link", "docs/../docs", "docs\\x", "docs\x00", "link/sub"])
async def test_the_server_takes_no_path_with_a_detour(house: House, tmp_path: Path, name: str) -> None:
    write(tmp_path / "docs", sub__a=meals(1))
    (tmp_path / "link").symlink_to(tmp_path / "docs")
    async with house.client() as client:
        refused = await client.post("/v1/ingest/runs", json={"paths": [f"{tmp_path}/{name}"], "wait": True})
        taken = await client.post("/v1/ingest/runs", json={"paths": [str((tmp_path / "docs").resolve())], "wait": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "paths")
    assert taken.json()["report"]["added"] == ["sub/a.md"]


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_a_link_put_in_place_after_the_check_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    write(tmp_path / "outside", a="secret")
    root = write(tmp_path / "docs", sub__a="fine")
    (found,) = locate(root, ()).files
    resolve = Path.resolve

    def swap_then_return(path: Path, strict: bool = False) -> Path:
        real = resolve(path, strict)
        if path == found.path:  # right after the check saw where it leads
            victim = found.path if swapped == "file" else found.path.parent
            victim.rename(tmp_path / "away")
            victim.symlink_to(tmp_path / "outside" / ("a.md" if swapped == "file" else ""))
        return real

    monkeypatch.setattr(Path, "resolve", swap_then_return)
    with pytest.raises(DocumentError) as refused:
        read_bytes(found, root, 1000)
    assert refused.value.reason in ("unreadable", "hostile")


async def test_an_upload_without_a_length_is_stopped_at_the_limit(house: House) -> None:
    sent = 0

    async def long() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.md"\r\n\r\n'
        for _ in range(80):
            sent += 1_000_000
            yield b"x" * 1_000_000

    limit = house.settings.server.max_upload_bytes
    async with house.client() as client:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        response = await client.post("/v1/documents", content=long(), headers=headers)
    assert response.status_code == 413
    assert sent <= limit + 3_000_000


class Watching:
    """A watch under way, and its reports."""

    def __init__(self, ingestor: Any, *paths: Path) -> None:
        self.reports: asyncio.Queue[IngestReport] = asyncio.Queue()
        self.stop = asyncio.Event()
        told = self.reports.put_nowait
        self.task = asyncio.create_task(
            watch(ingestor, paths, self.stop, on_report=told, debounce_ms=50, retry=(0.1, 0.4), groups=("everyone",))
        )

    async def until(self, wanted: Callable[[IngestReport], object]) -> IngestReport:
        async with asyncio.timeout(60):
            while not wanted(report := await self.reports.get()):
                pass
        return report

    async def end(self) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, 20)


async def test_a_watch_survives_editors_and_a_folder_put_in_anothers_place(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", a=meals(1))
    file = write(tmp_path / "single", b=meals(2)) / "b.md"
    watching = Watching(house.ingestor, root, file)
    await watching.until(lambda report: report.added == ("a.md", "b.md"))
    for path, amount in ((root / "a.md", 10), (file, 20), (file, 30)):  # how editors save
        draft = path.with_name(f".{path.name}.swp")
        draft.write_text(meals(amount))
        draft.rename(path)
        await watching.until(lambda report, name=path.name: report.updated == (name,))
    root.rename(tmp_path / "old")
    write(root, a=meals(10), c=meals(3))
    await watching.until(lambda report: report.added == ("c.md",))
    write(root, d=meals(4))  # the folder in its place is the one that is watched now
    await watching.until(lambda report: report.added == ("d.md",))
    await watching.end()


async def test_a_failing_run_is_tried_again_and_does_not_end_the_watch(house: House, tmp_path: Path) -> None:
    class Failing:
        """Fails three times: as the index might, as a bug would, and as a folder that is gone."""

        faults: ClassVar = [IndexUnavailable("Qdrant is away."), KeyError("bug"), FileNotFoundError("gone")]
        runs = 0

        def ingest(self, *arguments: Any, **options: Any) -> IngestReport:
            self.runs += 1
            if self.faults:
                raise self.faults.pop(0)
            return house.ingestor.ingest(*arguments, **options)

    failing = Failing()
    watching = Watching(failing, write(tmp_path / "docs", a=meals(1)))
    await watching.until(lambda report: report.added == ("a.md",))
    assert failing.runs == 4
    await asyncio.sleep(1.2)
    assert failing.runs == 4  # and then only when something changes
    write(tmp_path / "docs", b=meals(2))
    await watching.until(lambda report: report.added == ("b.md",))
    await watching.end()
