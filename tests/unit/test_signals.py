from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from eval.signals import MIN_ANSWERS, Signal, compute_signals
from eval.suite import EVAL_USER
from tandem.database import Database
from tandem.prompt import PROMPT_VERSION
from tandem.registry import Registry
from tandem.settings import Settings
from tandem.tables import AnswerRow, DocumentRow, FeedbackRow, IngestRunRow, TrainingRunRow, VersionRow
from tests.adapter_files import add_adapter

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
GOOD = {"degraded": None, "declined": False, "removed_markers": 0, "citations": [{"n": 1}]}


@pytest.fixture
def database(tmp_path: Path):
    database = Database(f"sqlite:///{tmp_path / 'tandem.db'}")
    database.migrate()
    yield database
    database.close()


def adapters(folder: Path, prompt: str = PROMPT_VERSION) -> Registry:
    """A registry with one active adapter that was trained on `prompt`."""
    work, registry = folder / f"work-{prompt}", Registry(folder / "adapters")
    registry.promote(add_adapter(registry, work, len(prompt), prompt_version=prompt), "test")
    return registry


def signals(database: Database, registry: Registry) -> dict[str, Signal]:
    found = compute_signals(database, registry, Settings(_env_file=None), now=NOW)
    assert [signal.firing for signal in found] == sorted((signal.firing for signal in found), reverse=True)
    return {signal.name: signal for signal in found}


def add(database: Database, *rows: object) -> None:
    for row in rows:
        with database.session() as session:
            session.add(row)


def answers(
    count: int, receipt: dict[str, object], *, start: int = 0, user: str = "ada", arm: str = "tandem", age: int = 1
) -> list[AnswerRow]:
    row = {"user": user, "question": "q", "arm": arm, "text": "It is 5.", "receipt": receipt}
    when = NOW - timedelta(days=age)
    return [AnswerRow(id=f"a{n}", created_at=when, **row) for n in range(start, start + count)]


def test_nothing_fires_on_an_empty_installation_with_an_adapter(database: Database, tmp_path: Path) -> None:
    found = signals(database, adapters(tmp_path))
    assert not any(signal.firing for signal in found.values())
    assert all(signal.action.endswith(".") for signal in found.values())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("degraded_answers", {"degraded": "no_adapter"}),
        ("declined_answers", {"declined": True}),
        ("removed_citations", {"removed_markers": 2}),
        ("uncited_answers", {"citations": []}),
    ],
)
def test_a_share_of_bad_answers_fires(database: Database, tmp_path: Path, name: str, change: dict[str, object]) -> None:
    add(database, *answers(12, GOOD), *answers(8, GOOD | change, start=12))
    found = signals(database, adapters(tmp_path))
    assert found[name].firing
    assert found[name].value == pytest.approx(8 / 20)
    assert [signal.name for signal in found.values() if signal.firing] == [name]


def test_few_answers_say_nothing(database: Database, tmp_path: Path) -> None:
    add(database, *answers(MIN_ANSWERS - 1, GOOD | {"degraded": "retrieval_only"}))
    found = signals(database, adapters(tmp_path))["degraded_answers"]
    assert found.value == 1
    assert not found.firing


def test_evaluations_bare_arms_and_old_answers_do_not_count(database: Database, tmp_path: Path) -> None:
    bad = GOOD | {"degraded": "no_adapter", "citations": []}
    add(
        database,
        *answers(20, GOOD),
        *answers(20, bad, start=20, user=EVAL_USER),
        *answers(20, bad, start=40, arm="base"),
        *answers(20, bad, start=60, age=8),
    )
    found = signals(database, adapters(tmp_path))
    assert found["degraded_answers"].sample == 20
    assert not found["uncited_answers"].firing


def test_thumbs_are_told_apart_by_what_they_are_about(database: Database, tmp_path: Path) -> None:
    def thumb(n: int, rating: str, about: str) -> FeedbackRow:
        return FeedbackRow(id=f"f{n}", answer_id=f"a{n}", user="ada", rating=rating, about=about, created_at=NOW)

    add(database, *answers(20, GOOD))
    add(database, thumb(0, "down", "facts"), thumb(1, "down", "facts"), thumb(2, "down", ""), thumb(3, "up", ""))
    found = signals(database, adapters(tmp_path))
    assert found["thumbs_down_facts"].value == pytest.approx(3 / 20)
    assert found["thumbs_down_facts"].firing
    assert not found["thumbs_down_tone"].firing
    add(database, *(thumb(n, "down", "tone") for n in (5, 6)))
    assert signals(database, adapters(tmp_path))["thumbs_down_tone"].firing


