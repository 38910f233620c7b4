"""Generations of the index, and the blocks of each version, so that it can be split anew without its file.

Revision 0002.
"""

import hashlib
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    generations = op.create_table(
        "generations",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("model_id", sa.String(length=128), nullable=False),
        sa.Column("splitter", sa.String(length=64), nullable=False),
        sa.Column("collection", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    id = _adopt_first(generations)
    # No batch here: it would drop the table on SQLite, and the chunks with it.
    op.execute("ALTER TABLE versions RENAME COLUMN splitter TO reader")
    op.add_column("versions", sa.Column("blocks", sa.JSON(), nullable=True))
    op.add_column("chunks", sa.Column("generation_id", sa.String(length=16), nullable=True))
    op.execute(sa.text("UPDATE chunks SET generation_id = :id").bindparams(id=id))
    with op.batch_alter_table("chunks") as chunks:
        chunks.alter_column("generation_id", existing_type=sa.String(length=16), nullable=False)
        chunks.create_foreign_key(
            "fk_chunks_generation_id", "generations", ["generation_id"], ["id"], ondelete="CASCADE"
        )
        chunks.create_index(op.f("ix_chunks_generation_id"), ["generation_id"], unique=False)


def _adopt_first(generations: sa.Table) -> str | None:
    """Makes what was ingested before there were generations the live one. Its collection is the alias's number 1."""
    bind = op.get_bind()
    row = bind.execute(sa.text("SELECT splitter FROM versions ORDER BY created_at DESC LIMIT 1")).scalar()
    if row is None:
        return None
    # READER.SPLITTER.TARGET.MAX.MODEL, as revision 0001 wrote it.
    _, version, target, most, model_id = str(row).split(".", 4)
    splitter = f"{version}.{target}.{most}"
    id = hashlib.sha256(f"{model_id}\x00{splitter}".encode()).hexdigest()[:16]
    fields = {"id": id, "state": "live", "model_id": model_id, "splitter": splitter, "collection": "1"}
    bind.execute(generations.insert().values(**fields, created_at=datetime.now(UTC)))
    return id


def downgrade() -> None:
    with op.batch_alter_table("chunks") as chunks:
        chunks.drop_index(op.f("ix_chunks_generation_id"))
        chunks.drop_constraint("fk_chunks_generation_id", type_="foreignkey")
        chunks.drop_column("generation_id")
    op.execute("ALTER TABLE versions DROP COLUMN blocks")
    op.execute("ALTER TABLE versions RENAME COLUMN reader TO splitter")
    op.drop_table("generations")
