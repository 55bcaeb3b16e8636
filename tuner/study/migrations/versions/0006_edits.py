"""Edits of study files, and studies that are on hold."""

from alembic import op
from sqlalchemy import Column, Double, ForeignKey, Integer, Text

revision, down_revision = "0006", "0005"


def upgrade() -> None:
    op.add_column("tuner_studies", Column("on_hold_since", Double))
    op.create_table(
        "tuner_edits",
        Column(
            "study_id",
            Integer,
            ForeignKey("studies.study_id", ondelete="CASCADE"),
            primary_key=True,
        ),
        Column("number", Integer, primary_key=True),
        Column("edited_at", Double, nullable=False),
        Column("editor", Text, nullable=False),
        Column("changes", Text, nullable=False),
        Column("spec", Text, nullable=False),
    )
