"""Trials that are paused at a rung, the last rung that a trial has passed, and confirmations."""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    rung = Column("rung", Integer, nullable=False, server_default="0")
    op.add_column("tuner_leases", rung)
    op.add_column("tuner_leases", Column("checkpoint_bytes", BigInteger))
    op.add_column("tuner_leases", Column("confirms", Integer))
    op.add_column("tuner_leases", Column("confirm_seed", Integer))
