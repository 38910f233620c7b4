"""Two snapshots of real policies, one over the other: what is embedded, and what of it only for a moved boundary."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import select

from ingest.run import Ingestor
from services.model.weights import ensure_models
from tandem.bootstrap import open_generations
from tandem.database import Database
from tandem.settings import REPOSITORY, Settings
from tandem.sparse import SparseEncoder
from tandem.tables import ChunkRow, EmbeddingRow

SNAPSHOTS = REPOSITORY.parent / "shared" / "data" / "site-policy"


def folders() -> tuple[Path, Path]:
    for base in (SNAPSHOTS, REPOSITORY.parent.parent / "shared" / "data" / "site-policy"):
        if (base / "v1").is_dir() and (base / "v2").is_dir():
            return base / "v1", base / "v2"
    pytest.skip(f"There are no snapshots in {SNAPSHOTS}.")


def moved_only(chunk: ChunkRow, old_texts: str, old_headings: set[str]) -> bool:
    """Whether all that a passage says stood under a heading of this name before, in other company."""
    known = all(line.strip() in old_texts for line in chunk.text.splitlines())
    return known and leaf(chunk) in old_headings


def leaf(chunk: ChunkRow) -> str:
    return chunk.heading.rsplit(" > ", 1)[-1]


def test_one_snapshot_over_the_other(settings: Settings) -> None:
    first, second = folders()
    settings.data_dir.mkdir(mode=0o700)
    ensure_models(settings, base=False)
    database = Database(settings.database)
    database.migrate()
    generations = open_generations(settings, database)
    ingestor = Ingestor(database, generations, SparseEncoder(), settings)

    def held() -> tuple[set[str], Sequence[ChunkRow]]:
        with database.session() as session:
            return set(session.scalars(select(EmbeddingRow.key))), session.scalars(select(ChunkRow)).all()

    before = ingestor.ingest([first], groups=("everyone",))
    keys, old = held()
    after = ingestor.ingest([second], groups=("everyone",))
    fresh = {chunk.key: chunk for chunk in held()[1] if chunk.key not in keys}
    old_texts, old_headings = "\n".join(chunk.text for chunk in old), {leaf(chunk) for chunk in old}
    moved = [chunk for chunk in fresh.values() if moved_only(chunk, old_texts, old_headings)]
    print(
        f"\nfirst snapshot: {before.chunks_embedded} embedded in {before.seconds:.1f} s; second over it: "
        f"{after.chunks_embedded} embedded, {after.chunks_reused} reused in {after.seconds:.1f} s "
        f"({len(after.added)} documents added, {len(after.updated)} updated, {len(after.unchanged)} unchanged, "
        f"{len(after.deleted)} deleted); {len(moved)} of the embedded hold no new text, only other boundaries"
    )
    assert after.chunks_embedded == len(fresh)
    assert len(moved) <= 0.1 * len(fresh)
    ingestor.close()
    generations.close()
    database.close()
