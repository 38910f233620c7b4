"""The vector index: Qdrant, embedded in a folder or a server by URL, through the same calls.

The index is derived: what it says about readers and dates narrows a search and proves nothing. Only
`tandem.retriever` may search it (a contract test looks), since only there is each hit checked in the database.
"""

import contextlib
import math
import sqlite3
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

from tandem.errors import IndexUnavailable
from tandem.index_folder import claim_folder
from tandem.points import Hit, Point, Scope
from tandem.settings import Settings
from tandem.sparse import SparseVector

__all__ = ["Hit", "Point", "Scope", "VectorIndex", "open_index"]

DENSE = "dense"
SPARSE = "sparse"
# Stands for the admins among the readers. Whoever calls a group so gains nothing: the database does not know it.
ADMINS = "\u0000admin"
# Bounds of a live interval as day numbers, where the database has NULL.
ALWAYS = 0
FOREVER = date.max.toordinal() + 1
# Reciprocal rank fusion scores 1 / (k + rank), ranks from 0. Named here, so that no engine's default decides.
RRF_K = 60
_BATCH = 256
_PAGE = 4096
# The payload is as small as a search allows, since the embedded engine reads it point by point: whom a point is shown
# to (nobody before its version is settled), the first day, and the day after the last.
_INDEXED = {
    "version_id": models.PayloadSchemaType.KEYWORD,
    "document_id": models.PayloadSchemaType.KEYWORD,
    "readers": models.PayloadSchemaType.KEYWORD,
    "since": models.PayloadSchemaType.INTEGER,
    "until": models.PayloadSchemaType.INTEGER,
}


