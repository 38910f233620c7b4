"""The choke point on the real parts: embedder, embedded Qdrant, SQLite."""

import asyncio
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from sqlalchemy import update

from tandem.database import Database
from tandem.embedder import Embedder
from tandem.errors import DatabaseUnavailable
from tandem.generations import Generation, Generations, Recipe
from tandem.llama_retriever import TandemRetriever
from tandem.points import Point
from tandem.retriever import Retriever
from tandem.schemas import Principal
from tandem.settings import RetrievalSettings, Settings, load_settings
from tandem.sparse import SparseEncoder
from tandem.tables import ChunkRow, DocumentRow, VersionRow
from tandem.vectors import VectorIndex

OpenIndex = Callable[[Settings, Database], Generations]
DAY = date(2026, 3, 1)
NOW = datetime(2026, 3, 1, tzinfo=UTC)
ADA = Principal(user="ada", groups=frozenset({"everyone"}))
HR = Principal(user="bo", groups=frozenset({"everyone", "hr"}))
ADMIN = Principal(user="root", admin=True)
QUESTION = "How many unused days of annual leave may I carry over?"
OLD = "Employees may carry over up to 5 unused days of annual leave."
NEW = "Employees may carry over up to 8 unused days of annual leave."


class Library:
    """Puts versions into both stores, in whatever agreement the test asks for."""

    def __init__(self, database: Database, live: Generation, sparse: SparseEncoder) -> None:
        self._database = database
        self._live = live
        self._index = live.index
        self._embedder = live.embedder
        self._sparse = sparse
        self._seq = 0

    def add(
        self,
        document: str,
        texts: Sequence[str],
        *,
        groups: Sequence[str] | None = ("everyone",),
        live_from: date | None = None,
        live_until: date | None = None,
        state: str = "published",
        settled: bool = True,
        headings: Sequence[str] | None = None,
    ) -> str:
        self._seq += 1
        version = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{document}-{self._seq}"))
        chunks = [
            ChunkRow(
                id=str(uuid.uuid5(uuid.UUID(version), str(n))),
                generation_id=self._live.id,
                version_id=version,
                ordinal=n,
                key=f"{n:064}",
                text=text,
                heading=headings[n] if headings else "",
            )
            for n, text in enumerate(texts)
        ]
        with self._database.session() as session:
            if session.get(DocumentRow, document) is None:
                session.add(DocumentRow(id=document, created_at=NOW))
                session.flush()
            session.add(
                VersionRow(
                    id=version, document_id=document, seq=self._seq, state=state, indexed=settled,
                    title=f"About {document}", label="2.0", source_url=f"https://intranet.example/{document}",
                    groups=None if groups is None else list(groups), live_from=live_from, live_until=live_until,
                    effective_from=live_from, source_hash="s", content_hash="c", metadata_hash="m", reader="1",
                    text="\n".join(texts), chunk_count=len(texts), created_at=NOW,
                )
            )  # fmt: skip
            session.flush()
            session.add_all(chunks)
        vectors = self._embedder.embed(texts)
        self._index.write(
            [
                Point(chunk.id, document, version, vector, self._sparse.encode_document(chunk.text))
                for chunk, vector in zip(chunks, vectors, strict=True)
            ]
        )
        if settled:
            chunk_ids = [chunk.id for chunk in chunks]
            self._index.settle(chunk_ids, live_from=live_from, live_until=live_until, groups=groups)
        return version

    def change(self, version: str, **values: object) -> None:
        """Changes the database alone, as if the index had not followed yet."""
        with self._database.session() as session:
            session.execute(update(VersionRow).where(VersionRow.id == version).values(**values))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(load_settings(data_dir=tmp_path).database)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def generations(tmp_path: Path, database: Database, open_index: OpenIndex) -> Iterator[Generations]:
    generations = open_index(load_settings(data_dir=tmp_path), database)
    yield generations
    generations.close()


@pytest.fixture
def library(database: Database, generations: Generations, embedder: Embedder) -> Library:
    return Library(database, generations.start(Recipe(embedder.model_id, "1.90.160")), SparseEncoder())


@pytest.fixture
def retriever(database: Database, generations: Generations) -> Retriever:
    return Retriever(database, generations, SparseEncoder(), RetrievalSettings())


def quotes(retriever: Retriever, principal: Principal = ADA, day: date = DAY) -> list[str]:
    return [passage.quote for passage in retriever.retrieve(QUESTION, principal, day)]


