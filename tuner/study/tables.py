"""Our tables, in Optuna's database, their rows removed with the rows of Optuna's they extend.

Times are seconds since 1970 by the database's clock, the one clock that all workers share. The
tables are made by the migrations beside this file, which a test holds against these definitions.
"""

from typing import Any

from optuna.trial import TrialState
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

metadata = MetaData()

# Optuna's own tables, named here so that ours can point to them; never created from here.
optuna_studies = Table("studies", metadata, Column("study_id", Integer, primary_key=True))
optuna_trials = Table(
    "trials",
    metadata,
    Column("trial_id", Integer, primary_key=True),
    Column("study_id", Integer),
    Column("number", Integer),
    Column("state", Enum(TrialState)),
)
study_attributes = Table(
    "study_system_attributes",
    metadata,
    Column("study_system_attribute_id", Integer, primary_key=True),
    Column("study_id", Integer),
    Column("key", String(512)),
    Column("value_json", Text),
)
OPTUNA_TABLES = (optuna_studies, optuna_trials, study_attributes)


def _belongs_to(column: Column[Any]) -> ForeignKey:
    return ForeignKey(column, ondelete="CASCADE")


studies = Table(
    "tuner_studies",
    metadata,
    Column("study_id", Integer, _belongs_to(optuna_studies.c.study_id), primary_key=True),
    Column("token", String(32), nullable=False),  # the same as in the study's attributes
    Column("spec", Text, nullable=False),  # StudySpec as JSON
    Column("total", Integer, nullable=False),  # trials asked for so far
    Column("tuner_version", String(32), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("artifacts", Text),  # where the study's files are; no credentials
    Column("stop_at", Double),  # workers that joined before are to leave
    Column("preparer", String(32)),  # the worker that makes what all share: see Membership
    Column("preparer_until", Double),
    Column("fingerprint", Text),  # what its numbers depend on, as JSON
)

epochs = Table(
    "tuner_epochs",
    metadata,
    Column("trial_id", Integer, _belongs_to(optuna_trials.c.trial_id), primary_key=True),
    Column("epoch", Integer, primary_key=True),  # from 1
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
    Column("worker", String(32)),  # who reported it
    Column("token", Integer),  # under which lease
    Column("kid", Double),
    Column("fid_infinity", Double),
    Column("precision", Double),
    Column("recall", Double),
    Column("density", Double),
    Column("coverage", Double),
    Column("class_coverage", Double),
    Column("class_entropy", Double),
    Column("generate_seconds", Double, nullable=False, server_default="0"),
    Column("extract_seconds", Double, nullable=False, server_default="0"),
    Column("score_seconds", Double, nullable=False, server_default="0"),
)

leases = Table(
    "tuner_leases",
    metadata,
    Column("trial_id", Integer, _belongs_to(optuna_trials.c.trial_id), primary_key=True),
    Column("study_id", Integer, _belongs_to(optuna_studies.c.study_id), nullable=False),
    Column("status", String(8), nullable=False),  # held, free (to be taken), done
    Column("worker", String(32)),
    Column("token", Integer, nullable=False),  # grows with every owner: an old one fences nothing
    Column("expires_at", Double, nullable=False),
    Column("epoch", Integer, nullable=False),  # the last one reported
    Column("takeovers", Integer, nullable=False),  # since that epoch, from workers that were gone
    Column("prune_reason", Text),  # a person's wish, honoured at the next epoch
    Index("tuner_leases_by_study", "study_id", "status", "expires_at"),
)

workers = Table(
    "tuner_workers",
    metadata,
    Column("worker", String(32), primary_key=True),
    Column("study_id", Integer, _belongs_to(optuna_studies.c.study_id), nullable=False),
    Column("host", Text, nullable=False),
    Column("place", Text, nullable=False),  # where its process id means something
    Column("pid", Integer, nullable=False),
    Column("pid_since", Text, nullable=False),  # tells a process from a later one of its id
    Column("device", Text, nullable=False),
    Column("tuner_version", String(32), nullable=False),
    Column("joined_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("left_at", Double),
    Index("tuner_workers_by_study", "study_id"),
)


def db_now() -> FunctionElement[float]:
    """The database's clock, in seconds since 1970. (``func.now()`` stands still within a
    transaction on Postgres and has a resolution of one second on SQLite.)"""
    return _Now()


class _Now(FunctionElement[float]):
    type = Double()
    inherit_cache = True


@compiles(_Now, "sqlite")
def _sqlite_now(element: Any, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(_Now, "postgresql")
def _postgres_now(element: Any, compiler: Any, **options: Any) -> str:
    return "extract(epoch from clock_timestamp())::float8"
