"""What each worker is doing."""

from alembic import op
from sqlalchemy import Column, Double, Text

revision, down_revision = "0009", "0008"


def upgrade() -> None:
    op.add_column("tuner_workers", Column("doing", Text))
    op.add_column("tuner_workers", Column("doing_since", Double))
