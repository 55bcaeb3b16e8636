"""Custom metrics, by epoch."""

from alembic import op
from sqlalchemy import Column, Text

revision, down_revision = "0010", "0009"


def upgrade() -> None:
    op.add_column("tuner_epochs", Column("own", Text))
