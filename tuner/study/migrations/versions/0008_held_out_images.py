"""Metrics against held-out images, and copies of training images."""

from alembic import op
from sqlalchemy import Column, Double

revision, down_revision = "0008", "0007"

METRICS = (
    *("fid", "kid", "fid_infinity", "precision", "recall", "density", "coverage"),
    "variance_ratio",
)


def upgrade() -> None:
    for name in METRICS:
        op.add_column("tuner_epochs", Column(f"heldout_{name}", Double))
        op.add_column("tuner_epochs", Column(f"{name}_gap", Double))
    op.add_column("tuner_epochs", Column("copied", Double))
