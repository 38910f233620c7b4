"""Ingestion on the real SQLite, the real embedded Qdrant and the real embedder: what changes, what it costs, what is
seen meanwhile, and what a crash leaves behind."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from ingest.engine import LocalEngine
from ingest.lock import exclusive
from ingest.publish import Publisher
from ingest.removal import Remover
from ingest.report import IngestReport, Progress
from ingest.run import Ingestor
from ingest.sandbox import Sandbox
from ingest.watch import watch
from services.chat.library import Library
from tandem.database import Database
from tandem.errors import Busy, InputError, NotFound
from tandem.generations import Generations
from tandem.retriever import Retriever
from tandem.schemas import Metadata, Principal
from tandem.settings import IngestSettings, Settings, load_settings
from tandem.sparse import SparseEncoder
from tandem.tables import AnswerRow, ChunkRow, EmbeddingRow, IngestRunRow, StyleCandidateRow, VersionRow
from tandem.vectors import VectorIndex
from tests.days import today

OpenIndex = Callable[[Settings, Database], Generations]
ADMIN = Principal(user="root", admin=True)
ADA = Principal(user="ada", groups=frozenset({"everyone"}))


@dataclass
class House:
    """Everything an ingest needs, on one data directory."""

    settings: Settings
    database: Database
    generations: Generations
    sparse: SparseEncoder
    engine: LocalEngine
    retriever: Retriever

    def ingestor(self, publisher: type[Publisher] = Publisher, remover: type[Remover] = Remover) -> Ingestor:
        return Ingestor(
            self.database,
            self.generations,
            self.sparse,
            self.settings,
            engine=self.engine,
            publisher=publisher,
            remover=remover,
        )

    @property
    def index(self) -> VectorIndex:
        return self.generations.live().index

    def ingest(self, *paths: Path, **options) -> IngestReport:
        return self.ingestor().ingest(paths, **options)

    def texts(self, question: str = "EUR", who: Principal = ADMIN, on: date | None = None) -> list[str]:
        """Everything that the question finds, today if no day is given."""
        found = self.retriever.authorised_search(question, who, on or today(), candidates=200)
        return sorted(each.chunk.text for each in found)

    def count(self, table) -> int:
        with self.database.session() as session:
            return session.scalar(select(func.count()).select_from(table))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(IngestSettings()) as box:
        yield box


@pytest.fixture
def house(tmp_path: Path, open_index: OpenIndex, sandbox: Sandbox) -> Iterator[House]:
    settings = load_settings(data_dir=tmp_path / "data", ingest={"lock_timeout": 0.5})
    database = Database(settings.database)
    database.migrate()
    generations = open_index(settings, database)
    sparse = SparseEncoder()
    retriever = Retriever(database, generations, sparse, settings.retrieval)
    yield House(settings, database, generations, sparse, LocalEngine(settings.ingest, sandbox), retriever)
    generations.close()
    database.close()


def write(root: Path, **files: str) -> Path:
    """Writes `name__in__folder` as name/in/folder.md."""
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def policy(amount: int, groups: str = "everyone", head: str = "") -> str:
    return f"---\ngroups: [{groups}]\n{head}---\n# Meals\n\nThe meal allowance is EUR {amount} a day.\n"


LONG = "# Handbook\n\n" + "\n\n".join(f"## Part {n}\n\nRule {n} costs EUR {n * 7}." for n in range(40))


def ids(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.md" for name in names)


# What a change costs


def test_the_first_ingest_adds_and_the_second_finds_nothing_to_do(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", travel=policy(45), hr__leave=policy(7, "hr"))
    first = house.ingest(root)
    assert (first.added, first.updated, first.deleted, first.failed) == (ids("hr/leave", "travel"), (), (), ())
    assert (first.chunks_embedded, first.chunks_reused) == (2, 0)
    second = house.ingest(root)
    assert (second.unchanged, second.chunks_embedded, second.chunks_reused) == (ids("hr/leave", "travel"), 0, 2)
    assert house.count(VersionRow) == 2
    assert house.texts(who=ADA) == ["The meal allowance is EUR 45 a day."]
    assert len(house.texts(who=ADMIN)) == 2


def test_touching_renaming_and_new_metadata_embed_nothing(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", handbook=LONG, travel=policy(45))
    house.ingest(root, groups=("everyone",))

    os.utime(root / "handbook.md", (1, 1))
    assert house.ingest(root, groups=("everyone",)).unchanged == ids("handbook", "travel")

    (root / "handbook.md").write_text(LONG + "\n\n\n<!-- a remark -->\n", encoding="utf-8")
    touched = house.ingest(root, groups=("everyone",))
    assert (touched.unchanged, touched.chunks_embedded) == (ids("handbook", "travel"), 0)

    (root / "moved").mkdir()
    (root / "handbook.md").rename(root / "moved" / "book.md")
    renamed = house.ingest(root, groups=("everyone",))
    assert (renamed.added, renamed.deleted) == (ids("moved/book"), ids("handbook"))
    assert (renamed.chunks_embedded, renamed.chunks_reused) == (0, 41)

    (root / "travel.md").write_text(policy(45, head="owner: finance\n"), encoding="utf-8")
    relabelled = house.ingest(root, groups=("everyone",))
    assert (relabelled.updated, relabelled.chunks_embedded) == (ids("travel"), 0)


def test_an_edited_paragraph_embeds_one_chunk(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", handbook=LONG)
    assert house.ingest(root).chunks_embedded == 40
    write(root, handbook=LONG.replace("Rule 20 costs", "Rule 20 now costs"))
    edited = house.ingest(root)
    assert (edited.updated, edited.chunks_embedded, edited.chunks_reused) == (ids("handbook"), 1, 39)
    assert "Rule 20 costs EUR 140." not in house.texts("Rule 20")
    assert house.count(EmbeddingRow) == 41  # the old version keeps its text, for as_of and receipts


def section(number: int) -> str:
    """A section of several passages."""
    rules = "\n\n".join(
        f"Rule {number}.{n}: whoever travels on day {n * 31 + number} pays EUR {n * 7 + number} to desk {n * number}, "
        f"keeps receipt {n * 1013 + number}, and asks office {n * 17 + number} before the end of week {n + number} "
        f"whether the sum of EUR {n * 89 + number} has been noted in ledger {n * 53 + number} of that year."
        for n in range(1, 13)
    )
    return f"## Section {number}\n\n{rules}\n\n"


def manual(*numbers: int) -> str:
    return "# Manual\n\n" + "".join(map(section, numbers))


def test_only_new_text_is_embedded_wherever_it_stands(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", one=manual(*range(1, 9)), two=manual(*range(11, 15)))
    full = house.ingest(root).chunks_embedded
    assert full >= 40

    def embedded(**files: str) -> int:
        return house.ingest(write(root, **files)).chunks_embedded

    assert embedded(one=manual(1, 2, 4, 5, 6, 7, 8, 3)) == 0  # moved within
    assert embedded(one=manual(1, 2, 4, 5, 6, 8, 3), two=manual(11, 7, 12, 13, 14)) == 0  # moved across
    assert embedded(two=f"---\nowner: the office\n---\n{manual(11, 7, 12, 13, 14)}") == 0
    head = manual(1, 2, 4, 5, 6, 8, 3).replace("# Manual\n", "# Manual\n\nIt was read again in spring.\n", 1)
    assert embedded(one=head) == 1
    inside = head.replace("## Section 1\n", "## Section 1\n\nWhoever is new here reads this first.\n", 1)
    assert embedded(one=inside) <= 2
    edited = inside
    for number in (1, 2, 4, 5, 6, 8):  # one paragraph in each of six sections
        edited = edited.replace(f"Rule {number}.5: whoever travels", f"Rule {number}.5: whoever ever travels", 1)
    assert embedded(one=edited) <= 7


def test_a_dry_run_says_what_would_happen_and_does_nothing(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", a=policy(1), b=policy(2))
    house.ingest(root)
    write(root, a=policy(10), c=policy(3))
    (root / "b.md").unlink()
    dry = house.ingest(root, dry_run=True)
    assert (dry.dry_run, dry.added, dry.updated, dry.deleted) == (True, ids("c"), ids("a"), ids("b"))
    assert dry.chunks_embedded == 2
    assert house.texts() == ["The meal allowance is EUR 1 a day.", "The meal allowance is EUR 2 a day."]
    wet = house.ingest(root)
    assert (wet.added, wet.updated, wet.deleted, wet.chunks_embedded) == (dry.added, dry.updated, dry.deleted, 2)


def test_many_documents_are_published_group_by_group(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", **{f"d{n}": policy(n) for n in range(150)})
    seen: list[Progress] = []
    report = house.ingest(root, on_progress=seen.append)
    assert len(report.added) == 150
    assert len(house.texts()) == 150
    assert [progress.done for progress in seen if progress.stage == "read"] == list(range(150))
    assert seen[-1].done == seen[-1].total == 150


# Roots


def test_a_second_version_of_a_folder_takes_the_place_of_the_first(house: House, tmp_path: Path) -> None:
    v1 = write(tmp_path / "v1", a=policy(1), b=policy(2), c=policy(3))
    v2 = write(tmp_path / "v2", a=policy(1), b=policy(20), d=policy(4))
    house.ingest(v1)
    report = house.ingest(v2)
    assert (report.added, report.updated, report.unchanged, report.deleted) == (ids("d"), ids("b"), ids("a"), ids("c"))
    assert "takes the place of" in report.warnings[0]
    assert [text[26:-7] for text in house.texts()] == ["1", "20", "4"]
    assert house.ingest(v2).unchanged == ids("a", "b", "d")


def test_another_folder_leaves_the_first_alone(house: House, tmp_path: Path) -> None:
    one = write(tmp_path / "one", a=policy(1), b=policy(2), readme=policy(3))
    two = write(tmp_path / "two", x=policy(4), readme=policy(5))
    house.ingest(one)
    report = house.ingest(two)
    assert (report.added, report.deleted) == (ids("x"), ())
    assert [(failure.path, failure.reason) for failure in report.failed] == [("readme.md", "conflict")]
    assert "The meal allowance is EUR 3 a day." in house.texts()


def test_a_file_belongs_to_the_folder_that_was_ingested_around_it(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", sub__a=policy(1), b=policy(2))
    house.ingest(root)
    write(root, sub__a=policy(10))
    (root / "b.md").unlink()
    report = house.ingest(root / "sub" / "a.md")
    assert (report.updated, report.deleted) == (ids("sub/a"), ())  # a file is no sync
    assert house.ingest(root / "sub").unchanged == ids("sub/a")
    assert house.ingest(root).deleted == ids("b")


def test_single_files_and_inner_folders_join_the_folder_around_them(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", sub__a=policy(1), b=policy(2))
    assert house.ingest(root / "b.md").added == ids("b")
    assert house.ingest(root / "sub").added == ids("a")
    report = house.ingest(root)
    assert (report.added, report.unchanged, report.deleted) == (ids("sub/a"), ids("b"), ids("a"))
    assert (report.chunks_embedded, len(house.texts())) == (0, 2)


@pytest.mark.parametrize("make", ["missing", "empty", "only metadata"])
def test_nothing_to_ingest_is_an_error_and_deletes_nothing(house: House, tmp_path: Path, make: str) -> None:
    root = write(tmp_path / "docs", a=policy(1))
    house.ingest(root)
    (root / "a.md").unlink()
    if make == "missing":
        root.rmdir()
    elif make == "only metadata":
        (root / "_folder.yaml").write_text("groups: [everyone]")
        (root / ".hidden.md").write_text("x")
    with pytest.raises(InputError, match=r"docs.*\."):
        house.ingest(root)
    assert len(house.texts()) == 1


# Refusals


def test_bad_files_are_listed_and_the_rest_goes_on(house: House, tmp_path: Path) -> None:
    outside = write(tmp_path / "outside", secret="The secret costs EUR 99.")
    root = write(tmp_path / "docs", good=policy(1), dated="---\neffective_from: soon\n---\nText", blank=" ")
    (root / "image.png").write_bytes(b"\x89PNG")
    (root / "broken.pdf").write_bytes(b"%PDF-1.4 broken")
    (root / "link.md").symlink_to(outside / "secret.md")
    (root / "folder").symlink_to(outside)
    (root / "inside.md").symlink_to(root / "good.md")
    (root / "loop.md").symlink_to(root / "loop.md")
    os.mkfifo(root / "pipe.md")
    report = house.ingest(root)
    assert report.added == ids("good", "inside")
    assert {failure.path: failure.reason for failure in report.failed} == {
        "blank.md": "no_text",
        "broken.pdf": "corrupt",
        "dated.md": "metadata",
        "folder": "hostile",
        "image.png": "unsupported",
        "link.md": "hostile",
        "loop.md": "unreadable",
        "pipe.md": "unreadable",
    }
    assert all(failure.message.endswith(".") for failure in report.failed)
    assert not any("secret" in text for text in house.texts())


def test_a_document_that_became_unreadable_keeps_its_last_good_version(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", a=policy(1), b=policy(2))
    house.ingest(root)
    write(root, a=policy(10, head="effective_until: never\n"))
    report = house.ingest(root)
    assert ([failure.path for failure in report.failed], report.deleted) == (["a.md"], ())
    assert "The meal allowance is EUR 1 a day." in house.texts()


def test_documents_without_groups_are_for_admins_and_the_report_says_the_way_out(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", a="The fee is EUR 5.")
    report = house.ingest(root)
    assert "_folder.yaml" in report.warnings[0]
    assert "--groups everyone" in report.warnings[0]
    assert (house.texts(who=ADA), len(house.texts(who=ADMIN))) == ([], 1)
    opened = house.ingest(root, groups=("everyone",))
    assert (opened.updated, opened.chunks_embedded, opened.warnings) == (ids("a"), 0, ())
    assert house.texts(who=ADA) == ["The fee is EUR 5."]


# Dates and groups


def test_the_past_stays_and_the_future_waits(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", a=policy(1, head="effective_from: 2024-01-01\n"))
    house.ingest(root)
    write(root, a=policy(2, head="effective_from: 2025-01-01\n"))
    house.ingest(root)
    now = today()
    tomorrow = now + timedelta(1)
    write(root, a=policy(3, head=f"effective_from: {tomorrow}\n"))
    house.ingest(root)

    def amount(on: date) -> list[str]:
        return [text[26:-7] for text in house.texts(on=on)]

    assert amount(date(2023, 12, 31)) == []
    assert amount(date(2024, 12, 31)) == ["1"]
    assert amount(date(2025, 1, 1)) == ["2"]
    assert amount(now) == ["2"]
    assert amount(tomorrow) == ["3"]
    library = Library(house.database, today=lambda: now)
    assert [version.status for version in library.versions("a.md", ADA)] == ["upcoming", "live", "ended"]


def test_a_group_that_loses_a_document_loses_its_past_too(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", a=policy(1, head="effective_from: 2024-01-01\n"))
    house.ingest(root)
    write(root, a=policy(2, "hr", head="effective_from: 2025-01-01\n"))
    house.ingest(root)
    assert house.texts(who=ADA, on=date(2024, 6, 1)) == []
    assert len(house.texts(who=Principal(user="h", groups=frozenset({"hr"})), on=date(2024, 6, 1))) == 1


def test_only_so_many_versions_are_kept(house: House, tmp_path: Path) -> None:
    house.settings = house.settings.model_copy(
        update={"ingest": house.settings.ingest.model_copy(update={"keep_versions": 2})}
    )
    root = tmp_path / "docs"
    for year in range(2020, 2025):
        house.ingest(write(root, a=policy(year, head=f"effective_from: {year}-01-01\n")))
    assert (house.count(VersionRow), house.count(EmbeddingRow)) == (2, 2)
    assert house.texts(on=date(2020, 6, 1)) == []
    assert house.texts(on=date(2023, 6, 1)) == ["The meal allowance is EUR 2023 a day."]
    assert sum(house.index.version_counts().values()) == 2


# Crashes


class Crash(Exception):
    """Raised by the test where a process could die."""


def crashing(base: type, step: str, after: bool) -> type:
    """A subclass that dies right before or right after one of its steps."""

    def method(self, *args):
        if after:
            getattr(base, step)(self, *args)
        raise Crash

    return type(f"Crashing{base.__name__}", (base,), {step: method})


def halfway(base: type) -> type:
    """A publisher that dies when half of the points are written."""

    def write_half(self, changes) -> None:
        base.write(self, changes[: len(changes) // 2])
        raise Crash

    return type("Halfway", (base,), {"write": write_half})


STEPS = [(step, after) for step in ("embed", "stage", "write", "verify", "commit", "show") for after in (False, True)]
OLD = sorted(f"The meal allowance is EUR {n} a day." for n in (1, 2))
NEW = sorted(f"The meal allowance is EUR {n} a day." for n in (2, 10, 30))


def changed_corpus(house: House, tmp_path: Path) -> Path:
    root = write(tmp_path / "docs", a=policy(1), b=policy(2))
    house.ingest(root)
    write(root, a=policy(10), c=policy(30))
    return root


def assert_converged(house: House, root: Path) -> None:
    house.ingest(root)
    assert house.texts(who=ADA) == NEW
    settled = house.ingest(root)
    assert (settled.unchanged, settled.added, settled.updated) == (ids("a", "b", "c"), (), ())
    with house.database.session() as session:
        versions = session.execute(select(VersionRow.id, VersionRow.state, VersionRow.chunk_count)).all()
        states = {row.state for row in session.scalars(select(IngestRunRow))}
    assert "staged" not in {state for _, state, _ in versions}
    assert "running" not in states
    published = {id: chunks for id, state, chunks in versions if state == "published"}
    assert house.index.version_counts() == published  # nothing lost, nothing doubled, nothing left over


@pytest.mark.parametrize(("step", "after"), STEPS, ids=[f"{'after' if late else 'before'} {s}" for s, late in STEPS])
def test_a_crash_leaves_the_old_or_the_new_whole(house: House, tmp_path: Path, step: str, after: bool) -> None:
    root = changed_corpus(house, tmp_path)
    ingestor = house.ingestor(publisher=crashing(Publisher, step, after))
    with pytest.raises(Crash):
        ingestor.ingest([root])
    committed = (step, after) in (("commit", True), ("show", False), ("show", True))
    assert house.texts(who=ADA) == (NEW if committed else OLD)
    assert_converged(house, root)


def test_a_crash_in_the_middle_of_writing_shows_nothing(house: House, tmp_path: Path) -> None:
    root = changed_corpus(house, tmp_path)
    ingestor = house.ingestor(publisher=halfway(Publisher))
    with pytest.raises(Crash):
        ingestor.ingest([root])
    assert house.texts(who=ADA) == OLD
    assert_converged(house, root)


@pytest.mark.parametrize(
    ("step", "after"), [("withdraw", False), ("withdraw", True), ("erase", False), ("erase", True)]
)
def test_a_crash_in_a_deletion_leaves_the_document_or_nothing_of_it(
    house: House, tmp_path: Path, step: str, after: bool
) -> None:
    root = write(tmp_path / "docs", a=policy(1), b=policy(2))
    house.ingest(root)
    (root / "a.md").unlink()
    ingestor = house.ingestor(remover=crashing(Remover, step, after))
    with pytest.raises(Crash):
        ingestor.ingest([root])
    left = ["The meal allowance is EUR 2 a day."]
    assert house.texts() == (OLD if (step, after) == ("withdraw", False) else left)
    house.ingest(root)
    assert house.texts() == left
    assert (house.count(VersionRow), house.count(ChunkRow), house.count(EmbeddingRow)) == (1, 1, 1)
    assert sum(house.index.version_counts().values()) == 1


def test_an_index_that_lost_points_is_rebuilt_without_embedding(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", a=policy(1), b=policy(2))
    house.ingest(root)
    for version_id in house.index.version_counts():
        house.index.delete_version(version_id)
    assert house.texts() == []
    report = house.ingest(root)
    assert (report.unchanged, report.chunks_embedded) == (ids("a", "b"), 0)
    assert house.texts() == OLD


# Deleting, uploading, waiting, watching


def test_deleting_reaches_everything_made_from_the_document(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", a=policy(1), b=policy(2))
    house.ingest(root)
    now = datetime.now(UTC)
    with house.database.session() as session:
        for id, cited in (("one", "a.md"), ("two", "b.md")):
            receipt = {"passages": [{"document_id": cited, "quote": "EUR"}], "citations": []}
            session.add(
                AnswerRow(id=id, user="u", question="q", arm="tandem", text="EUR", receipt=receipt, created_at=now)
            )
            session.add(StyleCandidateRow(id=id, answer_id=id, document_ids=[cited], example={}, created_at=now))
        echo = {"answer_id": "one", "document_ids": [], "example": {}}  # of an answer that repeats the document's text
        session.add(StyleCandidateRow(id="echo", created_at=now, **echo))
    ingestor = house.ingestor()
    report = ingestor.delete("a.md", user="ada")
    with pytest.raises(NotFound, match=r"a\.md"):
        ingestor.delete("a.md")
    assert report.complete
    assert (report.versions, report.chunks, report.points, report.embeddings) == (1, 1, 1, 1)
    assert (report.answers, report.style_candidates) == (1, 2)
    assert (house.count(AnswerRow), house.count(StyleCandidateRow), house.count(VersionRow)) == (1, 1, 1)
    assert house.texts() == ["The meal allowance is EUR 2 a day."]


def test_uploads_are_documents_that_no_folder_owns(house: House, tmp_path: Path) -> None:
    ingestor = house.ingestor()
    first = ingestor.ingest_upload("hr/a.md", b"The fee is EUR 5.", Metadata(groups=("everyone",), title="Fee"))
    assert first.added == ids("hr/a")
    second = ingestor.ingest_upload("hr/a.md", b"The fee is EUR 6.", Metadata(groups=("everyone",), title="Fee"))
    assert second.updated == ids("hr/a")
    refused = ingestor.ingest_upload("b.exe", b"MZ")
    assert refused.failed[0].reason == "unsupported"
    for name in ("../a.md", "/a.md", ".a.md", "a\\b.md", "a/../b.md", "a\x00.md", "", "x" * 2000):
        with pytest.raises(InputError, match="cannot be named"):
            ingestor.ingest_upload(name, b"x")
    house.ingest(write(tmp_path / "docs", b=policy(1)))
    assert "The fee is EUR 6." in house.texts(who=ADA)


def test_a_second_ingest_waits_and_then_says_so(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", a=policy(1))
    with exclusive(house.settings.data_dir, 0), pytest.raises(Busy, match="Another ingest"):
        house.ingest(root)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive(house.settings.data_dir, 0):
            inside.set()
            leave.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(10)
    threading.Timer(0.1, leave.set).start()
    assert house.ingest(root).added == ids("a")
    holder.join()


async def test_watching_catches_up_and_follows(house: House, tmp_path: Path) -> None:
    root = write(tmp_path / "docs", a=policy(1))
    reports: asyncio.Queue[IngestReport] = asyncio.Queue()
    stop = asyncio.Event()
    ingestor = house.ingestor()
    task = asyncio.create_task(watch(ingestor, [root], stop, on_report=reports.put_nowait, debounce_ms=100))
    assert (await asyncio.wait_for(reports.get(), 60)).added == ids("a")
    write(root, b=policy(2))
    assert (await asyncio.wait_for(reports.get(), 60)).added == ids("b")
    stop.set()
    await asyncio.wait_for(task, 10)
