"""The schedule of training, the logs of its runs, and who decided on a style candidate.

Revision 0003.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_COLUMNS: tuple[tuple[str, sa.Column[Any]], ...] = (
    ("training_runs", sa.Column("name", sa.Text(), nullable=False, server_default="")),
    ("training_runs", sa.Column("user", sa.Text(), nullable=False, server_default="")),
    ("training_runs", sa.Column("due_at", _MOMENT, nullable=True)),
    ("training_runs", sa.Column("resumes", sa.Boolean(), nullable=False, server_default=sa.false())),
    ("training_runs", sa.Column("attempt", sa.Integer(), nullable=False, server_default="0")),
    ("style_candidates", sa.Column("user", sa.Text(), nullable=False, server_default="")),
    ("style_candidates", sa.Column("comment", sa.Text(), nullable=False, server_default="")),
    ("style_candidates", sa.Column("decided_by", sa.Text(), nullable=True)),
    ("style_candidates", sa.Column("decided_at", _MOMENT, nullable=True)),
)


def upgrade() -> None:
    op.create_table(
        "training_schedule",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("expression", sa.Text(), nullable=False),
        sa.Column("zone", sa.Text(), nullable=False),
        sa.Column("answered", _MOMENT, nullable=False),
        sa.Column("looked_at", _MOMENT, nullable=True),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "training_events",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["training_runs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_training_events_run_id"), "training_events", ["run_id"])
    for table, column in _COLUMNS:
        op.add_column(table, column)


def downgrade() -> None:
    for table, column in reversed(_COLUMNS):
        op.drop_column(table, column.name)
    op.drop_index(op.f("ix_training_events_run_id"), "training_events")
    op.drop_table("training_events")
    op.drop_table("training_schedule")
