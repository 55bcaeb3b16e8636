"""The seconds that a trial's workers spent in each phase."""

from alembic import op
from sqlalchemy import Column, Double

revision, down_revision = "0004", "0003"

PHASES = ("training", "evaluation", "compilation", "database", "files", "waiting", "other")


def upgrade() -> None:
    for phase in PHASES:
        column = Column(f"{phase}_seconds", Double, nullable=False, server_default="0")
        op.add_column("tuner_leases", column)
