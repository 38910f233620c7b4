"""The state database's tables (SQLAlchemy 2, typed). Migrations live in `tandem/migrations`."""

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import JSON, Date, DateTime, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# The action of the audit log's rows that say who could read a document before and after a version: its
# `detail` is `{seq, before, after}`. Past versions carry the groups of today.
GROUPS_CHANGED = "groups"


def utc(moment: datetime) -> datetime:
    """A stored moment with its zone, which SQLite forgets: all moments are written in UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Table(DeclarativeBase):
    """Base of all tables."""


class GenerationRow(Table):
    """A generation of the index: an embedding model and a way of splitting, with a collection of its own.

    `state`: `live` (the one that answers; at most one) or `building` (its points are being written beside it).
    """

    __tablename__ = "generations"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    model_id: Mapped[str] = mapped_column(String(128))
    splitter: Mapped[str] = mapped_column(String(64))
    collection: Mapped[str] = mapped_column(String(64))  # follows the alias in the collection's name
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class DocumentRow(Table):
    """A document, by its path relative to the ingested root (or the name it was uploaded under)."""

    __tablename__ = "documents"
    id: Mapped[str] = mapped_column(String(1024), primary_key=True)
    root: Mapped[str] = mapped_column(String(2048), default="")  # absolute folder; empty for uploads
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class VersionRow(Table):
    """One version of a document. The row decides whether it is live and who may read it, not the index.

    `state`: `staged` (points being written, invisible), `published` (committed), `retired` (never live again).
    `indexed`: the index already shows what this row says; a search must name the versions where it does not.
    `source_hash`: SHA-256 of the file's bytes, so that an untouched file need not even be parsed.
    `reader`: version of the readers that last read it.
    `blocks`: where its blocks lie in `text`, packed, so that it can be split anew without its file.
    `chunk_count`: chunks in the live generation.
    `live_from`/`live_until`: days on which it is in force, half-open; NULL means without bound.
    """

    __tablename__ = "versions"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    document_id: Mapped[str] = mapped_column(ForeignKey("documents.id", ondelete="CASCADE"))
    seq: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    indexed: Mapped[bool] = mapped_column(default=False)
    title: Mapped[str] = mapped_column(Text, default="")
    owner: Mapped[str] = mapped_column(Text, default="")
    label: Mapped[str] = mapped_column(Text, default="")
    groups: Mapped[list[str] | None] = mapped_column(JSON)
    source_url: Mapped[str] = mapped_column(Text, default="")
    trust: Mapped[str] = mapped_column(Text, default="")
    effective_from: Mapped[date | None] = mapped_column(Date)
    effective_until: Mapped[date | None] = mapped_column(Date)
    live_from: Mapped[date | None] = mapped_column(Date)
    live_until: Mapped[date | None] = mapped_column(Date)
    source_hash: Mapped[str] = mapped_column(String(64), default="")
    content_hash: Mapped[str] = mapped_column(String(64))
    metadata_hash: Mapped[str] = mapped_column(String(64))
    reader: Mapped[str] = mapped_column(String(64))
    text: Mapped[str] = mapped_column(Text)
    blocks: Mapped[dict[str, Any] | None] = mapped_column(JSON, deferred=True)
    chunk_count: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    __table_args__ = (
        Index("ix_versions_document", "document_id", "seq", unique=True),
        Index("ix_versions_unsettled", "indexed", "state"),
    )


class ChunkRow(Table):
    """A chunk of a version in one generation. `id` is also the id of its point in Qdrant."""

    __tablename__ = "chunks"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    generation_id: Mapped[str] = mapped_column(ForeignKey("generations.id", ondelete="CASCADE"), index=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("versions.id", ondelete="CASCADE"), index=True)
    ordinal: Mapped[int]
    key: Mapped[str] = mapped_column(String(64), index=True)
    text: Mapped[str] = mapped_column(Text)
    heading: Mapped[str] = mapped_column(Text, default="")
    page: Mapped[int | None]
    start: Mapped[int] = mapped_column(default=0)
    end: Mapped[int] = mapped_column(default=0)


class EmbeddingRow(Table):
    """The embedding of a text never to be computed twice. `vector` is float32, little-endian."""

    __tablename__ = "embeddings"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    vector: Mapped[bytes] = mapped_column(LargeBinary)


class IngestRunRow(Table):
    __tablename__ = "ingest_runs"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))  # running, done, failed
    paths: Mapped[list[str]] = mapped_column(JSON)
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class AnswerRow(Table):
    """The receipt of an answer: everything needed to look at it again or to replay it."""

    __tablename__ = "answers"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    user: Mapped[str] = mapped_column(Text)
    question: Mapped[str] = mapped_column(Text)
    arm: Mapped[str] = mapped_column(String(16))
    adapter: Mapped[str | None] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    receipt: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), index=True)


class FeedbackRow(Table):
    __tablename__ = "feedback"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    answer_id: Mapped[str] = mapped_column(ForeignKey("answers.id", ondelete="CASCADE"), index=True)
    user: Mapped[str] = mapped_column(Text)
    rating: Mapped[str] = mapped_column(String(8))  # up, down
    about: Mapped[str] = mapped_column(String(16), default="")  # facts, tone, or empty
    comment: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class StyleCandidateRow(Table):
    """A style example that feedback suggests; trained on only after a person approved it.

    `user`, `comment`: who gave the feedback, and what they wrote to it.
    `document_ids`: the documents that its sources quote; it goes when one of them is deleted.
    `decided_by`: who approved or refused it.
    """

    __tablename__ = "style_candidates"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    answer_id: Mapped[str | None] = mapped_column(ForeignKey("answers.id", ondelete="SET NULL"))
    document_ids: Mapped[list[str]] = mapped_column(JSON)
    example: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16), default="open")  # open, approved, refused
    user: Mapped[str] = mapped_column(Text, default="")
    comment: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    decided_by: Mapped[str | None] = mapped_column(Text)
    decided_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class TrainingRunRow(Table):
    """A training run, from the moment that it is wanted.

    `state`: `waiting` (for the trainer service), `running`, `interrupted` (its process was ended), `done` (a verdict of
    the gate was reached, whatever it is), `failed`.
    `name`: of the adapter that it trains. `adapter`: the version that came of it.
    `due_at`: the time of the schedule that it answers.
    `resumes`: the trainer service goes on with it when it was interrupted.
    `attempt`: how often it was started. A process may only write to the attempt that it was started for.
    """

    __tablename__ = "training_runs"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    cause: Mapped[str] = mapped_column(String(16))  # manual, schedule
    name: Mapped[str] = mapped_column(Text, default="")
    user: Mapped[str] = mapped_column(Text, default="")
    adapter: Mapped[str | None] = mapped_column(Text)
    detail: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    due_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    resumes: Mapped[bool] = mapped_column(default=False)
    attempt: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class TrainingEventRow(Table):
    """A line of a training run's log."""

    __tablename__ = "training_events"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("training_runs.id", ondelete="CASCADE"), index=True)
    stage: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class TrainingScheduleRow(Table):
    """Where the schedule of training stands; one row.

    `answered`: the last of its times that a decision was made on, or when it came into force. A trainer moves it on in
    the same commit that makes the run, so that no time is answered twice, whoever looks at the clock.
    `looked_at`: when a trainer last looked. `note`: what it decided.
    """

    __tablename__ = "training_schedule"
    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    expression: Mapped[str] = mapped_column(Text)
    zone: Mapped[str] = mapped_column(Text)
    answered: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    looked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    note: Mapped[str] = mapped_column(Text, default="")


class AuditRow(Table):
    """Who did what to what: ingests, deletions, promotions."""

    __tablename__ = "audit_log"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    user: Mapped[str] = mapped_column(Text)
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(Text)
    detail: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
