"""CMMD."""

from alembic import op
from sqlalchemy import Column, Double

revision, down_revision = "0011", "0010"


def upgrade() -> None:
    for name in ("cmmd", "heldout_cmmd", "cmmd_gap"):
        op.add_column("tuner_epochs", Column(name, Double))
