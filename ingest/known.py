"""What the database knows of the documents: what a run compares the folder with."""

from collections.abc import Collection

from sqlalchemy import select

from ingest.diff import Known
from tandem.database import Database
from tandem.tables import DocumentRow, VersionRow


def known_documents(database: Database, document_ids: Collection[str] | None = None) -> dict[str, Known]:
    """The latest published version of every document, or of some (at most a few hundred), by id."""
    statement = (
        select(
            VersionRow.document_id,
            VersionRow.id,
            DocumentRow.root,
            VersionRow.source_hash,
            VersionRow.content_hash,
            VersionRow.metadata_hash,
            VersionRow.reader,
            VersionRow.chunk_count,
            VersionRow.live_from,
            VersionRow.seq,
        )
        .join(DocumentRow, VersionRow.document_id == DocumentRow.id)
        .where(VersionRow.state == "published")
        .order_by(VersionRow.document_id, VersionRow.seq)
    )
    if document_ids is not None:
        statement = statement.where(VersionRow.document_id.in_(document_ids))
    with database.session() as session:
        # Of the versions of a document the last one stays.
        return {row[0]: Known(*tuple(row)[1:]) for row in session.execute(statement)}
