"""More metrics and timings per epoch, and the study's fingerprint."""

from alembic import op
from sqlalchemy import Column, Double, Text

revision, down_revision = "0003", "0002"

NUMBERS = (
    *("kid", "fid_infinity", "precision", "recall", "density", "coverage"),
    *("class_coverage", "class_entropy"),
)
SECONDS = ("generate_seconds", "extract_seconds", "score_seconds")
# Version 1 of the metrics stored only these parts, as attributes of the Optuna study.
COPY_KNOWN_PARTS = """
UPDATE tuner_studies SET fingerprint = (
    SELECT '{"data": ' || data.value_json || ', "weights": ' || weights.value_json
        || ', "version": "1"}'
    FROM study_user_attributes AS data
    JOIN study_user_attributes AS weights ON weights.study_id = data.study_id
    WHERE data.study_id = tuner_studies.study_id
    AND data.key = 'tuner:data' AND weights.key = 'tuner:extractor'
)
"""


def upgrade() -> None:
    op.add_column("tuner_studies", Column("fingerprint", Text))
    op.execute(COPY_KNOWN_PARTS)
    for name in NUMBERS:
        op.add_column("tuner_epochs", Column(name, Double))
    for name in SECONDS:
        op.add_column("tuner_epochs", Column(name, Double, nullable=False, server_default="0"))
