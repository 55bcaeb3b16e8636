"""Leases and workers: studies that many workers share."""

from alembic import op
from sqlalchemy import Column, Double, ForeignKey, Index, Integer, String, Text

revision, down_revision = "0002", "0001"

# Trials that a dead process left running are free to be taken, with their reported epochs.
FREE_THE_RUNNING = """
INSERT INTO tuner_leases (trial_id, study_id, status, token, expires_at, epoch, takeovers)
SELECT trials.trial_id, trials.study_id, 'free', 0, 0,
       (SELECT count(*) FROM tuner_epochs WHERE tuner_epochs.trial_id = trials.trial_id), 0
FROM trials JOIN tuner_studies ON tuner_studies.study_id = trials.study_id
WHERE trials.state = 'RUNNING'
"""


def upgrade() -> None:
    for column in (
        Column("artifacts", Text),
        Column("stop_at", Double),
        Column("preparer", String(32)),
        Column("preparer_until", Double),
    ):
        op.add_column("tuner_studies", column)
    op.add_column("tuner_epochs", Column("worker", String(32)))
    op.add_column("tuner_epochs", Column("token", Integer))
    op.create_table(
        "tuner_leases",
        Column(
            "trial_id", Integer, ForeignKey("trials.trial_id", ondelete="CASCADE"), primary_key=True
        ),
        Column(
            "study_id", Integer, ForeignKey("studies.study_id", ondelete="CASCADE"), nullable=False
        ),
        Column("status", String(8), nullable=False),
        Column("worker", String(32)),
        Column("token", Integer, nullable=False),
        Column("expires_at", Double, nullable=False),
        Column("epoch", Integer, nullable=False),
        Column("takeovers", Integer, nullable=False),
        Column("prune_reason", Text),
        Index("tuner_leases_by_study", "study_id", "status", "expires_at"),
    )
    op.create_table(
        "tuner_workers",
        Column("worker", String(32), primary_key=True),
        Column(
            "study_id", Integer, ForeignKey("studies.study_id", ondelete="CASCADE"), nullable=False
        ),
        Column("host", Text, nullable=False),
        Column("place", Text, nullable=False),
        Column("pid", Integer, nullable=False),
        Column("pid_since", Text, nullable=False),
        Column("device", Text, nullable=False),
        Column("tuner_version", String(32), nullable=False),
        Column("joined_at", Double, nullable=False),
        Column("seen_at", Double, nullable=False),
        Column("left_at", Double),
        Index("tuner_workers_by_study", "study_id"),
    )
    op.execute(FREE_THE_RUNNING)
