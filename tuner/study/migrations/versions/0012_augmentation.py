"""The probability of adaptive augmentation."""

from alembic import op
from sqlalchemy import Column, Double

revision, down_revision = "0012", "0011"


def upgrade() -> None:
    op.add_column("tuner_epochs", Column("augmentation", Double))
