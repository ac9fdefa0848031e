"""The first schema: study, rater, question with its answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """Create the three tables of an empty database."""
    op.create_table("study", sa.Column("id", sa.String(32), primary_key=True))
    op.create_table(
        "rater",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("admitted_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
        sa.CheckConstraint(
            "origin IN ('link', 'open', 'simulated', 'import')", name="known_origin"
        ),
    )
    op.create_table(
        "question",
        sa.Column("rater_id", sa.String(64), sa.ForeignKey("rater.id"), primary_key=True),
        sa.Column("pair_id", sa.String(32), primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("slot", sa.Integer),
        sa.Column("is_check", sa.Boolean, nullable=False),
        sa.Column("choice", sa.String(16)),
        sa.Column("seconds", sa.Float),
        sa.Column("answered_at", sa.BigInteger),
        sa.UniqueConstraint("rater_id", "position", name="one_question_a_place"),
        sa.UniqueConstraint("pair_id", "slot", name="one_rater_a_slot"),
        sa.CheckConstraint("choice IN ('left', 'right', 'undecided')", name="known_choice"),
        sa.CheckConstraint("(choice IS NULL) = (answered_at IS NULL)", name="answer_is_whole"),
        sa.CheckConstraint("slot IS NULL OR NOT is_check", name="checks_have_no_slot"),
    )
