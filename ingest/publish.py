"""Makes new versions the ones that answer: write invisible, verify, commit, show, retire. And takes documents away.

The commit in the database is the moment of truth; everything before it can be thrown away, everything after it can be
done again from what the database says. `Repair` does both at the start of each run.
"""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby, islice
from typing import TypeVar

import numpy as np
from sqlalchemy import delete, exists, select, update
from sqlalchemy.orm import Session

from ingest.diff import Span, timeline
from ingest.progress import OnProgress
from ingest.report import Progress
from tandem.database import Database
from tandem.embedder import Embedder
from tandem.errors import IndexUnavailable
from tandem.schemas import Chunk, ParsedDocument
from tandem.sparse import SparseEncoder
from tandem.tables import GROUPS_CHANGED, AuditRow, ChunkRow, DocumentRow, EmbeddingRow, VersionRow, utc
from tandem.vectors import Point, VectorIndex

T = TypeVar("T")
_NAMESPACE = uuid.UUID("6f0d3b52-5c1e-4b0e-9d55-0a7be4a1c001")
# Below the number of variables that SQLite allows in a statement.
_BATCH = 500
# A few seconds of embedding on a slow machine: what was embedded is saved, and told, that often.
_EMBED_BATCH = 256


def _untold(progress: Progress) -> None:
    """For those who do not follow."""


@dataclass(frozen=True)
class Change:
    """A document that is to get a new version.

    Attributes:
        document: As read.
        chunks: As split.
        root: The root it belongs to from now on.
        metadata_hash, splitter: What the next run compares with.
        live_from: First day of the new version; None: since ever.
        seq: Number of the new version, one more than that of the latest.
    """

    document: ParsedDocument
    chunks: tuple[Chunk, ...]
    root: str
    metadata_hash: str
    splitter: str
    live_from: date | None
    seq: int

    @property
    def version_id(self) -> str:
        """Follows from what the version is, so that the order of equally good passages does not hang on chance."""
        parts = (self.document.id, str(self.seq), self.document.content_hash, self.metadata_hash, self.splitter)
        return str(uuid.uuid5(_NAMESPACE, "\x00".join(parts)))

    def chunk_id(self, chunk: Chunk) -> str:
        return str(uuid.uuid5(_NAMESPACE, f"{self.version_id}\x00{chunk.ordinal}\x00{chunk.key}"))