def version(id: str, **fields: object) -> VersionRow:
    row = {"document_id": "a.md", "seq": int(id), "state": "published", "indexed": True, "groups": ["everyone"]}
    hashes = {"content_hash": "", "metadata_hash": "", "reader": "", "text": ""}
    when = NOW - timedelta(hours=1)
    return VersionRow(**({"id": id, **row, **hashes, "created_at": when} | fields))


def test_versions_that_the_index_does_not_follow_fire_after_a_while(database: Database, tmp_path: Path) -> None:
    add(
        database,
        DocumentRow(id="a.md", root="", created_at=NOW),
        version("1"),
        version("2", indexed=False, created_at=NOW),
    )
    assert not signals(database, adapters(tmp_path))["stale_index"].firing
    add(database, version("3", indexed=False), version("4", indexed=False, state="staged"))
    assert signals(database, adapters(tmp_path))["stale_index"].value == 1


def test_documents_that_nobody_may_read_fire(database: Database, tmp_path: Path) -> None:
    add(
        database,
        DocumentRow(id="a.md", root="", created_at=NOW),
        version("1", groups=None, state="retired"),
        version("2"),
    )
    assert not signals(database, adapters(tmp_path))["documents_without_groups"].firing
    add(database, DocumentRow(id="b.md", root="", created_at=NOW), version("3", document_id="b.md", groups=None))
    found = signals(database, adapters(tmp_path))["documents_without_groups"]
    assert found.firing
    assert "b.md" in found.detail


def test_the_adapter_must_be_there_whole_and_of_this_prompt(database: Database, tmp_path: Path) -> None:
    none = signals(database, Registry(tmp_path / "empty"))["adapter_mismatch"]
    assert none.firing
    assert "No version of the adapter 'house-style' is active" in none.detail
    other = signals(database, adapters(tmp_path, prompt="another"))["adapter_mismatch"]
    assert other.firing
    assert "trained on the prompt another" in other.detail
    registry = adapters(tmp_path)
    assert not signals(database, registry)["adapter_mismatch"].firing
    (registry.get("house-style").path / "manifest.json").unlink()
    broken = signals(database, registry)["adapter_mismatch"]
    assert broken.firing
    assert "no readable manifest.json" in broken.detail


def training(id: str, hour: int, state: str = "done", gate: dict[str, object] | None = None) -> TrainingRunRow:
    when = datetime(2026, 3, 9, hour, tzinfo=UTC)
    return TrainingRunRow(id=id, state=state, cause="manual", detail={"gate": gate} if gate else None, started_at=when)


def test_the_latest_training_run_decides(database: Database, tmp_path: Path) -> None:
    add(database, training("1", 1, gate={"passed": False, "reasons": ["Citations fell."]}))
    found = signals(database, adapters(tmp_path))["gate_failed"]
    assert found.firing
    assert "Citations fell." in found.detail
    add(database, training("2", 2, gate={"passed": True}), training("3", 3, state="running"))
    assert not signals(database, adapters(tmp_path))["gate_failed"].firing
    add(database, training("4", 4, state="failed"))
    assert signals(database, adapters(tmp_path))["gate_failed"].firing


def test_refused_documents_of_the_latest_run_fire(database: Database, tmp_path: Path) -> None:
    def run(id: str, hour: int, failed: list[object]) -> IngestRunRow:
        when = datetime(2026, 3, 9, hour, tzinfo=UTC)
        return IngestRunRow(id=id, state="done", paths=[], report={"failed": failed}, started_at=when)

    add(database, run("1", 1, [{"path": "x.pdf", "reason": "encrypted"}]))
    assert signals(database, adapters(tmp_path))["refused_documents"].value == 1
    add(database, run("2", 2, []))
    assert not signals(database, adapters(tmp_path))["refused_documents"].firing