def test_the_best_passage_comes_first_with_all_its_particulars(library: Library, retriever: Retriever):
    library.add("parking", ["Visitors park in the yard behind the office."])
    version = library.add("leave", [OLD], live_from=date(2025, 1, 1), headings=["Annual leave > Carrying over"])
    first, *others = retriever.retrieve(QUESTION, ADA, DAY)
    assert (first.n, first.document_id, first.version_id) == (1, "leave", version)
    assert first.quote == first.text == OLD
    assert (first.title, first.version, first.effective_from) == ("About leave", "2.0", date(2025, 1, 1))
    assert (first.heading, first.url) == ("Annual leave > Carrying over", "https://intranet.example/leave")
    assert first.similarity > 0.6 > 0.3 > others[0].similarity
    assert first.score > others[0].score
    assert [passage.n for passage in others] == [2]


def test_groups_decide_who_finds_what(library: Library, retriever: Retriever):
    library.add("open", ["Annual leave is 27 days."])
    library.add("bands", ["Annual leave of grade 9 is 35 days."], groups=["hr"])
    library.add("unsaid", ["Annual leave of the board is 40 days."], groups=None)
    library.add("closed", ["Annual leave of the founder has no end."], groups=[])
    assert len(quotes(retriever, ADA)) == 1
    assert len(quotes(retriever, HR)) == 2
    assert len(quotes(retriever, ADMIN)) == 4


def test_nobody_is_in_the_group_that_stands_for_admins(library: Library, retriever: Retriever):
    library.add("unsaid", [OLD], groups=None)
    assert quotes(retriever, Principal(user="eve", groups=frozenset({"\u0000admin"}))) == []


def test_without_groups_nothing_is_found_nor_searched(
    library: Library, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
):
    library.add("open", [OLD])

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr(VectorIndex, "query", refuse)
    assert quotes(retriever, Principal(user="new")) == []
    with pytest.raises(AssertionError, match="searched"):
        quotes(retriever, ADA)


def test_each_day_has_its_version(library: Library, retriever: Retriever):
    library.add("leave", [OLD], live_until=date(2026, 3, 1))
    library.add("leave", [NEW], live_from=date(2026, 3, 1), live_until=date(2027, 1, 1))
    assert quotes(retriever, day=date(2026, 2, 28)) == [OLD]
    assert quotes(retriever, day=date(2026, 3, 1)) == [NEW]
    assert quotes(retriever, day=date(2026, 12, 31)) == [NEW]
    assert quotes(retriever, day=date(2027, 1, 1)) == []


def test_a_committed_version_is_found_before_the_index_follows(library: Library, retriever: Retriever):
    old = library.add("leave", [OLD])
    library.add("leave", [NEW], live_from=DAY, settled=False)
    library.change(old, live_until=DAY, indexed=False)
    assert quotes(retriever) == [NEW]
    assert quotes(retriever, day=date(2026, 2, 28)) == [OLD]


def test_a_commit_in_the_middle_of_a_search_leaves_old_or_new(
    library: Library, retriever: Retriever, monkeypatch: pytest.MonkeyPatch
):
    old = library.add("leave", [OLD])
    search = VectorIndex.query
    calls: list[int] = []

    def commit_then_search(index: VectorIndex, *args: object, **options: object) -> object:
        calls.append(len(calls))
        if len(calls) == 1:  # the scope is read already, the index follows later
            library.add("leave", [NEW], live_from=DAY, settled=False)
            library.change(old, live_until=DAY, indexed=False)
        return search(index, *args, **options)

    monkeypatch.setattr(VectorIndex, "query", commit_then_search)
    assert quotes(retriever) == [NEW]
    assert len(calls) == 2


def test_an_unsettled_version_obeys_groups_and_dates(library: Library, retriever: Retriever):
    library.add("bands", [OLD], groups=["hr"], settled=False)
    library.add("next", [NEW], live_from=date(2026, 6, 1), settled=False)
    assert quotes(retriever, ADA) == []
    assert quotes(retriever, HR) == [OLD]
    assert quotes(retriever, ADA, date(2026, 6, 1)) == [NEW]


def test_an_interval_that_the_database_has_widened_is_found_at_once(library: Library, retriever: Retriever):
    version = library.add("leave", [OLD], live_until=date(2026, 1, 1), groups=["hr"])
    assert quotes(retriever) == []
    library.change(version, live_until=None, groups=["everyone"], indexed=False)
    assert quotes(retriever) == [OLD]


def test_staged_and_retired_versions_are_not_found(library: Library, retriever: Retriever):
    library.add("a", ["Leave: staged."], state="staged", settled=False)
    library.add("b", ["Leave: retired, the index says visible."], state="retired")
    library.add("c", ["Leave: retired, not settled."], state="retired", settled=False)
    assert quotes(retriever, ADMIN) == []


