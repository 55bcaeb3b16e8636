"""Our tables in Optuna's database. Their rows are deleted with the Optuna rows they extend.

Times are seconds since 1970 by the database's clock, the one clock that all workers share. The
migrations create the tables; a test compares them with these definitions.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    exists,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeEngine

from tuner.epoch_report import FIELDS, ReportField
from tuner.phases import Phase, PhaseSeconds
from tuner.study.optuna_internals import models
from tuner.study.rows import storable

metadata = MetaData()  # of our tables alone

# Optuna's own tables, which ours reference.
optuna_studies: Table = models.StudyModel.__table__
optuna_trials: Table = models.TrialModel.__table__
study_attributes: Table = models.StudySystemAttributeModel.__table__
study_user_attributes: Table = models.StudyUserAttributeModel.__table__
trial_attributes: Table = models.TrialUserAttributeModel.__table__

TOKEN = "tuner:token"  # the attribute that marks an Optuna study as ours


def _belongs_to(column: Column[Any]) -> ForeignKey:
    return ForeignKey(column, ondelete="CASCADE")


studies = Table(
    "tuner_studies",
    metadata,
    Column("study_id", Integer, _belongs_to(optuna_studies.c.study_id), primary_key=True),
    Column("token", String(32), nullable=False),  # the same as in the study's attributes
    Column("spec", Text, nullable=False),  # StudySpec as JSON
    Column("total", Integer, nullable=False),  # trials requested so far
    Column("tuner_version", String(32), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("artifacts", Text),  # where the study's files are; no credentials
    Column("stop_at", Double),  # workers that joined earlier must leave
    Column("preparer", String(32)),  # the worker that prepares the shared files
    Column("preparer_until", Double),
    Column("fingerprint", Text),  # JSON: see the module fingerprint
    Column("ended_reason", Text),  # why the search ended before its total
    Column("patience_from", Double),  # trials that stopped earlier don't count for stop.patience
    Column("on_hold_since", Double),  # no trial is claimed while it is set
)

edits = Table(
    "tuner_edits",
    metadata,
    Column("study_id", Integer, _belongs_to(optuna_studies.c.study_id), primary_key=True),
    Column("number", Integer, primary_key=True),  # from 1
    Column("edited_at", Double, nullable=False),
    Column("editor", Text, nullable=False),  # USER@HOST
    Column("changes", Text, nullable=False),  # JSON: a list of [key, old value, new value]
    Column("spec", Text, nullable=False),  # the one before the edit
)


def _report_column(field: ReportField) -> Column[Any]:
    """The column of one field of an epoch report."""
    kinds: dict[type, type[TypeEngine[Any]]] = {int: BigInteger, float: Double, bool: Boolean}
    default = None if field.default is None else f"{field.default:g}"
    return Column(field.name, kinds[field.kind], nullable=field.nullable, server_default=default)


_report_columns = [_report_column(field) for field in FIELDS.values() if field.name != "epoch"]
_ORIGINAL = 11  # the number of them in the first schema; later ones follow at the end

epochs = Table(
    "tuner_epochs",
    metadata,
    Column("trial_id", Integer, _belongs_to(optuna_trials.c.trial_id), primary_key=True),
    Column("epoch", Integer, primary_key=True),  # from 1
    *_report_columns[:_ORIGINAL],
    Column("reported_at", Double, nullable=False),
    Column("worker", String(32)),  # the one that reported it
    Column("token", Integer),  # of that worker's lease
    *_report_columns[_ORIGINAL:],
    Column("own", Text),  # JSON: custom metrics by name
)

PHASE_COLUMNS = {phase: f"{phase}_seconds" for phase in Phase}

leases = Table(
    "tuner_leases",
    metadata,
    Column("trial_id", Integer, _belongs_to(optuna_trials.c.trial_id), primary_key=True),
    Column("study_id", Integer, _belongs_to(optuna_studies.c.study_id), nullable=False),
    Column("status", String(8), nullable=False),  # held, free (to be taken), paused, done
    Column("worker", String(32)),
    Column("token", Integer, nullable=False),  # grows with every owner, to fence off earlier ones
    Column("expires_at", Double, nullable=False),
    Column("epoch", Integer, nullable=False),  # the last one reported
    Column("takeovers", Integer, nullable=False),  # from lost workers, since that epoch
    Column("prune_reason", Text),  # of a user's request to prune at the next epoch
    # Of all workers that ran the trial; 0 before tuner counted them.
    *(Column(name, Double, nullable=False, server_default="0") for name in PHASE_COLUMNS.values()),
    Column("rung", Integer, nullable=False, server_default="0"),  # the last one passed
    Column("checkpoint_bytes", BigInteger),  # of a paused trial
    Column("confirms", Integer),  # number of the trial that it repeats with another seed, if any
    Column("confirm_seed", Integer),  # index of that seed
    Column("stopped_at", Double),  # when the trial ended, or was paused last
    Index("tuner_leases_by_study", "study_id", "status", "expires_at"),
)

workers = Table(
    "tuner_workers",
    metadata,
    Column("worker", String(32), primary_key=True),
    Column("study_id", Integer, _belongs_to(optuna_studies.c.study_id), nullable=False),
    Column("host", Text, nullable=False),
    Column("place", Text, nullable=False),  # the scope of its process id
    Column("pid", Integer, nullable=False),
    Column("pid_since", Text, nullable=False),  # differs in a later process with the same id
    Column("device", Text, nullable=False),
    Column("tuner_version", String(32), nullable=False),
    Column("joined_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("left_at", Double),
    Column("job", Text),  # the Slurm job that it runs in, if any
    Column("doing", Text),  # an activity that has lasted a while, such as compiling; else NULL
    Column("doing_since", Double),
    Index("tuner_workers_by_study", "study_id"),
)


def is_search() -> ColumnElement[bool]:
    """A condition on ``optuna_trials``: the trial belongs to the search, not to a confirmation."""
    lease, trial = leases.alias().c, optuna_trials.c.trial_id
    return ~exists().where(lease.trial_id == trial, lease.confirms.is_not(None))


class StudyKey(NamedTuple):
    """Identifies a study by id and token, because ids are reused: SQLite gives a deleted study's id
    to the next one, and other programs delete a study without our rows."""

    study_id: int
    token: str

    def lock(self, session: Session | Connection, *also: ColumnElement[Any]) -> Any:
        """Lock the study's row until the transaction ends: workers take turns, and the study can't
        be deleted. Returns its total and ``also``. KeyError if the study is gone."""
        # A write, since only a write locks others out on SQLite.
        locked = update(studies).where(self.row()).values(total=studies.c.total)
        row = session.execute(locked.returning(studies.c.total, *also)).one_or_none()
        if row is None:
            raise KeyError("the study")
        return row

    def row(self) -> ColumnElement[bool]:
        """A condition on ``tuner_studies``: this study's row, while the study exists."""
        return (studies.c.study_id == self.study_id) & self.exists()

    def exists(self) -> ColumnElement[bool]:
        """A condition for every statement that uses the id: the study still exists."""
        # Aliases, since the statement itself may use these tables.
        ours, theirs = studies.alias().c, study_user_attributes.alias().c
        token = json.dumps(self.token)
        return exists().where(
            ours.study_id == self.study_id, ours.token == self.token
        ) & exists().where(
            theirs.study_id == self.study_id, theirs.key == TOKEN, theirs.value_json == token
        )


def phase_values(seconds: PhaseSeconds) -> dict[str, float]:
    """The values of ``PHASE_COLUMNS`` for these seconds."""
    return {PHASE_COLUMNS[phase]: value for phase, value in seconds.items()}


def insert_into(connection: Session | Connection, table: Table) -> Any:
    """An INSERT that supports ON CONFLICT, for which SQLAlchemy has one class per database."""
    bind = connection.get_bind() if isinstance(connection, Session) else connection
    return (postgresql if bind.dialect.name == "postgresql" else sqlite).insert(table)


def write_attributes(
    connection: Session | Connection, owners: Column[int], owner: int, attributes: Mapping[str, Any]
) -> None:
    """Insert or update attributes without reading the study or trial that they belong to.

    ``owner`` is an id in the column ``owners`` of an attribute table. Nothing is deleted, because
    workers may lack the right to delete.
    """
    new = insert_into(connection, owners.table)
    values = [
        {owners.name: owner, "key": key, "value_json": json.dumps(storable(value))}
        for key, value in attributes.items()
    ]
    over = {"value_json": new.excluded.value_json}
    keys = [owners.name, "key"]
    connection.execute(new.on_conflict_do_update(index_elements=keys, set_=over), values)


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