class VectorIndex:
    """One collection of chunks with a dense and a sparse vector each. Safe to call from several threads.

    Args:
        client: Embedded or remote.
        collection: The alias that is searched; the collection behind it carries a number.
        dimension: Length of the dense vectors.

    Every method raises IndexUnavailable when Qdrant does not answer.
    """

    def __init__(self, client: QdrantClient, collection: str, dimension: int) -> None:
        self._client = client
        self._collection = collection
        self._dimension = dimension
        self._folder = client.init_options["path"]
        # Embedded Qdrant is plain Python over lists and one SQLite connection: one call at a time.
        self._lock = threading.RLock() if self._folder is not None else contextlib.nullcontext()

    def ensure(self) -> None:
        """Creates the collection and its alias where they are missing.

        Raises:
            IndexUnavailable: The collection holds vectors of another length.
        """
        with self._calling():
            if self._collection not in {alias.alias_name for alias in self._client.get_aliases().aliases}:
                self._create(f"{self._collection}-1")
            held = self._client.get_collection(self._collection).config.params.vectors
        size = held[DENSE].size if isinstance(held, dict) and DENSE in held else None
        if size != self._dimension:
            raise IndexUnavailable(
                f"The index {self._collection!r} holds vectors of length {size!r}, the embedding model makes "
                f"{self._dimension}. Set TANDEM_QDRANT__COLLECTION to a new name and ingest again."
            )

    def write(self, points: Sequence[Point]) -> None:
        """Writes points, shown to nobody. Not atomic: `count` says whether all have arrived."""
        for start in range(0, len(points), _BATCH):
            structs = [_struct(point) for point in points[start : start + _BATCH]]
            with self._writing():
                self._client.upsert(self._collection, structs, wait=True)

    def settle(
        self,
        version_id: str,
        *,
        visible: bool,
        live_from: date | None,
        live_until: date | None,
        groups: Sequence[str] | None,
    ) -> None:
        """Makes the points of a version say what the database says of it."""
        payload = {
            "readers": [ADMINS, *sorted(set(groups or ()))] if visible else [],
            "since": live_from.toordinal() if live_from else ALWAYS,
            "until": live_until.toordinal() if live_until else FOREVER,
        }
        with self._writing():
            self._client.set_payload(self._collection, payload, points=_is("version_id", version_id), wait=True)

    def count(self, version_id: str) -> int:
        """The number of points of a version, counted exactly."""
        with self._calling():
            return self._client.count(self._collection, _is("version_id", version_id), exact=True).count

    def delete_version(self, version_id: str) -> None:
        """Deletes the points of a version."""
        with self._writing():
            self._client.delete(self._collection, _is("version_id", version_id), wait=True)

    def delete_document(self, document_id: str) -> None:
        """Deletes the points of all versions of a document."""
        with self._writing():
            self._client.delete(self._collection, _is("document_id", document_id), wait=True)

    def version_counts(self) -> dict[str, int]:
        """How many points each version has in the index. Reads all points: for repair, not for answering."""
        counts: Counter[str] = Counter()
        offset: Any = None
        while True:
            with self._calling():
                records, offset = self._client.scroll(
                    self._collection, limit=_PAGE, offset=offset, with_payload=["version_id"], with_vectors=False
                )
            counts.update(str(record.payload["version_id"]) for record in records if record.payload)
            if offset is None:
                return dict(counts)

    def query(
        self, dense: npt.NDArray[np.float32], sparse: SparseVector, scope: Scope, *, candidates: int
    ) -> list[Hit]:
        """Searches by meaning and by words at once and fuses the two rankings. Only `tandem.retriever` calls this.

        Args:
            dense: The question's vector, shape (dimension,), of length 1.
            sparse: The question's terms; empty when it has none, then the dense ranking decides.
            scope: What may be found.
            candidates: How many points each of the two rankings contributes, and how many come back.

        Returns:
            Best first; equal scores by similarity, then id, so that the order is stable.
        """
        condition = _admitted(scope)
        prefetch = [models.Prefetch(query=dense.tolist(), using=DENSE, filter=condition, limit=candidates)]
        if sparse.indices:
            prefetch.append(models.Prefetch(query=_sparse(sparse), using=SPARSE, filter=condition, limit=candidates))
        with self._calling():
            found = self._client.query_points(
                self._collection,
                prefetch=prefetch,
                query=models.RrfQuery(rrf=models.Rrf(k=RRF_K)),
                limit=candidates,
                with_payload=False,
                with_vectors=[DENSE],  # the fused score hides the similarity, which decides on declining
            ).points
        hits = [Hit(str(point.id), point.score, _similarity(dense, point.vector)) for point in found]
        return sorted(hits, key=lambda hit: (-hit.score, -hit.similarity, hit.chunk_id))

    def ping(self) -> None:
        """Raises IndexUnavailable unless Qdrant answers and has the collection."""
        with self._calling():
            self._client.get_collection(self._collection)

    def close(self) -> None:
        """Closes the client, and with it the lock on the folder."""
        with self._lock:
            self._client.close()

    def _create(self, name: str) -> None:
        if not self._client.collection_exists(name):
            self._client.create_collection(
                name,
                vectors_config={DENSE: models.VectorParams(size=self._dimension, distance=models.Distance.COSINE)},
                # No IDF modifier: the engine would count terms over documents that the asker may not read.
                sparse_vectors_config={SPARSE: models.SparseVectorParams()},
            )
        if self._folder is not None:
            _log_ahead(Path(self._folder))
        else:  # the embedded engine has no payload indexes
            for field, schema in _INDEXED.items():
                self._client.create_payload_index(name, field, schema, wait=True)
        create = models.CreateAlias(collection_name=name, alias_name=self._collection)
        self._client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._calling():
            # SQLite would go on writing into a file that has no name any more.
            if self._folder is not None and not Path(self._folder, "meta.json").exists():
                raise FileNotFoundError(f"its folder {str(self._folder)!r} is gone")
            yield

    @contextlib.contextmanager
    def _calling(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except (ApiException, QdrantException, sqlite3.Error, OSError, RuntimeError) as exc:
            raise IndexUnavailable(
                f"The vector index {self._collection!r} does not answer: {str(exc).strip()}. "
                "Check that Qdrant runs at TANDEM_QDRANT__URL, or that the data directory can be written."
            ) from exc


def open_index(settings: Settings, dimension: int) -> VectorIndex:
    """Opens the index that the settings name: a server by URL, or embedded in the data directory.

    Args:
        settings: `qdrant.url`, else `qdrant_path`.
        dimension: Length of the embedder's vectors.

    Raises:
        IndexUnavailable: The folder is open to other users, held by another process, or broken.
    """
    qdrant = settings.qdrant
    if qdrant.url is None:
        return VectorIndex(_open_folder(settings.qdrant_path), qdrant.collection, dimension)
    key = qdrant.api_key.get_secret_value() if qdrant.api_key else None
    with warnings.catch_warnings():
        # The client warns of a key over plain HTTP, which is what an internal network has.
        warnings.simplefilter("ignore", UserWarning)
        client = QdrantClient(url=qdrant.url, api_key=key, timeout=math.ceil(qdrant.timeout), check_compatibility=False)
    return VectorIndex(client, qdrant.collection, dimension)


def _open_folder(folder: Path) -> QdrantClient:
    claim_folder(folder)
    try:
        return QdrantClient(path=str(folder))
    except Exception as exc:  # it unpickles what it finds, so anything may come
        raise IndexUnavailable(
            f"The index in {str(folder)!r} cannot be opened: {exc}. Move that folder away and ingest again."
        ) from exc


def _log_ahead(folder: Path) -> None:
    """Has SQLite, where embedded Qdrant commits each point by itself, wait for the disk once a commit, not thrice."""
    for file in folder.glob("collection/*/storage.sqlite"):
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # stays with the file


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
