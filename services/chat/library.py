"""What a person may see of the documents. The state database decides; the index is not asked."""

import difflib
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from itertools import groupby
from typing import Any, Literal

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from ingest.blocks import unpack
from services.chat.difference import Paragraph, PassageChange, Section, compare, paragraphs
from tandem.database import Database
from tandem.errors import InputError, NotFound
from tandem.schemas import Principal
from tandem.tables import GROUPS_CHANGED, AuditRow, VersionRow, utc

Status = Literal["live", "upcoming", "ended"]
DIFF_LINES = 4000


class VersionSummary(BaseModel):
    """One version of a document, without its text. `status` is as of today, in UTC."""

    document_id: str
    version_id: str
    seq: int
    title: str
    owner: str
    version: str
    groups: list[str] | None
    effective_from: date | None
    effective_until: date | None
    live_from: date | None
    live_until: date | None
    status: Status
    source_url: str
    trust: str
    chunks: int
    created_at: datetime


class DocumentSummary(VersionSummary):
    """A document by the version in force, or where none is by the newest one."""

    id: str
    versions: int


class DocumentDetail(DocumentSummary):
    """A document with the text of that version."""

    text: str


class FieldChange(BaseModel):
    """A field of a version's metadata that is not the same in both."""

    field: str
    before: Any
    after: Any


class Difference(BaseModel):
    """What changed between two versions.

    Attributes:
        metadata: Title, owner, dates and so on. A version is read by whom the document is open to now, so a change of
            groups comes from the audit log, and only admins are shown it.
        passages: Added, removed, changed and moved passages, in reading order.
        lines: The texts as a unified diff.
        truncated: There are more passages or lines than are given here.
    """

    document_id: str
    from_seq: int
    to_seq: int
    metadata: list[FieldChange]
    passages: list[PassageChange]
    lines: list[str]
    truncated: bool = False


