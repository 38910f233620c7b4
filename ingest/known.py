"""What the database knows of the documents: what a run compares the folder with."""

from sqlalchemy import select

from ingest.diff import Known
from tandem.database import Database
from tandem.tables import DocumentRow, VersionRow


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
