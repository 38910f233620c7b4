"""Memory while a folder of a gigabyte streams through an ingest: of this process and of the child that parses."""

import base64
import os
import random
import shutil
import threading
import time
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from docx import Document

from ingest.report import Progress
from ingest.run import Ingestor
from services.model.weights import ensure_models
from tandem.bootstrap import open_generations
from tandem.database import Database
from tandem.settings import Settings
from tandem.sparse import SparseEncoder

GIGABYTES = float(os.environ.get("TANDEM_BENCH_GB", "1"))
_FILE_BYTES = 5_000_000
_NEEDED_BYTES = 3_000_000_000
_EVERY = 0.1
_FLAT = 1.15


class Watcher(threading.Thread):
    """Samples the memory of this process and its children: (files done, resident MiB)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self.samples: list[tuple[int, float]] = []
        self._over = threading.Event()

    def run(self) -> None:
        process = psutil.Process()
        while not self._over.wait(_EVERY):
            resident = 0
            for each in (process, *process.children(recursive=True)):
                try:
                    resident += each.memory_info().rss
                except psutil.Error:  # a fork that has ended
                    continue
            self.samples.append((self.done, resident / 2**20))

    def stop(self) -> None:
        self._over.set()
        self.join()

    def note(self, progress: Progress) -> None:
        self.done = max(self.done, progress.done)

    def around(self, low: float, high: float) -> float:
        """The most that was held between two counts of files."""
        return max(resident for done, resident in self.samples if low <= done <= high)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    free = shutil.disk_usage(tmp_path).free
    if free < _NEEDED_BYTES * max(GIGABYTES, 0.1):
        pytest.skip(f"{free / 1e9:.1f} GB are free in {tmp_path}; this needs {_NEEDED_BYTES * GIGABYTES / 1e9:.1f} GB.")
    root = tmp_path / "folder"
    root.mkdir()
    write_folder(root, round(GIGABYTES * 1e9 / _FILE_BYTES))
    yield root
    shutil.rmtree(root)


def write_folder(root: Path, files: int) -> None:
    """Large files with little text: pages with scripts and inlined images, documents with pictures."""
    draw = random.Random(1)
    noise = draw.randbytes(_FILE_BYTES)
    for number in range(files):
        start = draw.randrange(1_000_000)
        image = noise[start:] + noise[:start]
        text = f"The allowance of site {number} is {draw.randint(2, 900)} EUR a day, and the office there pays it."
        if number % 2:
            (root / f"page-{number:03}.html").write_bytes(_page(number, text, image))
        else:
            (root / f"paper-{number:03}.docx").write_bytes(_paper(number, text, image))


def _page(number: int, text: str, image: bytes) -> bytes:
    inlined = base64.b64encode(image[: _FILE_BYTES // 2]).decode()
    script = f"var table = {list(image[:400_000])};"
    return (
        f"<html><head><title>Page {number}</title><script>{script}</script></head><body><h1>Site {number}</h1>"
        f'<p>{text}</p><img src="data:image/png;base64,{inlined}"><!-- {"kept for later " * 8_000} --></body></html>'
    ).encode()


def _paper(number: int, text: str, image: bytes) -> bytes:
    paper = Document()
    paper.add_heading(f"Site {number}", 1)
    paper.add_paragraph(text)
    out = BytesIO()
    paper.save(out)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr("word/media/image1.png", image)
    return out.getvalue()


def test_memory_stays_flat_while_a_large_folder_streams_through(settings: Settings, folder: Path) -> None:
    settings.data_dir.mkdir(mode=0o700)
    ensure_models(settings, base=False)
    database = Database(settings.database)
    database.migrate()
    generations = open_generations(settings, database)
    ingestor = Ingestor(database, generations, SparseEncoder(), settings)
    files = len(list(folder.iterdir()))
    size = sum(path.stat().st_size for path in folder.iterdir())
    watcher = Watcher()
    watcher.start()
    started = time.perf_counter()
    report = ingestor.ingest([folder], groups=("everyone",), on_progress=watcher.note)
    seconds = time.perf_counter() - started
    watcher.stop()
    ingestor.close()
    generations.close()
    database.close()
    early, late = watcher.around(0.05 * files, 0.25 * files), watcher.around(0.85 * files, files)
    peak = max(resident for _, resident in watcher.samples)
    print(
        f"\n{size / 1e9:.2f} GB in {files} files, {report.chunks_embedded} passages, {seconds:.0f} s: "
        f"{early:.0f} MiB in the first quarter, {late:.0f} MiB in the last tenth, {peak:.0f} MiB at most"
    )
    assert not report.failed
    assert late <= _FLAT * early
