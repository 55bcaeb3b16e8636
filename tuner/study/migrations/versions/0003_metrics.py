"""More numbers per epoch, and what a study's numbers depend on."""

from alembic import op
from sqlalchemy import Column, Double, Text

revision, down_revision = "0003", "0002"

NUMBERS = (
    *("kid", "fid_infinity", "precision", "recall", "density", "coverage"),
    *("class_coverage", "class_entropy"),
)
SECONDS = ("generate_seconds", "extract_seconds", "score_seconds")


def upgrade() -> None:
    op.add_column("tuner_studies", Column("fingerprint", Text))
    for name in NUMBERS:
        op.add_column("tuner_epochs", Column(name, Double))
    for name in SECONDS:
        op.add_column("tuner_epochs", Column(name, Double, nullable=False, server_default="0"))
