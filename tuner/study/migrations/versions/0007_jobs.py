"""The cluster jobs that workers run in."""

from alembic import op
from sqlalchemy import Column, Text

revision, down_revision = "0007", "0006"


def upgrade() -> None:
    op.add_column("tuner_workers", Column("job", Text))
