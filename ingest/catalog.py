"""What is known of the documents: lists, versions, differences. Reads only the database."""

import difflib
from collections.abc import Sequence
from datetime import date, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from ingest.diff import Known
from tandem.database import Database
from tandem.errors import NotFound
from tandem.schemas import Principal, Value
from tandem.tables import ChunkRow, DocumentRow, VersionRow


class VersionSummary(Value):
    """One version of a document.

    Attributes:
        seq: Counts the versions of the document from 1.
        status: `current`, `future`, `past` by its dates on the day asked for, or `replaced` (never in force again).
        live_from, live_until: The days on which it is in force, half-open; None: without bound.
    """

    version_id: str
    seq: int
    title: str
    version: str
    status: str
    effective_from: date | None
    effective_until: date | None
    live_from: date | None
    live_until: date | None
    chunks: int
    created_at: datetime


class DocumentSummary(Value):
    """A document as its current version says; where none is in force, as its latest does."""

    id: str
    title: str
    owner: str
    groups: tuple[str, ...] | None
    version: str
    status: str
    effective_from: date | None
    source_url: str
    root: str
    versions: int
    chunks: int


class DocumentDetail(Value):
    """A document with the text of one version."""

    document: DocumentSummary
    version: VersionSummary
    text: str


class PassageChange(Value):
    """A passage that one of two versions has and the other has not."""

    heading: str
    text: str


class VersionDiff(Value):
    """What changed between two versions: as a unified diff of the text, and as passages."""

    document_id: str
    old: VersionSummary
    new: VersionSummary
    text: str
    removed: tuple[PassageChange, ...]
    added: tuple[PassageChange, ...]


