"""The stages on a real Ray with two workers of this machine: what comes out is what the local engine makes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from ingest.engine import Engine, Job, LocalEngine, Prepared, open_engine
from ingest.run import Ingestor
from tandem.database import Database
from tandem.embedder import Embedder
from tandem.errors import DocumentError, SettingsError, Unavailable
from tandem.generations import Generations
from tandem.settings import REPOSITORY, Settings, load_settings
from tandem.sparse import SparseEncoder
from tandem.tables import ChunkRow, VersionRow

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
CORPUS = REPOSITORY / "samples" / "corpus" / "v2"
SPLITTER = load_settings().splitter


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Iterator[Engine]:
    engine = open_engine(load_settings(ingest={"engine": "ray", "ray_workers": 2}))
    yield engine
    engine.close()
    assert not ray.is_initialized()


def jobs() -> list[Job]:
    good = [Job(path.name, path.read_bytes()) for path in sorted(CORPUS.rglob("*.md"))[:9]]
    return [*good[:4], Job("broken.pdf", b"no PDF at all"), *good[4:], Job("empty.md", b"")]


def test_the_workers_read_and_split_as_the_local_engine_does(engine: Engine):
    local = LocalEngine(load_settings().ingest)
    expected = list(local.prepare(jobs(), SPLITTER, "m"))
    local.close()
    found = list(engine.prepare(jobs(), SPLITTER, "m"))
    assert [each for each in found if isinstance(each, Prepared)] == [e for e in expected if isinstance(e, Prepared)]
    for each, other in zip(found, expected, strict=True):
        assert isinstance(each, DocumentError) == isinstance(other, DocumentError)
        if isinstance(each, DocumentError) and isinstance(other, DocumentError):
            assert (each.reason, each.message) == (other.reason, other.message)


def test_the_workers_embed_as_this_process_does(engine: Engine, embedder: Embedder):
    texts = [f"Rule {n}: " + "a claim is settled within days. " * (n % 7) for n in range(150)]
    found, expected = engine.embed(embedder, texts), embedder.embed(texts)
    assert np.sum(found * expected, axis=1).min() > 0.9999
    assert engine.embed(embedder, []).shape == (0, embedder.dimension)


def test_an_ingest_on_ray_publishes_the_same(
    engine: Engine, open_index: Callable[[Settings, Database], Generations], tmp_path: Path
):
    reports, rows = [], []
    for name, used in (("ray", engine), ("local", None)):
        settings = load_settings(data_dir=tmp_path / name)
        database = Database(settings.database)
        database.migrate()
        generations = open_index(settings, database)
        ingestor = Ingestor(database, generations, SparseEncoder(), settings, engine=used)
        reports.append(ingestor.ingest([CORPUS]))
        again = ingestor.ingest([CORPUS])
        assert again.chunks_embedded == 0
        ingestor.close()
        live = generations.live()
        with database.session() as session:
            rows.append(sorted((row.id, row.key, row.text) for row in session.scalars(select(ChunkRow))))
            versions = session.scalars(select(VersionRow)).all()
        assert live.index.version_counts() == {version.id: version.chunk_count for version in versions}
        generations.close()
        database.close()
    assert rows[0] == rows[1]
    assert reports[0].added == reports[1].added
    assert reports[0].failed == reports[1].failed
    assert reports[0].chunks_embedded == reports[1].chunks_embedded > 100


def test_a_worker_that_dies_is_told_or_replaced(engine: Engine):
    """A worker is killed in the middle; Ray starts it anew, and the calls are made again."""
    for worker in engine._readers:  # type: ignore[attr-defined]
        ray.kill(worker, no_restart=False)
    assert len(list(engine.prepare(jobs(), SPLITTER, "m"))) == len(jobs())


def test_a_cluster_that_is_not_there_is_told(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("nobody there")))
    settings = load_settings(ingest={"engine": "ray", "ray_address": "127.0.0.1:1"})
    with pytest.raises(Unavailable, match="RAY_ADDRESS"):
        open_engine(settings)


def test_without_the_extra_the_engine_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(SettingsError, match=r"tandem-assistant\[ray\]"):
        open_engine(load_settings(ingest={"engine": "ray"}))
