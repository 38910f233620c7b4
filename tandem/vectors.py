"""One collection of the vector index: writing, hiding, showing and searching chunks.

The index is derived: what it says about readers and dates narrows a search and proves nothing. Only
`tandem.retriever` may search it (a contract test looks), since only there is each hit checked in the database.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from qdrant_client import models

from tandem.fusion import Ranked, fuse, settled_top
from tandem.points import Hit, Point, Scope
from tandem.qdrant import DENSE, SPARSE, Qdrant
from tandem.sparse import SparseVector

__all__ = ["Hit", "Point", "Scope", "VectorIndex"]

# Stands for the admins among the readers. Whoever calls a group so gains nothing: the database does not know it.
ADMINS = "\u0000admin"
# Bounds of a live interval as day numbers, where the database has NULL.
ALWAYS = 0
FOREVER = date.max.toordinal() + 1
_BATCH = 256
_MOST_VERSIONS = 10_000_000


class VectorIndex:
    """One collection of chunks with a dense and a sparse vector each. Safe to call from several threads.

    Args:
        qdrant: Where it lies.
        collection: Its name.

    Every method raises IndexUnavailable when Qdrant does not answer.
    """

    def __init__(self, qdrant: Qdrant, collection: str) -> None:
        self._qdrant = qdrant
        self.collection = collection
        # Which neighbours an approximate search comes by hangs on points that the filter hides.
        self._search = models.SearchParams(exact=True) if qdrant.exact else None

    def write(self, points: Sequence[Point]) -> None:
        """Writes points, shown to nobody. Not atomic: `count` says whether all have arrived."""
        with self._qdrant.writing(self.collection) as client:
            for start in range(0, len(points), _BATCH):
                structs = [_struct(point) for point in points[start : start + _BATCH]]
                client.upsert(self.collection, structs, wait=True)

    def settle(
        self,
        chunk_ids: Sequence[str],
        *,
        live_from: date | None,
        live_until: date | None,
        groups: Sequence[str] | None,
    ) -> None:
        """Makes the points of a version visible, to whom and for when the database says."""
        payload = {
            "readers": [ADMINS, *sorted(set(groups or ()))],
            "since": live_from.toordinal() if live_from else ALWAYS,
            "until": live_until.toordinal() if live_until else FOREVER,
        }
        # By id: the embedded engine would look through all points for those of a version.
        with self._qdrant.writing(self.collection) as client:
            for batch in _batched(chunk_ids):
                client.set_payload(self.collection, payload, points=batch, wait=True)

    def delete(self, chunk_ids: Sequence[str]) -> None:
        """Deletes points, those that are there."""
        with self._qdrant.writing(self.collection) as client:
            for batch in _batched(chunk_ids):
                client.delete(self.collection, models.PointIdsList(points=list(batch)), wait=True)

    def present(self, chunk_ids: Sequence[str]) -> int:
        """How many of these points are there."""
        found = 0
        for batch in _batched(chunk_ids):
            with self._qdrant.calling() as client:
                found += len(client.retrieve(self.collection, batch, with_payload=False, with_vectors=False))
        return found

    def count(self, version_id: str) -> int:
        """The number of points of a version, counted exactly."""
        with self._qdrant.calling() as client:
            return client.count(self.collection, _is("version_id", version_id), exact=True).count

    def delete_version(self, version_id: str) -> None:
        """Deletes the points of a version."""
        with self._qdrant.writing(self.collection) as client:
            client.delete(self.collection, _is("version_id", version_id), wait=True)

    def delete_documents(self, document_ids: Sequence[str]) -> None:
        """Deletes the points of all versions of documents, together: the embedded engine looks at every point once."""
        if document_ids:
            with self._qdrant.writing(self.collection) as client:
                condition = models.Filter(must=[_any("document_id", document_ids)])
                client.delete(self.collection, condition, wait=True)

    def version_counts(self) -> dict[str, int]:
        """How many points each version has in the index, counted exactly: for repair, not for answering."""
        with self._qdrant.calling() as client:
            found = client.facet(self.collection, "version_id", limit=_MOST_VERSIONS, exact=True)
        return {str(hit.value): hit.count for hit in found.hits}

    def query(
        self, dense: npt.NDArray[np.float32], sparse: SparseVector, scope: Scope, *, candidates: int
    ) -> list[Hit]:
        """Searches by meaning and by words at once and fuses the two rankings. Only `tandem.retriever` calls this.

        Args:
            dense: The question's vector, shape (dimension,), of length 1.
            sparse: The question's terms; empty when it has none, then the dense ranking decides.
            scope: What may be found.
            candidates: How many points each of the two rankings contributes, and how many come back; beside them the
                equals of each last one.

        Returns:
            Best first; equal scores by similarity, then id, so that the order is stable.
        """
        condition = _admitted(scope)

        def ranking(query: Any, using: str) -> list[Ranked]:
            def fetch(limit: int) -> list[Ranked]:
                found = client.query_points(
                    self.collection,
                    query=query,
                    using=using,
                    query_filter=condition,
                    search_params=self._search,
                    limit=limit,
                    with_payload=False,
                    with_vectors=[DENSE],  # the similarity decides on declining, whichever ranking found the point
                ).points
                near = [(str(point.id), point.score, _similarity(dense, point.vector)) for point in found]
                return [Ranked(id, cosine if using == DENSE else score, cosine) for id, score, cosine in near]

            return settled_top(fetch, candidates)

        with self._qdrant.calling() as client:
            rankings = [ranking(dense.tolist(), DENSE)]
            if sparse.indices:
                rankings.append(ranking(_sparse(sparse), SPARSE))
        return [Hit(point.id, point.score, point.similarity) for point in fuse(rankings, candidates)]


def _batched(ids: Iterable[str]) -> Iterator[list[models.ExtendedPointId]]:
    iterator = iter(ids)
    while batch := list(islice(iterator, _BATCH)):
        yield [*batch]


def _struct(point: Point) -> models.PointStruct:
    return models.PointStruct(
        id=point.id,
        vector={DENSE: point.dense.tolist(), SPARSE: _sparse(point.sparse)},
        payload={"document_id": point.document_id, "version_id": point.version_id, "readers": []},
    )


def _admitted(scope: Scope) -> models.Filter:
    day = scope.as_of.toordinal()
    # Every clause holds at least one condition: Qdrant takes an empty one for "everything". Those that turn most
    # points away come first, as the embedded engine stops at the first that fails.
    must: list[models.Condition] = [
        _any("readers", [ADMINS] if scope.groups is None else scope.groups),
        models.FieldCondition(key="until", range=models.Range(gt=day)),
        models.FieldCondition(key="since", range=models.Range(lte=day)),
    ]
    must_not: list[models.Condition] | None = [_any("version_id", scope.excluded)] if scope.excluded else None
    indexed = models.Filter(must=must, must_not=must_not)
    if not scope.admitted:
        return indexed
    return models.Filter(should=[indexed, _any("version_id", scope.admitted)])


def _is(key: str, value: str) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key=key, match=models.MatchValue(value=value))])


def _any(key: str, values: Iterable[str]) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=models.MatchAny(any=sorted(values)))


def _sparse(vector: SparseVector) -> models.SparseVector:
    return models.SparseVector(indices=list(vector.indices), values=list(vector.values))


def _similarity(question: npt.NDArray[np.float32], stored: Any) -> float:
    return float(np.dot(question, np.asarray(stored[DENSE], dtype=np.float32)))
