"""Another splitter or embedding model: a second collection is built beside the live one and takes over."""

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import select

from ingest import reindex
from ingest.engine import LocalEngine
from ingest.run import Ingestor
from ingest.writer import Writer
from tandem.database import Database
from tandem.embedder import Embedder
from tandem.errors import IndexUnavailable
from tandem.generations import Generations
from tandem.qdrant import Qdrant, open_qdrant
from tandem.retriever import Retriever
from tandem.schemas import Principal
from tandem.settings import EmbeddingSettings, Settings, load_settings
from tandem.sparse import SparseEncoder
from tandem.tables import ChunkRow, EmbeddingRow, GenerationRow, VersionRow
from tandem.vectors import VectorIndex
from tests.days import today

ADMIN = Principal(user="root", admin=True)
ADA = Principal(user="ada", groups=frozenset({"everyone"}))
SENTENCES = [f"Rule {n} says that a claim of type {n} is settled within {n + 3} days by the office." for n in range(12)]


@dataclass
class House:
    """A data directory, and processes on it with one setting or another."""

    settings: Settings
    database: Database
    qdrant: Qdrant
    embedders: dict[str, Embedder]
    embedder: Embedder
    engine: LocalEngine

    def generations(self) -> Generations:
        return Generations(self.database, self.qdrant, self.embedder, self.embedders.__getitem__)

    def ingestor(self) -> Ingestor:
        return Ingestor(self.database, self.generations(), SparseEncoder(), self.settings, engine=self.engine)

    def retriever(self) -> Retriever:
        return Retriever(self.database, self.generations(), SparseEncoder(), self.settings.retrieval)

    def split_otherwise(self, words: int = 20) -> None:
        splitter = self.settings.splitter.model_copy(update={"target_words": words, "max_words": words + 20})
        self.settings = self.settings.model_copy(update={"splitter": splitter})

    def texts(self, who: Principal = ADMIN, question: str = "claim settled") -> list[str]:
        found = self.retriever().authorised_search(question, who, today(), candidates=200)
        return sorted(each.chunk.text for each in found)

    def collections(self) -> set[str]:
        with self.qdrant.calling() as client:
            return {collection.name for collection in client.get_collections().collections}

    def aliased(self) -> str:
        with self.qdrant.calling() as client:
            (alias,) = client.get_aliases().aliases
        return alias.collection_name


@pytest.fixture
def house(tmp_path: Path, embedder: Embedder) -> Iterator[House]:
    settings = load_settings(data_dir=tmp_path / "data", ingest={"lock_timeout": 5})
    database = Database(settings.database)
    database.migrate()
    qdrant = open_qdrant(settings)
    engine = LocalEngine(settings.ingest)
    yield House(settings, database, qdrant, {embedder.model_id: embedder}, embedder, engine)
    engine.close()
    qdrant.close()
    database.close()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    root.mkdir()
    (root / "_folder.yaml").write_text("groups: [everyone]\n")
    for n in range(4):
        (root / f"claims-{n}.md").write_text(f"# Claims {n}\n\n" + "\n\n".join(SENTENCES[3 * n : 3 * n + 3]))
    (root / "secret.md").write_text(f"---\ngroups: [board]\n---\n# Board\n\n{SENTENCES[0]} Only the board knows.")
    return root


def test_another_splitter_makes_another_collection(house: House, corpus: Path):
    house.ingestor().ingest([corpus])
    before, collection, readable = house.texts(), house.aliased(), house.texts(ADA)
    assert len(before) == 5
    house.split_otherwise()
    report = house.ingestor().ingest([corpus])
    assert len(report.unchanged) == 5
    assert "built anew" in report.warnings[-1]
    assert len(house.texts()) > len(before)
    assert {sentence for text in house.texts() for sentence in text.split("\n\n")} == {
        sentence for text in before for sentence in text.split("\n\n")
    }
    assert not any("board" in text for text in (*readable, *house.texts(ADA)))
    assert house.collections() == {house.aliased()} != {collection}
    with house.database.session() as session:
        counts = {row.id: row.chunk_count for row in session.scalars(select(VersionRow))}
        rows = session.scalars(select(ChunkRow.version_id)).all()
    assert counts == {id: rows.count(id) for id in counts}
    assert house.ingestor().reindex() is None
    assert house.ingestor().ingest([corpus]).chunks_embedded == 0


def test_another_model_embeds_and_answers_with_itself(house: House, corpus: Path, embedder_dir: Path, tmp_path: Path):
    house.ingestor().ingest([corpus])
    copy = tmp_path / "copy-of-the-model-0123456789ab"
    shutil.copytree(embedder_dir, copy)
    other = Embedder(copy, EmbeddingSettings())
    asked: list[str] = []
    first = house.generations()
    retriever = Retriever(house.database, first, SparseEncoder(), house.settings.retrieval)
    house.embedders[other.model_id] = Watched(other, asked)
    house.embedder = house.embedders[other.model_id]
    report = house.ingestor().reindex()
    assert report.model_id == copy.name
    assert (report.chunks_embedded, report.chunks_reused, report.versions) == (5, 0, 5)
    asked.clear()
    # A server that started before the change follows it at the next question.
    assert len(retriever.authorised_search("claim settled", ADMIN, today(), candidates=50)) == 5
    assert asked == ["claim settled"]
    with house.database.session() as session:  # what only the old generation needed goes with the next run
        assert len(session.scalars(select(EmbeddingRow.key)).all()) == 10
    house.ingestor().ingest([corpus])
    with house.database.session() as session:
        assert len(session.scalars(select(EmbeddingRow.key)).all()) == 5