@pytest.mark.parametrize(
    "values",
    [
        {"state": "retired"},
        {"live_until": DAY},
        {"live_from": date(2026, 3, 2)},
        {"groups": ["hr"]},
        {"groups": None},
    ],
)
def test_the_database_overrules_a_stale_index(library: Library, retriever: Retriever, values: dict[str, object]):
    version = library.add("leave", [OLD])
    assert quotes(retriever) == [OLD]
    library.change(version, **values)  # still marked as indexed: the index is believed, wrongly
    assert quotes(retriever) == []


def test_points_of_a_deleted_document_are_not_found(library: Library, retriever: Retriever, database: Database):
    library.add("leave", [OLD])
    with database.session() as session:
        session.delete(session.get_one(DocumentRow, "leave"))
    assert quotes(retriever, ADMIN) == []


def test_stale_points_do_not_crowd_out_live_ones(library: Library, retriever: Retriever):
    """More retired copies than candidates, all nearer to the question than the one that counts."""
    stale = library.add("old", [QUESTION] * 60)
    library.add("leave", [NEW])
    library.change(stale, state="retired", indexed=False)
    assert quotes(retriever) == [NEW]


def test_neighbours_under_one_heading_are_merged(library: Library, retriever: Retriever):
    texts = ["Unused annual leave days carry over.", "Up to five leave days carry over.", "Leave that lapses is lost."]
    library.add("leave", texts, headings=["Leave", "Leave", "Leave > Lapse"])
    passages = retriever.retrieve(QUESTION, ADA, DAY)
    assert sorted(passage.quote for passage in passages) == sorted(["\n".join(texts[:2]), texts[2]])


def test_one_document_does_not_take_every_place(library: Library, retriever: Retriever):
    library.add("long", [f"Annual leave, rule {n}: days carry over." for n in range(12)], headings=list("abcdefghijkl"))
    library.add("short", ["Unused days of leave lapse in April."])
    found = [passage.document_id for passage in retriever.retrieve(QUESTION, ADA, DAY)]
    assert found.count("long") == 3
    assert "short" in found


def test_top_k_and_a_stable_order(library: Library, retriever: Retriever):
    for n in range(9):
        library.add(f"copy-{n}", [OLD])
    found = [retriever.retrieve(QUESTION, ADA, DAY, 4) for _ in range(3)]
    assert len(found[0]) == 4
    assert found[0] == found[1] == found[2]


def test_equals_are_in_the_order_of_their_documents_however_often_these_changed(library: Library, retriever: Retriever):
    names = ["f.md", "c.md", "a.md", "e.md", "b.md", "d.md"]
    for name in names:
        library.add(name, [NEW])
    found = retriever.authorised_search(QUESTION, ADA, DAY, candidates=10)
    assert [chunk.version.document_id for chunk in found] == sorted(names)


def test_words_find_what_meaning_misses(library: Library, retriever: Retriever):
    for n in range(30):
        library.add(f"manual-{n}", [f"The sensor model TN-{300 + n} is calibrated once a year by the service team."])
    passages = retriever.retrieve("calibration of the TN-317", ADA, DAY)
    assert passages[0].document_id == "manual-17"


def test_odd_questions_are_no_errors(library: Library, retriever: Retriever):
    library.add("leave", [OLD])
    assert retriever.retrieve("  ", ADA, DAY) == []
    assert retriever.retrieve("what is it?", ADA, DAY)  # stop words only: the dense ranking decides
    assert retriever.retrieve("\x00'; DROP TABLE chunks; -- " * 500, ADA, DAY)


def test_without_the_database_there_is_no_answer(library: Library, generations: Generations):
    library.add("leave", [OLD])
    down = Database("postgresql+psycopg://127.0.0.1:1/x?connect_timeout=2")
    retriever = Retriever(down, generations, SparseEncoder(), RetrievalSettings())
    with pytest.raises(DatabaseUnavailable):
        retriever.retrieve(QUESTION, ADA, DAY)


def test_llama_index_retrieves_the_same(library: Library, retriever: Retriever):
    library.add("leave", [OLD])
    library.add("bands", [NEW], groups=["hr"])
    adapter = TandemRetriever(retriever, ADA, today=lambda: DAY)
    (node,) = adapter.retrieve(QUESTION)
    assert node.node.get_content() == OLD
    assert node.metadata["document_id"] == "leave"
    assert node.score is not None
    assert node.score > 0
    assert [found.text for found in asyncio.run(adapter.aretrieve(QUESTION))] == [OLD]
