"""Connections to a database: how they are set up, and what their failures mean."""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from sqlalchemy import Connection, Engine, text

from tuner.errors import LeaseLostError, StorageError
from tuner.study.urls import masked, parse_url, shown

# Seconds. A worker that is stopped in the middle of a transaction must not hold up the others,
# and a connection that was cut must be noticed while its trial's lease still runs.
POSTGRES_LIMITS = {
    "lock_timeout": "30s",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "5s",
}
POSTGRES_ARGUMENTS = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,  # milliseconds
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "application_name": "tuner",
    "prepare_threshold": None,  # PgBouncer may hand each transaction another connection
}

LOCK = 7_482_517  # an arbitrary number that means tuner among a server's advisory locks

# What SQLite may recover from by itself; all else that it says stays true.
SQLITE_PASSES = ("database is locked", "database table is locked", "database schema has changed")


class Address:
    """Where a database is: connects to it, and puts its failures into words."""

    def __init__(self, url: str) -> None:
        """InputError for a URL that is none of ours."""
        self.url = parse_url(url)
        self.place = shown(self.url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"

    @property
    def shareable_url(self) -> str:
        """A URL for other tools of Optuna's, without the password, which libpq finds by itself."""
        if self.is_sqlite:
            return self.url.render_as_string()
        return self.place.replace("postgresql", "postgresql+psycopg", 1)

    @property
    def file(self) -> Path:
        """A SQLite database's."""
        return Path(str(self.url.database))

    def engine_options(self) -> dict[str, Any]:
        """What engines are made with: connections are few, and found out when dead."""
        if self.is_sqlite:
            # A connection for each use: opening a file is cheap, and nothing is left open.
            return {"poolclass": sqlalchemy.NullPool, "connect_args": {"timeout": 30}}
        return {
            "pool_size": 1,
            "max_overflow": 1,  # Optuna opens a second while it makes a new database
            "pool_pre_ping": True,
            "pool_recycle": 1800,
            "connect_args": POSTGRES_ARGUMENTS,
        }

    def engine(self) -> Engine:
        """Connections of one's own: a thread needs them."""
        engine = sqlalchemy.create_engine(self.url, **self.engine_options())
        configure(engine)
        return engine

    @contextlib.contextmanager
    def connected(self) -> Iterator[Connection]:
        """One connection for a short use."""
        engine = self.engine()
        try:
            with self.errors(), engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One process at a time, among all that use the database: for making what is to be there
        once. Ends with the process."""
        if self.is_sqlite:
            path = self.file.with_name(f".{self.file.name}.lock")
            with self.errors():
                lock = path.open("w")
            with lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            return
        engine = self.engine()
        try:
            with self.errors():
                connection = engine.connect()
            with connection:
                with self.errors():
                    for name in ("lock_timeout", "idle_in_transaction_session_timeout"):
                        connection.execute(text(f"SET LOCAL {name} = '60s'"))
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
                yield
        finally:
            engine.dispose()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn what database drivers raise into one line that names the database."""
        try:
            yield
        except KeyError as error:  # Optuna's word for what is not there, or no longer
            line = f"{self.place}: a study or trial is gone: {error.args[0]}"
            raise StorageError(line) from error
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise LeaseLostError("the trial has been ended from elsewhere") from error
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
            wrapped = isinstance(error, optuna.exceptions.StorageInternalError)
            cause = (error.__cause__ if wrapped else None) or error
            line = f"{self.place}: the database failed: {masked(_first_line(cause), self.url)}"
            raise StorageError(line, transient=self._may_pass(cause)) from error
        except OSError as error:
            raise StorageError(f"{self.place}: {error.strerror or error}") from error

    def _may_pass(self, error: BaseException) -> bool:
        """Whether the same statement may succeed later: the server restarts, a lock is held."""
        if self.is_sqlite:
            return any(words in str(error) for words in SQLITE_PASSES)
        kinds = (
            sqlalchemy.exc.OperationalError,
            sqlalchemy.exc.InterfaceError,
            sqlalchemy.exc.InternalError,
            sqlalchemy.exc.PendingRollbackError,
        )
        return isinstance(error, kinds)


def _first_line(error: BaseException) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def configure(engine: sqlalchemy.Engine) -> None:
    """Set up each of the engine's connections."""
    if engine.dialect.name == "sqlite":
        # Readers beside one writer; rows of ours go when Optuna's go.
        statements = [
            f"PRAGMA {pragma}"
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON")
        ]
    else:  # statements, for PgBouncer refuses start-up options
        statements = [f"SET {name} = '{value}'" for name, value in POSTGRES_LIMITS.items()]

    def on_connect(connection: Any, record: Any) -> None:
        for statement in statements:
            connection.execute(statement)
        connection.commit()

    sqlalchemy.event.listen(engine, "connect", on_connect)


def time_transactions(engine: Engine, tell: Callable[[float], None]) -> None:
    """From here on, ``tell`` of each of the engine's transactions how many seconds it took, its
    commit included: of how long it had a connection, for everybody gives it back with the end."""

    def taken(connection: Any, record: Any, proxy: Any) -> None:
        record.info["taken"] = time.perf_counter()

    def given_back(connection: Any, record: Any) -> None:
        if (began := record.info.pop("taken", None)) is not None:
            tell(time.perf_counter() - began)

    sqlalchemy.event.listen(engine, "checkout", taken)
    sqlalchemy.event.listen(engine, "checkin", given_back)
