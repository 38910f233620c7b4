"""Makes new versions the ones that answer: write invisible, verify, commit, show, retire. And takes documents away.

The commit in the database is the moment of truth; everything before it can be thrown away, everything after it can be
done again from what the database says. `Repair` does both at the start of each run.
"""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import delete, exists, insert, select, update
from sqlalchemy.orm import Session

from ingest.blocks import pack
from ingest.diff import Span, timeline
from ingest.readers import READER_VERSION
from ingest.writer import BATCH, Writer, batched
from tandem.database import Database
from tandem.errors import IndexUnavailable
from tandem.schemas import Chunk, ParsedDocument
from tandem.tables import GROUPS_CHANGED, AuditRow, ChunkRow, DocumentRow, EmbeddingRow, VersionRow, utc

_NAMESPACE = uuid.UUID("6f0d3b52-5c1e-4b0e-9d55-0a7be4a1c001")


@dataclass(frozen=True)
class Change:
    """A document that is to get a new version.

    Attributes:
        document: As read.
        chunks: As split.
        root: The root it belongs to from now on.
        metadata_hash: What the next run compares with.
        live_from: First day of the new version; None: since ever.
        seq: Number of the new version, one more than that of the latest.
    """

    document: ParsedDocument
    chunks: tuple[Chunk, ...]
    root: str
    metadata_hash: str
    live_from: date | None
    seq: int

    @property
    def version_id(self) -> str:
        """Follows from what the version is, so that the order of equally good passages does not hang on chance."""
        parts = (self.document.id, str(self.seq), self.document.content_hash, self.metadata_hash)
        return str(uuid.uuid5(_NAMESPACE, "\x00".join(parts)))


class Publisher:
    """Publishes changes, a group of documents at a time. One publisher works at a time (`ingest.lock`).

    Args:
        database: Decides what is live.
        writer: Writes into the live generation, whose index follows the database.
    """

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self._generation = writer.generation.id
        self._index = writer.generation.index

    def publish(self, changes: Sequence[Change], today: date) -> int:
        """Publishes the new versions of some documents; each is the old one whole or the new one whole throughout.

        Args:
            changes: At most one a document.
            today: The current day (UTC).

        Returns:
            The number of texts that had to be embedded.

        Raises:
            IndexUnavailable, DatabaseUnavailable: Nothing has changed, or the next run finishes what was committed.
        """
        if not changes:
            return 0
        embedded = self.embed(changes)
        self.stage(changes)
        self.write(changes)
        self.verify(changes)
        self.commit(changes, today)
        self.show([change.document.id for change in changes])
        return embedded

    def embed(self, changes: Sequence[Change]) -> int:
        """Puts the missing embeddings into the database; returns how many were missing."""
        return self._writer.embed(chunk for change in changes for chunk in change.chunks)

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
            for change in changes:
                session.execute(insert(ChunkRow), self._values(change))

    def write(self, changes: Sequence[Change]) -> None:
        """Writes the points, invisible."""
        self._writer.write_all(
            (
                change.document.id,
                change.document.metadata.title,
                [ChunkRow(**values) for values in self._values(change)],
            )
            for change in changes
        )

    def verify(self, changes: Sequence[Change]) -> None:
        """Counts the points: an upsert is not atomic, and a version with holes must not be shown."""
        for change in changes:
            found = self._index.present([values["id"] for values in self._values(change)])
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
        for batch in batched(document_ids, BATCH):
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
        chunk_ids = self._writer.chunk_ids(row.id for row in rows)
        shown: dict[tuple[date | None, date | None, tuple[str, ...]], list[str]] = {}
        gone: list[str] = []
        for row in rows:
            published = row.state == "published"
            alike = (
                shown.setdefault((row.live_from, row.live_until, tuple(row.groups or ())), []) if published else gone
            )
            alike.extend(chunk_ids.get(row.id, ()))
        for (live_from, live_until, groups), ids in shown.items():  # one call for all that say the same
            self._index.settle(ids, live_from=live_from, live_until=live_until, groups=groups)
        self._index.delete(gone)
        for batch in batched([row.id for row in rows], BATCH):
            with self._database.session() as session:
                session.execute(update(VersionRow).where(VersionRow.id.in_(batch)).values(indexed=True))

    def rewrite(self, row: VersionRow) -> None:
        """Writes the points of a version again from the database, for an index that has lost them."""
        with self._database.session() as session:
            chunks = session.scalars(
                select(ChunkRow).where(ChunkRow.version_id == row.id, ChunkRow.generation_id == self._generation)
            ).all()
        self._writer.embed(chunks)
        self._index.delete_version(row.id)
        self._writer.write(row.document_id, row.title, chunks)

    def touch(self, source_hashes: dict[str, str]) -> None:
        """Notes the new hash, and the reader, of versions whose files changed without changing what they say."""
        with self._database.session() as session:
            for version_id, source_hash in source_hashes.items():
                values = {"source_hash": source_hash, "reader": READER_VERSION}
                session.execute(update(VersionRow).where(VersionRow.id == version_id).values(**values))

    def adopt(self, document_ids: Iterable[str], root: str) -> None:
        """Notes that documents belong to another root from now on."""
        with self._database.session() as session:
            for batch in batched(document_ids, BATCH):
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
        for batch in batched(gone, BATCH):
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

    def _values(self, change: Change) -> list[dict[str, Any]]:
        return chunk_values(self._generation, change.version_id, change.chunks)


def chunk_values(generation_id: str, version_id: str, chunks: Sequence[Chunk]) -> list[dict[str, Any]]:
    """The rows of a version's chunks in a generation, column by column. Their ids follow from what they are."""
    return [
        {
            "id": str(uuid.uuid5(_NAMESPACE, f"{generation_id}\x00{version_id}\x00{chunk.ordinal}\x00{chunk.key}")),
            "generation_id": generation_id,
            "version_id": version_id,
            "ordinal": chunk.ordinal,
            "key": chunk.key,
            "text": chunk.text,
            "heading": chunk.heading,
            "page": chunk.page,
            "start": chunk.start,
            "end": chunk.end,
        }
        for chunk in chunks
    ]


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
        reader=READER_VERSION,
        text=document.text,
        blocks=pack(document.blocks),
        chunk_count=len(change.chunks),
        created_at=now,
    )


def _groups(document: ParsedDocument) -> list[str] | None:
    groups = document.metadata.groups
    return None if groups is None else list(groups)
