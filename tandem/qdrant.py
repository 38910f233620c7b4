"""Qdrant itself, embedded in a folder or a server by URL, through the same calls: its collections and their alias."""

import contextlib
import math
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

from tandem.errors import IndexUnavailable
from tandem.index_folder import claim_folder
from tandem.settings import Settings

DENSE = "dense"
SPARSE = "sparse"
# The payload is as small as a search allows, since the embedded engine reads it point by point: whom a point is shown
# to (nobody before its version is settled), the first day, and the day after the last.
_INDEXED = {
    "version_id": models.PayloadSchemaType.KEYWORD,
    "document_id": models.PayloadSchemaType.KEYWORD,
    "readers": models.PayloadSchemaType.KEYWORD,
    "since": models.PayloadSchemaType.INTEGER,
    "until": models.PayloadSchemaType.INTEGER,
}


class Qdrant:
    """The connection, and the collections behind it. Safe to use from several threads.

    Args:
        client: Embedded or remote.
        alias: The name that the live collection goes by; the collections are called ALIAS-SOMETHING.
        exact: Whether searches look at every point that the filter lets through. The embedded engine always does.

    Every method raises IndexUnavailable when Qdrant does not answer.
    """

    def __init__(self, client: QdrantClient, alias: str, *, exact: bool = False) -> None:
        self.client = client
        self.alias = alias
        self.exact = exact
        folder = client.init_options["path"]
        self._folder = Path(folder) if folder is not None else None
        # Embedded Qdrant is plain Python over lists and one SQLite connection: one call at a time.
        self._lock = threading.RLock() if self._folder is not None else contextlib.nullcontext()

    @contextlib.contextmanager
    def calling(self) -> Iterator[QdrantClient]:
        """The client, one caller at a time where it needs that; what it raises becomes IndexUnavailable."""
        try:
            # The embedded engine says ValueError and KeyError where a server says 404.
            with self._lock:
                yield self.client
        except (ApiException, QdrantException, sqlite3.Error, OSError, RuntimeError, LookupError, ValueError) as exc:
            raise IndexUnavailable(
                f"The vector index {self.alias!r} does not answer: {str(exc).strip()}. "
                "Check that Qdrant runs at TANDEM_QDRANT__URL, or that the data directory can be written."
            ) from exc

    @contextlib.contextmanager
    def writing(self, collection: str) -> Iterator[QdrantClient]:
        """As `calling`, for many points of one collection: they are on the disk when it ends.

        The embedded engine commits each point by itself, and would wait for the disk each time; it now waits once.
        """
        with self.calling() as client:
            # SQLite would go on writing into a file that has no name any more.
            if self._folder is not None and not (self._folder / "meta.json").exists():
                raise FileNotFoundError(f"its folder {str(self._folder)!r} is gone")
            log = self._log(collection)
            if log is not None:
                log.execute("PRAGMA synchronous=NORMAL")
            yield client
            if log is not None:
                log.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def create(self, collection: str, dimension: int) -> None:
        """Makes a collection where there is none of that name; of two processes that try at once, one makes it.

        Raises:
            IndexUnavailable: There is one, and it holds vectors of another length.
        """
        with self.calling() as client:
            if not client.collection_exists(collection):
                with self._unless_made(collection):
                    client.create_collection(
                        collection,
                        vectors_config={DENSE: models.VectorParams(size=dimension, distance=models.Distance.COSINE)},
                        # No IDF modifier: the engine would count terms over documents the asker may not read.
                        sparse_vectors_config={SPARSE: models.SparseVectorParams()},
                    )
                if self._folder is not None:
                    _log_ahead(self._folder / "collection" / collection)
            if self._folder is None:  # the embedded engine has no payload indexes
                for field, schema in _INDEXED.items():
                    client.create_payload_index(collection, field, schema, wait=True)
            held = client.get_collection(collection).config.params.vectors
        size = held[DENSE].size if isinstance(held, dict) and DENSE in held else None
        if size != dimension:
            raise IndexUnavailable(
                f"The collection {collection!r} holds vectors of length {size!r}, the embedding model makes "
                f"{dimension}. Set TANDEM_QDRANT__COLLECTION to a new name and ingest again."
            )

    def point_alias(self, collection: str) -> None:
        """Lets the alias name this collection from now on, in one step."""
        with self.calling() as client:
            behind = {alias.alias_name: alias.collection_name for alias in client.get_aliases().aliases}
            if behind.get(self.alias) == collection:
                return
            create = models.CreateAlias(collection_name=collection, alias_name=self.alias)
            operations: list[models.AliasOperations] = [models.CreateAliasOperation(create_alias=create)]
            if self.alias in behind:
                delete = models.DeleteAlias(alias_name=self.alias)
                operations.insert(0, models.DeleteAliasOperation(delete_alias=delete))
            client.update_collection_aliases(operations)

    def drop(self, collection: str) -> None:
        """Deletes a collection, if it is there."""
        with self.calling() as client:
            if client.collection_exists(collection):
                client.delete_collection(collection)

    def ping(self, collection: str | None) -> None:
        """Raises IndexUnavailable unless Qdrant answers and has the collection."""
        with self.calling() as client:
            if collection is None:
                client.get_aliases()
            elif not client.collection_exists(collection):
                raise KeyError(f"the collection {collection!r} is gone; `tandem ingest` writes it again")

    def close(self) -> None:
        """Closes the client, and with it the lock on the folder."""
        with self._lock:
            self.client.close()

    def _log(self, collection: str) -> sqlite3.Connection | None:
        """The embedded engine's own connection, which it has no name for: the setting holds for a connection only."""
        if self._folder is None:
            return None
        held: Any = getattr(self.client._client, "collections", {}).get(collection)
        connection: sqlite3.Connection | None = None if held is None else held.storage.storage
        return connection

    @contextlib.contextmanager
    def _unless_made(self, collection: str) -> Iterator[None]:
        try:
            yield
        except (ApiException, ValueError):
            if not self.client.collection_exists(collection):  # else another process was quicker
                raise


def open_qdrant(settings: Settings) -> Qdrant:
    """Opens what the settings name: a server by URL, or the embedded engine in the data directory.

    Raises:
        IndexUnavailable: The folder is open to other users, held by another process, or broken.
    """
    qdrant = settings.qdrant
    if qdrant.url is None:
        return Qdrant(_open_folder(settings.qdrant_path), qdrant.collection)
    key = qdrant.api_key.get_secret_value() if qdrant.api_key else None
    with warnings.catch_warnings():
        # The client warns of a key over plain HTTP, which is what an internal network has.
        warnings.simplefilter("ignore", UserWarning)
        client = QdrantClient(url=qdrant.url, api_key=key, timeout=math.ceil(qdrant.timeout), check_compatibility=False)
    return Qdrant(client, qdrant.collection, exact=qdrant.exact)


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
    for file in folder.glob("storage.sqlite"):
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # stays with the file
