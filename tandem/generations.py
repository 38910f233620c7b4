"""Generations of the index: an embedding model, a way of splitting, and the collection that both made.

One generation is live, and the database says which. Another may be built beside it; when it is whole, it takes over in
one commit, and the alias in Qdrant follows. Each question asks anew which one is live, so that it is embedded by the
model whose vectors it meets.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import delete, func, select, update

from tandem.database import Database
from tandem.embedder import Embedder
from tandem.qdrant import Qdrant
from tandem.tables import ChunkRow, GenerationRow, VersionRow
from tandem.vectors import VectorIndex


@dataclass(frozen=True)
class Recipe:
    """What makes a generation: two with the same recipe hold the same chunks and vectors.

    Attributes:
        model_id: The embedding model, as its prepared folder is called.
        splitter: The splitter's version and sizes, as `ingest.splitter.recipe` writes them.
    """

    model_id: str
    splitter: str

    @property
    def id(self) -> str:
        """Names the generation: 16 hexadecimal digits."""
        return hashlib.sha256(f"{self.model_id}\x00{self.splitter}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Generation:
    """A generation, opened."""

    id: str
    recipe: Recipe
    index: VectorIndex
    embedder: Embedder


class Generations:
    """The generations of one data directory. Safe to use from several threads.

    Args:
        database: Says which generation is live.
        qdrant: Holds their collections.
        embedder: Of the model that the settings name.
        open_embedder: Opens another model by its id, for as long as a generation of another model is live.
    """

    def __init__(
        self, database: Database, qdrant: Qdrant, embedder: Embedder, open_embedder: Callable[[str], Embedder]
    ) -> None:
        self._database = database
        self._qdrant = qdrant
        self._open_embedder = open_embedder
        self._embedders = {embedder.model_id: embedder}
        self._opened: dict[str, Generation] = {}
        self._turn = threading.Lock()
        self.embedder = embedder

    def live(self) -> Generation | None:
        """The generation that answers now; None before the first ingest.

        Raises:
            DatabaseUnavailable: The database does not answer.
            ModelUnavailable: It was made by a model that is not prepared here.
        """
        row = self._row("live")
        return None if row is None else self._open(row)

    def recipe(self) -> Recipe | None:
        """What the live generation was made by, without opening its model."""
        return live_recipe(self._database)

    def planned(self, recipe: Recipe) -> Generation:
        """The live generation, or the one that the first ingest would make: for runs that write nothing."""
        return self.live() or self._open(_new_row(recipe, "planned"))

    def start(self, recipe: Recipe) -> Generation:
        """The live generation; the first one is made by this recipe."""
        live = self.live()
        if live is not None:
            self._qdrant.create(live.index.collection, live.embedder.dimension)  # an index folder may be lost
        else:
            live = self._make(recipe, "live")
        self._qdrant.point_alias(live.index.collection)
        return live

    def build(self, recipe: Recipe) -> Generation:
        """The generation being built by this recipe, taken up where it was left; one of another recipe is dropped."""
        row = self._row("building")
        if row is not None and row.id != recipe.id:
            self._drop(row)
            row = None
        return self._make(recipe, "building") if row is None else self._open(row)

    def abandon(self) -> None:
        """Drops the generation being built, if there is one: the settings ask for the live one again."""
        row = self._row("building")
        if row is not None:
            self._drop(row)

    def promote(self, built: Generation) -> None:
        """Makes a generation the live one: the commit is the moment of truth. Then the old one goes."""
        counts = (
            select(func.count())
            .where(ChunkRow.version_id == VersionRow.id, ChunkRow.generation_id == built.id)
            .scalar_subquery()
        )
        with self._database.session() as session:
            old = session.scalars(select(GenerationRow).where(GenerationRow.state == "live")).one_or_none()
            if old is not None:
                old.state = "replaced"
            session.execute(update(GenerationRow).where(GenerationRow.id == built.id).values(state="live"))
            session.execute(update(VersionRow).where(VersionRow.state == "published").values(chunk_count=counts))
        self.tidy()

    def tidy(self) -> None:
        """Lets the alias follow the database, and drops what was replaced: what a kill after the commit left."""
        row = self._row("live")
        if row is not None:
            self._qdrant.point_alias(self._collection(row))
        with self._database.session() as session:
            replaced = session.scalars(select(GenerationRow).where(GenerationRow.state == "replaced")).all()
        for each in replaced:
            self._drop(each)

    def indexes(self) -> list[VectorIndex]:
        """The collections of all generations, the one being built included: what a deletion must reach."""
        with self._database.session() as session:
            rows = session.scalars(select(GenerationRow)).all()
        return [VectorIndex(self._qdrant, self._collection(row)) for row in rows]

    def ping(self) -> None:
        """Raises IndexUnavailable unless Qdrant answers and has the live collection."""
        row = self._row("live")
        self._qdrant.ping(None if row is None else self._collection(row))

    def close(self) -> None:
        """Closes the connection to Qdrant."""
        self._qdrant.close()

    def _row(self, state: str) -> GenerationRow | None:
        with self._database.session() as session:
            return session.scalars(select(GenerationRow).where(GenerationRow.state == state)).first()

    def _make(self, recipe: Recipe, state: str) -> Generation:
        row = _new_row(recipe, state)
        generation = self._open(row)
        self._qdrant.drop(generation.index.collection)  # of a database that is gone
        self._qdrant.create(generation.index.collection, generation.embedder.dimension)
        with self._database.session() as session:
            session.add(row)
        return generation

    def _open(self, row: GenerationRow) -> Generation:
        with self._turn:
            if row.id not in self._opened:
                if row.model_id not in self._embedders:
                    self._embedders[row.model_id] = self._open_embedder(row.model_id)
                self._opened[row.id] = Generation(
                    id=row.id,
                    recipe=Recipe(row.model_id, row.splitter),
                    index=VectorIndex(self._qdrant, self._collection(row)),
                    embedder=self._embedders[row.model_id],
                )
            return self._opened[row.id]

    def _drop(self, row: GenerationRow) -> None:
        self._qdrant.drop(self._collection(row))
        with self._database.session() as session:
            session.execute(delete(ChunkRow).where(ChunkRow.generation_id == row.id))
            session.execute(delete(GenerationRow).where(GenerationRow.id == row.id))

    def _collection(self, row: GenerationRow) -> str:
        return f"{self._qdrant.alias}-{row.collection}"


def live_recipe(database: Database) -> Recipe | None:
    """What the live generation was made by; None before the first ingest."""
    with database.session() as session:
        row = session.scalars(select(GenerationRow).where(GenerationRow.state == "live")).first()
    return None if row is None else Recipe(row.model_id, row.splitter)


def _new_row(recipe: Recipe, state: str) -> GenerationRow:
    return GenerationRow(
        id=recipe.id,
        state=state,
        model_id=recipe.model_id,
        splitter=recipe.splitter,
        collection=recipe.id,
        created_at=datetime.now(UTC),
    )
