"""Paused trials, passed rungs, confirmations, and searches that end early."""

from alembic import op
from sqlalchemy import BigInteger, Column, Double, Integer, Text

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    rung = Column("rung", Integer, nullable=False, server_default="0")
    op.add_column("tuner_leases", rung)
    op.add_column("tuner_leases", Column("checkpoint_bytes", BigInteger))
    op.add_column("tuner_leases", Column("confirms", Integer))
    op.add_column("tuner_leases", Column("confirm_seed", Integer))
    op.add_column("tuner_leases", Column("stopped_at", Double))
    op.add_column("tuner_studies", Column("ended_reason", Text))
    op.add_column("tuner_studies", Column("patience_from", Double))