class Publisher:
    """Publishes changes, a group of documents at a time. One publisher works at a time (`ingest.lock`).

    Args:
        database: Decides what is live.
        index: Follows it.
        embedder: Asked only for texts whose embedding is not in the database.
        sparse: For the keyword vectors, which cost nothing worth keeping.
    """

    def __init__(self, database: Database, index: VectorIndex, embedder: Embedder, sparse: SparseEncoder) -> None:
        self._database = database
        self._index = index
        self._embedder = embedder
        self._sparse = sparse

    def publish(self, changes: Sequence[Change], today: date, on_progress: OnProgress = _untold) -> int:
        """Publishes the new versions of some documents; each is the old one whole or the new one whole throughout.

        Args:
            changes: At most one a document.
            today: The current day (UTC).
            on_progress: Told how many of the missing texts are embedded.

        Returns:
            The number of texts that had to be embedded.

        Raises:
            IndexUnavailable, DatabaseUnavailable: Nothing has changed, or the next run finishes what was committed.
        """
        if not changes:
            return 0
        embedded = self.embed(changes, on_progress)
        self.stage(changes)
        self.write(changes)
        self.verify(changes)
        self.commit(changes, today)
        self.show([change.document.id for change in changes])
        return embedded

    def embed(self, changes: Sequence[Change], on_progress: OnProgress = _untold) -> int:
        """Puts the missing embeddings into the database; returns how many were missing."""
        texts = {chunk.key: chunk.embedding_text for change in changes for chunk in change.chunks}
        return self._embed_missing(texts, on_progress)

    def stage(self, changes: Sequence[Change]) -> None:
        """Writes the versions and their chunks into the database, as yet without effect."""
        now = datetime.now(UTC)
        with self._database.session() as session:
            for change in changes:
                document = change.document
                if session.get(DocumentRow, document.id) is None:
                    session.add(DocumentRow(id=document.id, root=change.root, created_at=now))
                    session.flush()
                session.add(_version_row(change, now))
                session.flush()
                session.add_all(_chunk_row(change, chunk) for chunk in change.chunks)

    def write(self, changes: Sequence[Change]) -> None:
        """Writes the points, invisible."""
        for change in changes:
            rows = [_chunk_row(change, chunk) for chunk in change.chunks]
            self._write_points(change.document.id, change.document.metadata.title, rows)

    def verify(self, changes: Sequence[Change]) -> None:
        """Counts the points: an upsert is not atomic, and a version with holes must not be shown."""
        for change in changes:
            found = self._index.count(change.version_id)
            if found != len(change.chunks):
                raise IndexUnavailable(
                    f"The vector index holds {found} of {len(change.chunks)} passages of {change.document.id!r} after "
                    "writing them all. The old version stays; check the disk's space and run the ingest again."
                )

    def commit(self, changes: Sequence[Change], today: date) -> None:
        """The moment of truth: from here on the new versions answer."""
        with self._database.session() as session:
            for change in changes:
                _commit_one(session, change, today)

    def show(self, document_ids: Sequence[str]) -> None:
        """Lets the index follow: new versions become visible, then old ones get their last day or go."""
        for batch in batched(document_ids, _BATCH):
            with self._database.session() as session:
                rows = session.scalars(
                    select(VersionRow)
                    .where(
                        VersionRow.document_id.in_(batch), VersionRow.indexed.is_(False), VersionRow.state != "staged"
                    )
                    .order_by(VersionRow.seq.desc())
                ).all()
            self.settle(rows)

    def settle(self, rows: Sequence[VersionRow]) -> None:
        """Makes the index say what the database says of these versions, then notes that it does."""
        for row in rows:
            if row.state == "published":
                self._index.settle(
                    row.id, visible=True, live_from=row.live_from, live_until=row.live_until, groups=row.groups
                )
            else:
                self._index.delete_version(row.id)
        for batch in batched([row.id for row in rows], _BATCH):
            with self._database.session() as session:
                session.execute(update(VersionRow).where(VersionRow.id.in_(batch)).values(indexed=True))

    def rewrite(self, row: VersionRow) -> None:
        """Writes the points of a version again from the database, for an index that has lost them."""
        with self._database.session() as session:
            chunks = session.scalars(select(ChunkRow).where(ChunkRow.version_id == row.id)).all()
        self._embed_missing({chunk.key: _as_chunk(chunk).embedding_text for chunk in chunks})
        self._index.delete_version(row.id)
        self._write_points(row.document_id, row.title, chunks)

    def touch(self, source_hashes: dict[str, str]) -> None:
        """Notes the new file hash of versions whose files changed without changing what they say."""
        with self._database.session() as session:
            for version_id, source_hash in source_hashes.items():
                session.execute(update(VersionRow).where(VersionRow.id == version_id).values(source_hash=source_hash))

    def adopt(self, document_ids: Iterable[str], root: str) -> None:
        """Notes that documents belong to another root from now on."""
        with self._database.session() as session:
            for batch in batched(document_ids, _BATCH):
                session.execute(update(DocumentRow).where(DocumentRow.id.in_(batch)).values(root=root))

    def prune(self, keep: int, today: date, keep_days: int | None = None) -> None:
        """Drops versions that are kept no longer, and embeddings that no chunk uses. What is or will be in force stays.

        Args:
            keep: Versions beyond the newest `keep` of each document go.
            today: The current day (UTC).
            keep_days: So do those whose force ended so many days ago, or more; None keeps them.
        """
        with self._database.session() as session:
            columns = (VersionRow.id, VersionRow.state, VersionRow.live_until, VersionRow.created_at)
            rows = session.execute(
                select(VersionRow.document_id, *columns).order_by(VersionRow.document_id, VersionRow.seq.desc())
            ).all()
        gone: list[str] = []
        for _, versions in groupby(rows, key=lambda row: row.document_id):
            successor: date | None = None
            for place, row in enumerate(versions):
                # A version that was replaced from its first day on ended when the next one was published.
                ended = successor if row.state == "retired" else row.live_until
                if ended is not None and ended <= today:
                    old = keep_days is not None and ended <= today - timedelta(days=keep_days)
                    gone.extend([row.id] if place >= keep or old else [])
                successor = utc(row.created_at).date()
        for batch in batched(gone, _BATCH):
            with self._database.session() as session:
                session.execute(
                    update(VersionRow).where(VersionRow.id.in_(batch)).values(state="retired", indexed=False)
                )
                retired = session.scalars(select(VersionRow).where(VersionRow.id.in_(batch))).all()
            self.settle(retired)
            with self._database.session() as session:
                session.execute(delete(VersionRow).where(VersionRow.id.in_(batch)))
        self.prune_embeddings()

    def prune_embeddings(self) -> None:
        """Drops embeddings that no chunk uses."""
        with self._database.session() as session:
            used = exists().where(ChunkRow.key == EmbeddingRow.key)
            session.execute(delete(EmbeddingRow).where(~used))

    def missing_keys(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` whose embedding is not in the database."""
        wanted = set(keys)
        with self._database.session() as session:
            for batch in batched(sorted(wanted), _BATCH):
                wanted -= set(session.scalars(select(EmbeddingRow.key).where(EmbeddingRow.key.in_(batch))))
        return wanted

    def _embed_missing(self, texts: dict[str, str], on_progress: OnProgress = _untold) -> int:
        missing = sorted(self.missing_keys(texts))
        for n, batch in enumerate(batched(missing, _EMBED_BATCH)):
            on_progress(Progress(stage="embed", done=n * _EMBED_BATCH, total=len(missing)))
            # Saved batch by batch: what was embedded stays embedded, whatever happens to the run.
            vectors = self._embedder.embed([texts[key] for key in batch])
            with self._database.session() as session:
                session.add_all(
                    EmbeddingRow(key=key, vector=np.asarray(vector, dtype="<f4").tobytes())
                    for key, vector in zip(batch, vectors, strict=True)
                )
        return len(missing)

    def _write_points(self, document_id: str, title: str, chunks: Sequence[ChunkRow]) -> None:
        for batch in batched(chunks, _BATCH):
            with self._database.session() as session:
                found = session.execute(
                    select(EmbeddingRow.key, EmbeddingRow.vector).where(
                        EmbeddingRow.key.in_({row.key for row in batch})
                    )
                )
                vectors = {key: np.frombuffer(vector, dtype="<f4") for key, vector in found}
            self._index.write(
                [
                    Point(
                        id=row.id,
                        document_id=document_id,
                        version_id=row.version_id,
                        dense=vectors[row.key],
                        sparse=self._sparse.encode_document(_keywords(title, row)),
                    )
                    for row in batch
                ]
            )


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _commit_one(session: Session, change: Change, today: date) -> None:
    document = change.document
    earlier = session.scalars(
        select(VersionRow).where(VersionRow.document_id == document.id, VersionRow.state == "published")
    ).all()
    spans = [Span(row.id, row.live_from, row.live_until, row.effective_until) for row in earlier]
    line = timeline(spans, change.live_from, today)
    groups = _groups(document)
    latest = max(earlier, key=lambda row: row.seq, default=None)
    if latest is not None and latest.groups != groups:
        detail = {"seq": change.seq, "before": latest.groups, "after": groups}
        now = datetime.now(UTC)
        session.add(AuditRow(user="", action=GROUPS_CHANGED, subject=document.id, detail=detail, created_at=now))
    for row in earlier:
        row.indexed = False
        # Who may read a document is a matter of today: its past versions must not stay open to whom it is closed now.
        row.groups = groups
        if row.id in line.live_until:
            row.live_until = line.live_until[row.id]
        else:
            row.state = "retired"
    session.execute(
        update(VersionRow).where(VersionRow.id == change.version_id).values(state="published", indexed=False)
    )
    session.execute(update(DocumentRow).where(DocumentRow.id == document.id).values(root=change.root))


def _version_row(change: Change, now: datetime) -> VersionRow:
    document, metadata = change.document, change.document.metadata
    return VersionRow(
        id=change.version_id,
        document_id=document.id,
        seq=change.seq,
        state="staged",
        indexed=False,
        title=metadata.title,
        owner=metadata.owner,
        label=metadata.version,
        groups=_groups(document),
        source_url=metadata.source_url,
        trust=metadata.trust,
        effective_from=metadata.effective_from,
        effective_until=metadata.effective_until,
        live_from=change.live_from,
        live_until=metadata.effective_until,
        source_hash=document.source_hash,
        content_hash=document.content_hash,
        metadata_hash=change.metadata_hash,
        splitter=change.splitter,
        text=document.text,
        chunk_count=len(change.chunks),
        created_at=now,
    )


def _groups(document: ParsedDocument) -> list[str] | None:
    groups = document.metadata.groups
    return None if groups is None else list(groups)


def _chunk_row(change: Change, chunk: Chunk) -> ChunkRow:
    return ChunkRow(
        id=change.chunk_id(chunk),
        version_id=change.version_id,
        ordinal=chunk.ordinal,
        key=chunk.key,
        text=chunk.text,
        heading=chunk.heading,
        page=chunk.page,
        start=chunk.start,
        end=chunk.end,
    )


def _as_chunk(row: ChunkRow) -> Chunk:
    return Chunk(ordinal=row.ordinal, key=row.key, text=row.text, heading=row.heading)


def _keywords(title: str, row: ChunkRow) -> str:
    return "\n".join(part for part in (title, row.heading, row.text) if part)
