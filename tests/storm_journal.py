"""A journal of all writes to trials, kept by triggers in the database.

Each row is written in the transaction that it describes. A worker that writes to a trial locks the
row of the trial's lease until the transaction ends (SQLite allows one writer only), so the ids of a
trial's rows are in the order of the commits.
"""

from typing import NamedTuple

import sqlalchemy
from sqlalchemy import text

_TABLE = """
CREATE TABLE storm_journal (
    id {serial}, at {double} NOT NULL, what TEXT NOT NULL, trial_id INTEGER NOT NULL,
    worker TEXT, token INTEGER, detail TEXT,
    old_status TEXT, old_worker TEXT, old_expires_at {double}
)
"""
_COLUMNS = "at, what, trial_id, worker, token, detail, old_status, old_worker, old_expires_at"

# Table, event, condition, and the values of the columns from ``what`` on.
_LEASE = "NEW.trial_id, NEW.worker, NEW.token, NEW.status"
_TRIGGERS = [
    ("tuner_leases", "INSERT", "", f"'lease', {_LEASE}, NULL, NULL, NULL"),
    (
        "tuner_leases",
        "UPDATE",
        "NEW.token <> OLD.token OR NEW.status <> OLD.status"
        " OR coalesce(NEW.worker, '') <> coalesce(OLD.worker, '')",
        f"'lease', {_LEASE}, OLD.status, OLD.worker, OLD.expires_at",
    ),
    (
        "tuner_epochs",
        "INSERT",
        "",
        "'epoch', NEW.trial_id, NEW.worker, NEW.token, CAST(NEW.epoch AS TEXT), NULL, NULL, NULL",
    ),
    (
        "trials",
        "UPDATE",
        "NEW.state <> OLD.state",
        "'state', NEW.trial_id, NULL, NULL, CAST(NEW.state AS TEXT), NULL, NULL, NULL",
    ),
    *(
        (table, event, "", f"'{what}', NEW.trial_id, NULL, NULL, {detail}, NULL, NULL, NULL")
        for table, what, detail in (
            ("trial_intermediate_values", "value", "CAST(NEW.step AS TEXT)"),
            ("trial_params", "param", "NEW.param_name"),
            ("trial_user_attributes", "attribute", "NEW.key"),
            ("trial_system_attributes", "attribute", "NEW.key"),
        )
        for event in ("INSERT", "UPDATE")
    ),
]
_DIALECTS = {
    "sqlite": {
        "serial": "INTEGER PRIMARY KEY AUTOINCREMENT",
        "double": "REAL",
        "now": "((julianday('now') - 2440587.5) * 86400.0)",
    },
    "postgresql": {
        "serial": "BIGSERIAL PRIMARY KEY",
        "double": "DOUBLE PRECISION",
        "now": "extract(epoch from clock_timestamp())::float8",
    },
}


class Note(NamedTuple):
    """A row of the journal."""

    id: int
    at: float  # by the database's clock
    what: str  # lease, epoch, state, value, param, attribute
    trial_id: int
    worker: str | None
    token: int | None
    detail: str | None  # the lease's status, the epoch, the state, the step, the name
    old_status: str | None
    old_worker: str | None
    old_expires_at: float | None

    def __str__(self) -> str:
        by = f" by {self.worker} under token {self.token}" if self.token is not None else ""
        return f"note {self.id}, {self.what} {self.detail}{by} at {self.at:.3f}"


def keep_journal(engine: sqlalchemy.Engine) -> None:
    """Create the journal and its triggers; to be called before any worker joins."""
    types = _DIALECTS[engine.dialect.name]
    with engine.begin() as connection:
        connection.execute(text(_TABLE.format(**types)))
        for number, trigger in enumerate(_TRIGGERS):
            for statement in _trigger(
                engine.dialect.name, f"storm_{number}", types["now"], *trigger
            ):
                connection.exec_driver_sql(statement)


def _trigger(
    dialect: str, name: str, now: str, table: str, event: str, condition: str, values: str
) -> list[str]:
    insert = f"INSERT INTO storm_journal ({_COLUMNS}) VALUES ({now}, {values});"
    head = f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW"
    when = f" WHEN ({condition})" if condition else ""
    if dialect == "sqlite":
        return [f"{head}{when} BEGIN {insert} END"]
    return [
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN {insert} RETURN NULL; END $$",
        f"{head}{when} EXECUTE FUNCTION {name}()",
    ]


def read_journal(connection: sqlalchemy.Connection) -> list[Note]:
    query = f"SELECT id, {_COLUMNS} FROM storm_journal ORDER BY id"
    return [Note(*row) for row in connection.execute(text(query))]
