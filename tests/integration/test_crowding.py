"""Documents that a person may not read do not move the ranking of those they may, however many they are."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ingest.engine import LocalEngine
from ingest.run import Ingestor
from ingest.sandbox import Sandbox
from tandem.database import Database
from tandem.embedder import Embedder
from tandem.fusion import Ranked, fuse, settled_top
from tandem.generations import Generations
from tandem.qdrant import open_qdrant
from tandem.retriever import Retriever
from tandem.schemas import Passage, Principal
from tandem.settings import IngestSettings, load_settings
from tandem.sparse import SparseEncoder
from tests.access.stores import RememberingEmbedder
from tests.days import today

ADA = Principal(user="ada", groups=frozenset({"everyone"}))
QUESTION = "How many unused days of annual leave may I carry over?"
# More copies of one text than candidates, so that chance decides which of them an engine puts before the cut.
OPEN = [f"copy-{n:02}.md" for n in range(12)] + [f"near-{n:02}.md" for n in range(12)]
HIDDEN = 40
HIDDEN_TEXT = "\n\n".join(f"# Part {n}\n\n{QUESTION}" for n in range(6))


def text_of(name: str) -> str:
    kind, _, number = name.removesuffix(".md").partition("-")
    days = int(number) if kind == "near" else 5
    return f"# Leave\n\nUp to {days} unused days of annual leave may be carried over.\n"


@pytest.fixture
def house(tmp_path: Path, embedder: Embedder) -> Iterator[tuple[Ingestor, Retriever]]:
    settings = load_settings(data_dir=tmp_path / "data")
    database = Database(settings.database)
    database.migrate()
    remembering, sparse = RememberingEmbedder(embedder), SparseEncoder()
    generations = Generations(database, open_qdrant(settings), remembering, {}.__getitem__)  # type: ignore[arg-type]
    limits = settings.retrieval.model_copy(update={"candidates": 8})
    with Sandbox(IngestSettings()) as sandbox:
        ingestor = Ingestor(database, generations, sparse, settings, engine=LocalEngine(settings.ingest, sandbox))
        yield ingestor, Retriever(database, generations, sparse, limits)
    generations.close()
    database.close()


def test_hundreds_of_nearer_hidden_passages_change_nothing(house: tuple[Ingestor, Retriever], tmp_path: Path) -> None:
    ingestor, retriever = house

    def write(names: list[str], group: str, folder: str) -> None:
        root = tmp_path / folder
        root.mkdir()
        (root / "_folder.yaml").write_text(f"groups: [{group}]\n", encoding="utf-8")
        for name in names:
            (root / name).write_text(HIDDEN_TEXT if group == "hr" else text_of(name), encoding="utf-8")
        ingestor.ingest([root])

    def found() -> list[Passage]:
        return retriever.retrieve(QUESTION, ADA, today(), 8)

    write(OPEN, "everyone", "open")
    alone = found()
    assert len(alone) == 8
    write([f"a-hidden-{n:03}.md" for n in range(HIDDEN)], "hr", "hidden")
    assert found() == alone  # scores and similarities too
    hr = Principal(user="bo", groups=frozenset({"everyone", "hr"}))
    assert all(passage.document_id.startswith("a-hidden") for passage in retriever.retrieve(QUESTION, hr, today(), 3))


def test_which_of_many_equals_are_found_does_not_hang_on_ids(house: tuple[Ingestor, Retriever], tmp_path: Path) -> None:
    """Ids follow from how often a document was changed, which its reader may not know."""
    ingestor, retriever = house
    names = [f"copy-{n:02}.md" for n in range(12)]
    root = tmp_path / "copies"
    root.mkdir()
    (root / "_folder.yaml").write_text("groups: [everyone]\n", encoding="utf-8")
    for name in names:
        (root / name).write_text(text_of(name), encoding="utf-8")
    ingestor.ingest([root])
    found = retriever.authorised_search(QUESTION, ADA, today(), candidates=5)
    assert [Path(chunk.version.document_id).name for chunk in found] == names[:5]


def ranked(scores: dict[str, float]) -> list[Ranked]:
    return [Ranked(id, score, score) for id, score in sorted(scores.items(), key=lambda item: -item[1])]


def test_equals_of_the_last_one_come_too_whatever_the_engine_puts_first() -> None:
    scores = {"best": 0.9, **{f"equal-{n:02}": 0.5 for n in range(40)}, "worst": 0.1}
    rng = np.random.default_rng(1)
    chosen = set()
    for _ in range(20):
        # Equal up to the noise of single precision, in an order of chance.
        noisy = ranked({id: score + float(rng.uniform(-1e-7, 1e-7)) for id, score in scores.items()})
        asked: list[int] = []

        def fetch(limit: int, points: list[Ranked] = noisy, asked: list[int] = asked) -> list[Ranked]:
            asked.append(limit)
            return points[:limit]

        chosen.add(tuple(point.id for point in settled_top(fetch, 4)))
        assert asked[-1] <= 2 * len(scores)
    assert chosen == {("best", *(f"equal-{n:02}" for n in range(31)))}  # 8 times those wanted, and no more
    assert [point.id for point in settled_top(lambda limit: ranked(scores)[:limit], 1)] == ["best"]


def test_a_ranking_shorter_than_asked_is_taken_as_it_is() -> None:
    assert [point.id for point in settled_top(lambda limit: ranked({"b": 0.5, "a": 0.5})[:limit], 4)] == ["a", "b"]
    assert settled_top(lambda _: [], 4) == []


def test_equals_share_their_rank() -> None:
    near = [Ranked("x", 0.9, 0.9), Ranked("b", 0.5, 0.5), Ranked("a", 0.5 - 1e-7, 0.5), Ranked("c", 0.4, 0.4)]
    scores = {point.id: point.score for point in fuse([near], 4)}
    assert scores == pytest.approx({"x": 1 / 10, "a": 1 / 11, "b": 1 / 11, "c": 1 / 13})


def test_ranks_are_fused_and_ties_have_an_order() -> None:
    near = [Ranked("a", 0.9, 0.9), Ranked("b", 0.8, 0.8), Ranked("c", 0.7, 0.7)]
    said = [Ranked("b", 3.0, 0.8), Ranked("a", 2.0, 0.9), Ranked("d", 1.0, 0.6)]
    fused = fuse([near, said], 3)
    assert [point.id for point in fused] == ["a", "b", "c"]  # equal scores: by similarity
    assert [point.score for point in fused] == pytest.approx([1 / 10 + 1 / 11, 1 / 10 + 1 / 11, 1 / 12])
    level = [Ranked(id, 0.5, 0.5) for id in "cab"]
    assert [point.id for point in fuse([level], 2)] == ["a", "b", "c"]