class Watched(Embedder):
    """The model, which notes what it is asked."""

    def __init__(self, model: Embedder, asked: list[str]) -> None:
        self.__dict__.update(model.__dict__)
        self._model = model
        self._asked = asked

    def embed(self, texts):
        self._asked.extend(texts)
        return self._model.embed(texts)


def interrupted(monkeypatch: pytest.MonkeyPatch, after: int) -> Callable[[], None]:
    """Lets the process die, as far as an exception can, at the n-th version written."""
    written = 0
    write = Writer.write

    def dying(self, document_id, title, rows):
        nonlocal written
        written += 1
        if written > after:
            raise IndexUnavailable("gone")
        write(self, document_id, title, rows)

    monkeypatch.setattr(Writer, "write", dying)
    return lambda: monkeypatch.setattr(Writer, "write", write)


@pytest.mark.parametrize("after", range(5))
def test_a_build_that_was_interrupted_goes_on(house: House, corpus: Path, monkeypatch: pytest.MonkeyPatch, after: int):
    house.ingestor().ingest([corpus])
    before, collection = house.texts(), house.aliased()
    house.split_otherwise()
    heal = interrupted(monkeypatch, after)
    with pytest.raises(IndexUnavailable):
        house.ingestor().reindex()
    assert house.texts() == before
    assert house.aliased() == collection
    heal()
    report = house.ingestor().reindex()
    assert report.chunks_embedded + report.chunks_reused < 13 or after == 0
    assert len(house.texts()) > len(before)
    assert house.collections() == {house.aliased()}


@pytest.mark.parametrize("step", ["point_alias", "drop"])
def test_a_kill_after_the_commit_is_tidied_up(house: House, corpus: Path, monkeypatch: pytest.MonkeyPatch, step: str):
    house.ingestor().ingest([corpus])
    before = house.texts()
    house.split_otherwise()
    promote = Generations.promote

    def dying(self, built):
        with monkeypatch.context() as fault:
            fault.setattr(Qdrant, step, lambda *_: (_ for _ in ()).throw(IndexUnavailable("gone")))
            promote(self, built)

    monkeypatch.setattr(Generations, "promote", dying)
    with pytest.raises(IndexUnavailable):
        house.ingestor().reindex()
    assert len(house.texts()) > len(before)  # the database has decided
    house.ingestor().ingest([corpus])
    assert house.collections() == {house.aliased()}
    with house.database.session() as session:
        assert session.scalars(select(GenerationRow.state)).all() == ["live"]


def test_what_changes_between_two_slices_is_caught_up_with(house: House, corpus: Path, monkeypatch: pytest.MonkeyPatch):
    house.ingestor().ingest([corpus])
    old = replace(house)  # a server with the old setting, which ingests meanwhile
    monkeypatch.setattr(reindex, "_SLICE", 1)
    house.split_otherwise()
    changes = [
        lambda: (corpus / "claims-0.md").write_text("# Claims 0\n\nA claim is settled at once."),
        lambda: (corpus / "claims-1.md").unlink(),
        lambda: (corpus / "claims-2.md").write_text(
            "---\ngroups: [board]\n---\n" + (corpus / "claims-2.md").read_text()
        ),
        lambda: (corpus / "claims-9.md").write_text("# Claims 9\n\nA claim of a new kind is settled in a year."),
    ]

    def between(seconds: float) -> None:
        if changes:
            changes.pop(0)()
            old.ingestor().ingest([corpus])

    monkeypatch.setattr(reindex.time, "sleep", between)
    # The old server would build its own generation back, as it should when its setting is the newer one.
    monkeypatch.setattr(Ingestor, "reindex", unless(old, Ingestor.reindex))
    house.ingestor().reindex()
    assert not changes
    expected = {
        "A claim is settled at once.", "A claim of a new kind is settled in a year.",
        *SENTENCES[6:12], f"{SENTENCES[0]} Only the board knows.",
    }  # fmt: skip
    assert {sentence for text in house.texts() for sentence in text.split("\n\n")} == expected
    assert {sentence for text in house.texts(ADA) for sentence in text.split("\n\n")} == expected - {
        *SENTENCES[6:9], f"{SENTENCES[0]} Only the board knows.",
    }  # fmt: skip


def unless(old: House, reindex_: Callable[..., object]) -> Callable[..., object]:
    def wrapped(self, **options):
        return None if self._settings is old.settings else reindex_(self, **options)

    return wrapped


def test_questions_are_answered_all_the_time(house: House, corpus: Path, monkeypatch: pytest.MonkeyPatch):
    for n in range(30):
        (corpus / f"more-{n}.md").write_text(f"# More {n}\n\n" + "\n\n".join(SENTENCES))
    house.ingestor().ingest([corpus])
    retriever = house.retriever()
    monkeypatch.setattr(reindex, "_SLICE", 4)
    stop, answers, failures = threading.Event(), [], []

    def ask() -> None:
        while not stop.is_set():
            try:
                answers.append(len(retriever.retrieve("How soon is a claim of type 7 settled?", ADA, today())))
            except BaseException as exc:
                failures.append(exc)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for words in (20, 90, 20):
        house.split_otherwise(words)
        house.ingestor().reindex()
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(answers) > 30
    assert min(answers) > 0
    assert isinstance(house.generations().live().index, VectorIndex)
