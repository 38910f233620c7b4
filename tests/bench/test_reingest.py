"""What a change costs: chunks embedded against the least possible, and seconds against a full ingest, in one run."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from ingest.report import IngestReport
from ingest.run import Ingestor
from services.model.weights import ensure_models
from tandem.bootstrap import open_generations
from tandem.database import Database
from tandem.settings import REPOSITORY, Settings
from tandem.sparse import SparseEncoder


def touch(root: Path) -> None:
    for path in root.rglob("*.md"):
        os.utime(path)


def rename(root: Path) -> None:
    (root / "finance" / "travel.md").rename(root / "finance" / "business-travel.md")


def edit_one_paragraph(root: Path) -> None:
    path = root / "hr" / "annual-leave.md"
    path.write_text(path.read_text().replace("Full-time employees", "All full-time employees", 1))


def insert_at_the_head(root: Path) -> None:
    path = root / "support" / "support-handbook.md"
    head, title, rest = path.read_text().partition("\n# ")
    path.write_text(f"{head}\n\nThis handbook was read again by the whole team this spring.\n{title}{rest}")


def change_front_matter(root: Path) -> None:
    for path in root.rglob("*.md"):
        path.write_text(path.read_text().replace("owner: ", "owner: the office of ", 1))


CHANGES: tuple[Callable[[Path], None], ...] = (
    touch,
    rename,
    edit_one_paragraph,
    insert_at_the_head,
    change_front_matter,
)


def test_cost_of_changes(settings: Settings, tmp_path: Path) -> None:
    root = tmp_path / "corpus"
    shutil.copytree(REPOSITORY / "samples" / "corpus" / "v1", root)
    settings.data_dir.mkdir(mode=0o700)
    database = Database(settings.database)
    database.migrate()
    ensure_models(settings, base=False)
    generations = open_generations(settings, database)
    ingestor = Ingestor(database, generations, SparseEncoder(), settings)

    def run() -> tuple[IngestReport, float]:
        started = time.perf_counter()
        return ingestor.ingest([root]), time.perf_counter() - started

    full, seconds = run()
    print(f"\n{'full ingest':24} embedded {full.chunks_embedded:4}  reused {full.chunks_reused:4}  {seconds:6.2f} s")
    for change in CHANGES:
        change(root)
        report, took = run()
        print(
            f"{change.__name__:24} embedded {report.chunks_embedded:4}  reused {report.chunks_reused:4}  "
            f"{took:6.2f} s  {took / seconds:5.1%} of a full ingest"
        )
        assert not report.failed
    ingestor.close()
    generations.close()
    database.close()
