"""The real embedded Qdrant on a real folder."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from qdrant_client import QdrantClient

from tandem.errors import IndexUnavailable
from tandem.points import Point, Scope
from tandem.qdrant import Qdrant, open_qdrant
from tandem.settings import Settings, load_settings
from tandem.sparse import SparseVector
from tandem.vectors import VectorIndex

DIMENSION = 16
COLLECTION = "tandem-test"
DAY = date(2026, 3, 1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data")


@pytest.fixture
def qdrant(settings: Settings) -> Iterator[Qdrant]:
    qdrant = open_qdrant(settings)
    qdrant.create(COLLECTION, DIMENSION)
    yield qdrant
    qdrant.close()


@pytest.fixture
def index(qdrant: Qdrant) -> VectorIndex:
    return VectorIndex(qdrant, COLLECTION)


def make_points(count: int, *, version: str = "v", document: str = "d", seed: int = 0) -> list[Point]:
    rng = np.random.default_rng(seed)
    return [
        Point(
            id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{version}-{seed}-{n}")),
            document_id=document,
            version_id=version,
            dense=make_dense(rng),
            sparse=make_sparse(rng),
        )
        for n in range(count)
    ]


def make_dense(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    vector = rng.standard_normal(DIMENSION).astype(np.float32)
    return vector / np.linalg.norm(vector)


def make_sparse(rng: np.random.Generator) -> SparseVector:
    indices = sorted(rng.choice(40, size=8, replace=False).tolist())
    return SparseVector(tuple(indices), tuple(rng.uniform(0.1, 2, size=8).tolist()))


def publish(index: VectorIndex, points: list[Point], **standing: object) -> None:
    index.write(points)
    terms = {"live_from": None, "live_until": None, "groups": ["everyone"], **standing}
    index.settle([point.id for point in points], **terms)


def ids(index: VectorIndex, scope: Scope, *, seed: int = 7) -> list[str]:
    question = make_points(1, seed=seed)[0]
    found = index.query(question.dense, question.sparse, scope, candidates=500)
    return [hit.chunk_id for hit in found]


EVERYONE = Scope(as_of=DAY, groups=frozenset({"everyone"}))
ADMIN = Scope(as_of=DAY, groups=None)


def test_points_are_written_invisible_and_counted(index: VectorIndex):
    index.write(make_points(300))
    assert index.count("v") == 300
    assert index.count("other") == 0
    assert ids(index, ADMIN) == []


def test_settling_shows_to_whom_it_says(index: VectorIndex):
    points = make_points(300)
    publish(index, points)
    assert set(ids(index, EVERYONE)) == {point.id for point in points}
    index.settle([point.id for point in points], live_from=None, live_until=None, groups=["hr"])
    assert ids(index, EVERYONE) == []


def test_points_are_counted_and_deleted_by_id(index: VectorIndex):
    points = make_points(300)
    index.write(points[:280])
    chunk_ids = [point.id for point in points]
    assert index.present(chunk_ids) == 280
    index.delete(chunk_ids[20:])
    assert index.present(chunk_ids) == 20
    assert index.count("v") == 20


def test_settling_points_that_are_lost_is_told(index: VectorIndex):
    points = make_points(2)
    index.write(points[:1])
    with pytest.raises(IndexUnavailable):
        index.settle([point.id for point in points], live_from=None, live_until=None, groups=["everyone"])


def test_writing_twice_keeps_one_of_each(index: VectorIndex):
    points = make_points(5)
    index.write(points)
    publish(index, points)
    assert index.count("v") == 5
    assert len(ids(index, EVERYONE)) == 5


def test_deleting_a_version_and_a_document(index: VectorIndex):
    for version, document in (("v1", "d1"), ("v2", "d1"), ("v3", "d2")):
        publish(index, make_points(3, version=version, document=document))
    assert index.version_counts() == {"v1": 3, "v2": 3, "v3": 3}
    index.delete_version("v1")
    assert set(index.version_counts()) == {"v2", "v3"}
    index.delete_documents(["d1"])
    assert set(index.version_counts()) == {"v3"}
    assert set(ids(index, ADMIN)) == {point.id for point in make_points(3, version="v3", document="d2")}


def test_admins_only_documents_and_unknown_groups(index: VectorIndex):
    publish(index, make_points(2, version="none"), groups=None)
    publish(index, make_points(2, version="empty"), groups=[])
    assert ids(index, EVERYONE) == []
    assert len(ids(index, ADMIN)) == 4


def test_a_scope_without_groups_cannot_be_made():
    with pytest.raises(ValueError, match="finds nothing"):
        Scope(as_of=DAY, groups=frozenset())


def test_everything_is_there_after_reopening(qdrant: Qdrant, index: VectorIndex, settings: Settings):
    publish(index, make_points(30), live_from=date(2026, 1, 1))
    before = ids(index, EVERYONE)
    qdrant.close()
    reopened = open_qdrant(settings)
    again = VectorIndex(reopened, COLLECTION)
    assert ids(again, EVERYONE) == before
    assert again.count("v") == 30
    reopened.close()


@pytest.mark.parametrize("reopened", [False, True])
def test_a_scope_finds_what_it_admits_and_nothing_else(
    qdrant: Qdrant, index: VectorIndex, settings: Settings, reopened: bool
):
    """Every kind of version against every kind of scope; the test works out by itself what must be found."""
    first, last = date.min, date.max
    versions = {
        "open": (["everyone"], first, last, True),
        "closed": (["hr", "board"], first, last, True),
        "unsaid": (None, first, last, True),
        "hidden": (["everyone"], first, last, False),
        "from today": (["everyone"], date(2026, 3, 1), last, True),
        "from tomorrow": (["everyone"], date(2026, 3, 2), last, True),
        "until today": (["everyone"], first, date(2026, 3, 1), True),
        "closed, a year": (["hr"], date(2025, 1, 1), date(2026, 3, 2), True),
    }
    points = {name: make_points(3, version=name, seed=n) for n, name in enumerate(versions)}
    for name, (groups, since, until, visible) in versions.items():
        if visible:
            live = {"live_from": None if since == first else since, "live_until": None if until == last else until}
            publish(index, points[name], groups=groups, **live)
        else:
            index.write(points[name])
    points["staged"] = make_points(3, version="staged", seed=50)
    index.write(points["staged"])
    if reopened:
        qdrant.close()
        qdrant = open_qdrant(settings)
        index = VectorIndex(qdrant, COLLECTION)
    for day in (date(2026, 2, 28), date(2026, 3, 1), date(2026, 3, 2)):
        for groups in (None, {"everyone"}, {"hr", "x"}, {"nobody"}):
            for admitted, excluded in ((set(), set()), ({"hidden", "staged"}, {"open"}), ({"unsaid", "x"}, {"closed"})):
                scope = Scope(
                    day, None if groups is None else frozenset(groups), frozenset(admitted), frozenset(excluded)
                )
                expected = {
                    name
                    for name, (readers, since, until, visible) in versions.items()
                    if visible and since <= day < until and (groups is None or groups & set(readers or ()))
                } - excluded | (admitted & points.keys())
                assert sorted(ids(index, scope)) == sorted(point.id for name in expected for point in points[name])
    if reopened:
        qdrant.close()


def test_meaning_and_words_are_fused_by_rank(index: VectorIndex):
    points = make_points(40)
    publish(index, points)
    question = make_points(1, seed=7)[0]
    by_meaning = sorted(points, key=lambda point: -float(point.dense @ question.dense))
    by_words = sorted(points, key=lambda point: -point.sparse.dot(question.sparse))
    by_words = [point for point in by_words if set(point.sparse.indices) & set(question.sparse.indices)]
    scores = {point.id: 0.0 for point in points}
    for ranking in (by_meaning[:15], by_words[:15]):
        for rank, point in enumerate(ranking):
            scores[point.id] += 1 / (10 + rank)
    found = index.query(question.dense, question.sparse, EVERYONE, candidates=15)
    assert len(found) == 15
    assert [hit.score for hit in found] == pytest.approx(sorted(scores.values(), reverse=True)[:15])
    assert [hit.score for hit in found] == pytest.approx([scores[hit.chunk_id] for hit in found])
    cosines = {point.id: float(point.dense @ question.dense) for point in points}
    assert [hit.similarity for hit in found] == pytest.approx([cosines[hit.chunk_id] for hit in found], abs=1e-5)


def test_without_words_meaning_decides(index: VectorIndex):
    points = make_points(20)
    publish(index, points)
    question = make_points(1, seed=7)[0]
    found = index.query(question.dense, SparseVector(), EVERYONE, candidates=5)
    nearest = sorted(points, key=lambda point: -float(point.dense @ question.dense))[:5]
    assert [hit.chunk_id for hit in found] == [point.id for point in nearest]


def test_a_failed_change_is_told_and_leaves_what_was(index: VectorIndex, monkeypatch: pytest.MonkeyPatch):
    publish(index, make_points(4))
    with monkeypatch.context() as fault:
        fault.setattr(QdrantClient, "set_payload", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(IndexUnavailable, match="disk full"):
            index.settle([point.id for point in make_points(4)], live_from=None, live_until=None, groups=None)
    assert len(ids(index, EVERYONE)) == 4


def test_threads_may_write_and_search_at_once(index: VectorIndex):
    publish(index, make_points(50, version="base"))
    failures: list[BaseException] = []

    def attempt(work: int) -> None:
        try:
            for turn in range(6):
                if work % 2:
                    version = f"v{work}-{turn}"
                    publish(index, make_points(5, version=version, seed=work * 10 + turn))
                    index.delete_version(version)
                else:
                    assert ids(index, EVERYONE, seed=turn)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=attempt, args=(work,)) for work in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert index.version_counts() == {"base": 50}


def test_the_embedded_engine_waits_for_the_disk_once_a_commit(index: VectorIndex, settings: Settings):
    # If a new client keeps its storage elsewhere, this says so; all else would go on working, six times as slowly.
    (file,) = settings.qdrant_path.rglob("*.sqlite")
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_folder_that_others_can_open_is_refused(settings: Settings):
    settings.qdrant_path.mkdir(parents=True)
    settings.qdrant_path.chmod(0o755)
    with pytest.raises(IndexUnavailable, match="chmod 700"):
        open_qdrant(settings)


def test_the_folder_is_made_private(index: VectorIndex, settings: Settings):
    assert settings.qdrant_path.stat().st_mode & 0o777 == 0o700


def test_a_folder_held_by_another_process_is_told(settings: Settings):
    code = (
        "import sys; from pathlib import Path; from tandem.settings import load_settings; "
        "from tandem.qdrant import open_qdrant; "
        f"held = open_qdrant(load_settings(data_dir=Path({str(settings.data_dir)!r}))); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(
            IndexUnavailable, match="held by another process: is a Tandem server running on it"
        ) as caught:
            open_qdrant(settings)
        assert str(settings.qdrant_path) in caught.value.message
        holder.stdin.close()
    open_qdrant(settings).close()


def test_vectors_of_another_length_are_refused(qdrant: Qdrant):
    with pytest.raises(IndexUnavailable, match="length 16"):
        qdrant.create(COLLECTION, DIMENSION * 2)


def test_the_alias_moves_from_one_collection_to_the_next(qdrant: Qdrant):
    qdrant.create("tandem-next", DIMENSION)
    for collection in (COLLECTION, "tandem-next", "tandem-next"):
        qdrant.point_alias(collection)
        with qdrant.calling() as client:
            behind = {alias.alias_name: alias.collection_name for alias in client.get_aliases().aliases}
        assert behind == {"tandem": collection}
    qdrant.drop(COLLECTION)
    qdrant.drop(COLLECTION)
    qdrant.ping("tandem-next")
    with pytest.raises(IndexUnavailable, match="is gone"):
        qdrant.ping(COLLECTION)


def test_a_server_that_is_down_is_told(tmp_path: Path):
    qdrant = open_qdrant(load_settings(data_dir=tmp_path, qdrant={"url": "http://127.0.0.1:1"}))
    with pytest.raises(IndexUnavailable, match="TANDEM_QDRANT__URL"):
        qdrant.ping(None)
    qdrant.close()
