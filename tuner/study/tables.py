"""Our tables, in Optuna's database, their rows removed with the rows of Optuna's they extend."""

from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    Engine,
    ForeignKey,
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
_optuna_studies = Table("studies", metadata, Column("study_id", Integer, primary_key=True))
optuna_trials = Table(
    "trials",
    metadata,
    Column("trial_id", Integer, primary_key=True),
    Column("study_id", Integer),
)


def _belongs_to(column: Column[Any]) -> ForeignKey:
    return ForeignKey(column, ondelete="CASCADE")


studies = Table(
    "tuner_studies",
    metadata,
    Column("study_id", Integer, _belongs_to(_optuna_studies.c.study_id), primary_key=True),
    Column("token", String(32), nullable=False),  # the same as in the study's attributes
    Column("spec", Text, nullable=False),  # StudySpec as JSON
    Column("total", Integer, nullable=False),  # trials asked for so far
    Column("tuner_version", String(32), nullable=False),
    Column("created_at", Double, nullable=False),  # seconds since 1970, the database's clock
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
    Column("steps", Integer, nullable=False),
    Column("images", Integer, nullable=False),
    Column("train_seconds", Double, nullable=False),
    Column("evaluate_seconds", Double, nullable=False),
    Column("reported_at", Double, nullable=False),  # seconds since 1970, the database's clock
)


class db_now(FunctionElement[float]):  # noqa: N801 - reads as SQL's own functions do
    """The database's clock, in seconds since 1970. (``func.now()`` stands still within a
    transaction on Postgres and has a resolution of one second on SQLite.)"""

    type = Double()
    inherit_cache = True


@compiles(db_now, "sqlite")
def _sqlite_now(element: Any, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _postgres_now(element: Any, compiler: Any, **options: Any) -> str:
    return "extract(epoch from clock_timestamp())::float8"


def create_tables(engine: Engine) -> None:
    metadata.create_all(engine, tables=[studies, epochs])