class Catalog:
    """Answers questions about documents. Whoever may not read one does not learn that it exists.

    Args:
        database: The state database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def show(self, document_id: str, principal: Principal, today: date, seq: int | None = None) -> DocumentDetail:
        """A document with the text of its current version, or of version `seq`.

        Raises:
            NotFound: There is no such document or version, or the principal may not read it.
        """
        with self._database.session() as session:
            summary, rows = self._readable(session, document_id, principal, today)
            row = _chosen(rows, seq, today, document_id)
            return DocumentDetail(document=summary, version=_version(row, today), text=row.text)

    def versions(self, document_id: str, principal: Principal, today: date) -> list[VersionSummary]:
        """All versions that are kept, oldest first. Raises NotFound as `show` does."""
        with self._database.session() as session:
            _, rows = self._readable(session, document_id, principal, today)
            return [_version(row, today) for row in rows]

    def diff(
        self, document_id: str, principal: Principal, today: date, old: int | None = None, new: int | None = None
    ) -> VersionDiff:
        """What changed between two versions, by default the last two. Raises NotFound as `show` does."""
        with self._database.session() as session:
            _, rows = self._readable(session, document_id, principal, today)
            after = rows[-1] if new is None else _chosen(rows, new, today, document_id)
            before = _chosen(rows, after.seq - 1 if old is None else old, today, document_id)
            before_chunks, after_chunks = (_chunks(session, row.id) for row in (before, after))
        lines = difflib.unified_diff(
            before.text.splitlines(),
            after.text.splitlines(),
            f"version {before.seq}",
            f"version {after.seq}",
            lineterm="",
        )
        before_keys, after_keys = ({chunk.key for chunk in chunks} for chunks in (before_chunks, after_chunks))
        return VersionDiff(
            document_id=document_id,
            old=_version(before, today),
            new=_version(after, today),
            text="\n".join(lines),
            removed=_passages(before_chunks, after_keys),
            added=_passages(after_chunks, before_keys),
        )

    def _readable(
        self, session: Session, document_id: str, principal: Principal, today: date
    ) -> tuple[DocumentSummary, list[VersionRow]]:
        document = session.get(DocumentRow, document_id)
        rows = list(
            session.scalars(
                select(VersionRow)
                .where(VersionRow.document_id == document_id, VersionRow.state != "staged")
                .order_by(VersionRow.seq)
            )
        )
        summary = _summary(document_id, document.root, rows, today) if document else None
        if summary is None or not _may_read(principal, summary.groups):
            raise NotFound(
                f"There is no document {document_id!r}. `tandem documents list` shows those there are.", param="id"
            )
        return summary, rows

    def list(self, principal: Principal, today: date) -> list[DocumentSummary]:
        """The documents that `principal` may read, by id."""
        with self._database.session() as session:
            # The texts stay in the database: a list needs none of them.
            rows = session.execute(
                select(*_SUMMARY, DocumentRow.root)
                .join(DocumentRow, VersionRow.document_id == DocumentRow.id)
                .where(VersionRow.state != "staged")
                .order_by(VersionRow.document_id, VersionRow.seq)
            ).all()
        versions: dict[str, list[VersionRow]] = {}
        roots: dict[str, str] = {}
        for row in rows:
            versions.setdefault(row.document_id, []).append(_detached(row))
            roots[row.document_id] = row.root
        found = (_summary(id, roots[id], each, today) for id, each in versions.items())
        return [summary for summary in found if summary is not None and _may_read(principal, summary.groups)]


def known_documents(database: Database) -> dict[str, Known]:
    """The latest published version of every document, by id."""
    statement = (
        select(
            VersionRow.document_id,
            VersionRow.id,
            DocumentRow.root,
            VersionRow.source_hash,
            VersionRow.content_hash,
            VersionRow.metadata_hash,
            VersionRow.splitter,
            VersionRow.chunk_count,
            VersionRow.live_from,
        )
        .join(DocumentRow, VersionRow.document_id == DocumentRow.id)
        .where(VersionRow.state == "published")
        .order_by(VersionRow.document_id, VersionRow.seq)
    )
    with database.session() as session:
        # Of the versions of a document the last one stays.
        return {row[0]: Known(*row[1:]) for row in session.execute(statement)}


_SUMMARY = tuple(column for column in VersionRow.__table__.columns if column.name != "text")


def _detached(row: object) -> VersionRow:
    return VersionRow(**{column.name: getattr(row, column.name) for column in _SUMMARY})


def _summary(id: str, root: str, rows: Sequence[VersionRow], today: date) -> DocumentSummary | None:
    published = [row for row in rows if row.state == "published"]
    if not published:  # being deleted
        return None
    row = next((row for row in reversed(published) if _status(row, today) == "current"), published[-1])
    return DocumentSummary(
        id=id,
        title=row.title or id,
        owner=row.owner,
        groups=None if row.groups is None else tuple(row.groups),
        version=row.label,
        status=_status(row, today),
        effective_from=row.effective_from,
        source_url=row.source_url,
        root=root,
        versions=len(rows),
        chunks=row.chunk_count,
    )


def _version(row: VersionRow, today: date) -> VersionSummary:
    return VersionSummary(
        version_id=row.id,
        seq=row.seq,
        title=row.title,
        version=row.label,
        status=_status(row, today),
        effective_from=row.effective_from,
        effective_until=row.effective_until,
        live_from=row.live_from,
        live_until=row.live_until,
        chunks=row.chunk_count,
        created_at=row.created_at,
    )


def _status(row: VersionRow, today: date) -> str:
    if row.state != "published":
        return "replaced"
    if row.live_from is not None and row.live_from > today:
        return "future"
    if row.live_until is not None and row.live_until <= today:
        return "past"
    return "current"


def _chosen(rows: Sequence[VersionRow], seq: int | None, today: date, document_id: str) -> VersionRow:
    if seq is None:
        published = [row for row in rows if row.state == "published"]
        return next((row for row in reversed(published) if _status(row, today) == "current"), published[-1])
    for row in rows:
        if row.seq == seq:
            return row
    kept = ", ".join(str(row.seq) for row in rows)
    raise NotFound(f"The document {document_id!r} has no version {seq}; kept are {kept}.", param="version")


def _chunks(session: Session, version_id: str) -> Sequence[ChunkRow]:
    return session.scalars(select(ChunkRow).where(ChunkRow.version_id == version_id).order_by(ChunkRow.ordinal)).all()


def _passages(chunks: Sequence[ChunkRow], without: set[str]) -> tuple[PassageChange, ...]:
    return tuple(PassageChange(heading=c.heading, text=c.text) for c in chunks if c.key not in without)


def _may_read(principal: Principal, groups: Sequence[str] | None) -> bool:
    return principal.admin or not principal.groups.isdisjoint(groups or ())
