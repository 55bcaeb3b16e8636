"""Studies and their epochs: the schema of databases without a version table."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Double, ForeignKey, Integer, String, Text

revision, down_revision = "0001", None


def upgrade() -> None:
    op.create_table(
        "tuner_studies",
        Column(
            "study_id",
            Integer,
            ForeignKey("studies.study_id", ondelete="CASCADE"),
            primary_key=True,
        ),
        Column("token", String(32), nullable=False),
        Column("spec", Text, nullable=False),
        Column("total", Integer, nullable=False),
        Column("tuner_version", String(32), nullable=False),
        Column("created_at", Double, nullable=False),
    )
    op.create_table(
        "tuner_epochs",
        Column(
            "trial_id", Integer, ForeignKey("trials.trial_id", ondelete="CASCADE"), primary_key=True
        ),
        Column("epoch", Integer, primary_key=True),
        Column("fid", Double),
        Column("d_loss", Double),
        Column("g_loss", Double),
        Column("loss_ratio", Double),
        Column("d_auc", Double),
        Column("variance_ratio", Double),
        Column("finite", Boolean, nullable=False),
        Column("steps", BigInteger, nullable=False),
        Column("images", BigInteger, nullable=False),
        Column("train_seconds", Double, nullable=False),
        Column("evaluate_seconds", Double, nullable=False),
        Column("reported_at", Double, nullable=False),
    )