class Library:
    """Reads documents for one person at a time. Blocking; callers on the event loop use a thread.

    A document that one may not read is answered like one that does not exist. What counts is the version in force: who
    lost the right to read it no longer sees the document at all, old versions included.
    """

    def __init__(self, database: Database, today: Callable[[], date] = lambda: datetime.now(UTC).date()) -> None:
        self._database = database
        self._today = today

    def documents(self, principal: Principal) -> list[DocumentSummary]:
        """All documents the principal may read, by id."""
        query = (
            select(VersionRow)
            .where(VersionRow.state != "staged")
            .options(defer(VersionRow.text, raiseload=True))
            .order_by(VersionRow.document_id, VersionRow.seq.desc())
        )
        with self._database.session() as session:
            rows = session.scalars(query).all()
        found = (
            self._document(list(versions), principal) for _, versions in groupby(rows, lambda row: row.document_id)
        )
        return [document for document in found if document is not None]

    def document(self, document_id: str, principal: Principal) -> DocumentDetail:
        """One document with its text.

        Raises:
            NotFound: There is none, or the principal may not read it.
        """
        with self._database.session() as session:
            rows = self._rows(session, document_id, principal)
            summary = self._document(rows, principal)
            assert summary is not None
            text = session.scalar(select(VersionRow.text).where(VersionRow.id == summary.version_id))
        return DocumentDetail(**summary.model_dump(), text=text or "")

    def versions(self, document_id: str, principal: Principal) -> list[VersionSummary]:
        """The versions of a document that the principal may read, newest first.

        Raises:
            NotFound: There is none, or the principal may not read it.
        """
        with self._database.session() as session:
            rows = self._rows(session, document_id, principal)
        return [VersionSummary(**self._fields(row)) for row in rows if may_read(principal, row.groups)]

    def difference(self, document_id: str, older: int | None, newer: int | None, principal: Principal) -> Difference:
        """What changed between two versions, by their sequence numbers; by default the last two.

        Raises:
            NotFound: The document or a version does not exist for this principal.
            InputError: There is only one version.
        """
        known = [version.seq for version in self.versions(document_id, principal)]
        newer = known[0] if newer is None else newer
        earlier = [seq for seq in known if seq < newer]
        if older is None and not earlier:
            raise InputError(f"The document {document_id!r} has no version before no. {newer} to compare with.")
        older = earlier[0] if older is None else older
        for seq, param in ((older, "from"), (newer, "to")):
            if seq not in known:
                have = ", ".join(map(str, sorted(known)))
                raise NotFound(f"The document {document_id!r} has no version no. {seq}; it has {have}.", param=param)
        with self._database.session() as session:
            query = select(VersionRow).where(VersionRow.document_id == document_id, VersionRow.seq.in_((older, newer)))
            rows = {row.seq: row for row in session.scalars(query)}
            passages = compare(*(_paragraphs(rows[seq]) for seq in (older, newer)))
            metadata = _metadata_changes(rows[older], rows[newer])
            if principal.admin:
                metadata.extend(_group_changes(session, document_id, older, newer))
        before, after = (rows[seq].text.splitlines() for seq in (older, newer))
        lines = list(difflib.unified_diff(before, after, f"no. {older}", f"no. {newer}", lineterm="", n=2))
        return Difference(
            document_id=document_id,
            from_seq=older,
            to_seq=newer,
            metadata=metadata,
            passages=passages[:DIFF_LINES],
            lines=lines[:DIFF_LINES],
            truncated=max(len(lines), len(passages)) > DIFF_LINES,
        )

    def _rows(self, session: Session, document_id: str, principal: Principal) -> Sequence[VersionRow]:
        rows = session.scalars(
            select(VersionRow)
            .where(VersionRow.document_id == document_id, VersionRow.state != "staged")
            .options(defer(VersionRow.text, raiseload=True))
            .order_by(VersionRow.seq.desc())
        ).all()
        if not rows or self._document(rows, principal) is None:
            raise NotFound(f"There is no document {document_id!r} that you may read.", param="document_id")
        return rows

    def _document(self, rows: Sequence[VersionRow], principal: Principal) -> DocumentSummary | None:
        """The document by its versions, newest first; None when the principal may not read the one in force."""
        published = [row for row in rows if row.state == "published"]
        leading = next((row for row in published if self._status(row) == "live"), None) or next(iter(published), None)
        if leading is None or not may_read(principal, leading.groups):  # without a published version: being deleted
            return None
        readable = sum(may_read(principal, row.groups) for row in rows)
        return DocumentSummary(**self._fields(leading), id=leading.document_id, versions=readable)

    def _status(self, row: VersionRow) -> Status:
        today = self._today()
        if row.state != "published" or (row.live_until is not None and row.live_until <= today):
            return "ended"
        return "upcoming" if row.live_from is not None and row.live_from > today else "live"

    def _fields(self, row: VersionRow) -> dict[str, Any]:
        plain = ("document_id", "seq", "title", "owner", "groups", "effective_from", "effective_until")
        more = ("live_from", "live_until", "source_url", "trust")
        return {
            **{name: getattr(row, name) for name in (*plain, *more)},
            "version_id": row.id,
            "version": row.label,
            "chunks": row.chunk_count,
            "created_at": utc(row.created_at),
            "status": self._status(row),
        }


def _paragraphs(row: VersionRow) -> list[Paragraph]:
    blocks = unpack(row.text, row.blocks)
    return paragraphs(
        row.text,
        (
            Section(block.start, block.start + len(block.text), " > ".join(block.headings), block.page)
            for block in blocks
        ),
    )


def _metadata_changes(older: VersionRow, newer: VersionRow) -> list[FieldChange]:
    names = {"version": "label"} | {name: name for name in ("title", "owner", "source_url", "trust")}
    names |= {name: name for name in ("effective_from", "effective_until")}
    pairs = ((shown, getattr(older, name), getattr(newer, name)) for shown, name in names.items())
    return [FieldChange(field=shown, before=before, after=after) for shown, before, after in pairs if before != after]


def _group_changes(session: Session, document_id: str, older: int, newer: int) -> list[FieldChange]:
    """Who could read it at the older version and at the newer one, by what each publishing wrote down."""
    noted = session.scalars(
        select(AuditRow).where(AuditRow.action == GROUPS_CHANGED, AuditRow.subject == document_id).order_by(AuditRow.id)
    )
    first, last = sorted((older, newer))
    changes = [row.detail for row in noted if row.detail and first < row.detail["seq"] <= last]
    if not changes or changes[0]["before"] == changes[-1]["after"]:
        return []
    before, after = changes[0]["before"], changes[-1]["after"]
    if older > newer:
        before, after = after, before
    return [FieldChange(field="groups", before=before, after=after)]


def may_read(principal: Principal, groups: Sequence[str] | None) -> bool:
    """Whether the principal may read what these groups may read; `None` is for admins only."""
    return principal.admin or not principal.groups.isdisjoint(groups or ())
