"""Connections to a database: their settings, and what their failures mean."""

import contextlib
import fcntl
import functools
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import sqlalchemy
from sqlalchemy import Connection, Engine, text

from tuner import hints
from tuner.errors import InputError, LeaseLostError, StorageError
from tuner.study.urls import masked, parse_url, shown

# A worker that is suspended in a transaction must not hold up the others. A broken connection must
# be noticed before the lease of its trial expires.
POSTGRES_LIMITS = {
    "lock_timeout": "30s",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "5s",
}
POSTGRES_ARGUMENTS = {
    "connect_timeout": 10,  # seconds, for about seven messages
    "tcp_user_timeout": 10_000,  # milliseconds
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "application_name": "tuner",
    "prepare_threshold": None,  # PgBouncer may hand each transaction another connection
    "client_encoding": "utf8",  # overrides PGCLIENTENCODING, the URL and the server's default
}
# Creating tables or a study may take this long over a slow network.
PATIENT = dict.fromkeys(POSTGRES_LIMITS, "600s")

LOCK = 7_482_517  # an arbitrary number for tuner's advisory lock

# SQLSTATEs, or their classes (the first two characters), of failures after which the same statement
# may succeed: connection, rollback, resources, operator intervention, input and output, a standby
# that takes no writes, time limits, an object or a lock in use.
TRANSIENT_STATES = ("08", "40", "53", "57", "58030", "25006", "25P03", "25P04", "55006", "55P03")
DAMAGED = ("XX001", "XX002")  # data, an index
# Failures to connect have no SQLSTATE, only a text, usually in English. A text that matches neither
# pattern counts as transient.
BUSY = re.compile(
    r"too many (clients|connections)|connection slots are reserved|starting up|shutting down"
    r"|not yet accepting connections|in recovery mode|no more connections allowed"
    r"|(query|client)_\w*timeout|server login has been failing"
)
REFUSED = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|not permitted to log in"
    r"|role .* does not exist|permission denied for database|certificate verify failed"
)
# A full disk can appear as an I/O error, when SQLite enlarges its shared memory.
SQLITE_TRANSIENT = (
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_PROTOCOL),
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
)

# Causes and remedies, by SQLSTATE or SQLite's code.
REMEDIES = {
    "53100": "free some of its disk",
    "53300": "raise its max_connections or run fewer workers",
    "25006": "it is a standby until it is promoted",
    "25P03": "it allows {idle_in_transaction_session_timeout} between two statements, but the "
    "network or this machine is slower",
    "57014": "a statement may take {statement_timeout}",
    "55P03": "another transaction has kept its lock for {lock_timeout}",
    "42501": "see Roles in docs/operations.md for the rights that owners, workers and readers "
    "need, and how to grant them",
    "22P05": "its encoding lacks the character; use a database with encoding UTF8",
    sqlite3.SQLITE_FULL: "free some of its disk",
    sqlite3.SQLITE_READONLY: "this user may only read it",
}


class Address:
    """The address of a database: connects to it, and describes its failures."""

    def __init__(self, url: str) -> None:
        """InputError unless ``url`` is of a SQLite file or a Postgres database."""
        self.url = parse_url(url)
        self.place = shown(self.url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"

    @property
    def shareable_url(self) -> str:
        """A URL for Optuna's own tools, without the password, which libpq finds by itself."""
        if self.is_sqlite:
            return self.url.render_as_string()
        return self.place.replace("postgresql", "postgresql+psycopg", 1)

    def masked(self, text: str) -> str:
        """``text`` without the passwords that this database is opened with."""
        return masked(text, self.url)

    @property
    def file(self) -> Path:
        """The file of a SQLite database."""
        return Path(str(self.url.database))

    def check_exists(self) -> None:
        """StorageError if a SQLite database's file is missing, or is not a file."""
        with self.errors():
            if self.is_sqlite and not self.file.is_file():
                what = "not a database file" if self.file.exists() else "no such database"
                sweep = hints.command("sweep", "STUDY.toml")
                raise StorageError(f"{self.place}: {what}; to create one, run: {sweep}")

    def engine_options(self, *, patient: bool = False) -> dict[str, Any]:
        """Options for SQLAlchemy engines: few connections, and detection of dead ones.

        ``patient`` is for creating tables, where a transaction waits while Optuna opens another
        connection.
        """
        if self.is_sqlite:
            # One connection per use: opening a file is cheap, and nothing is left open.
            return {
                "poolclass": sqlalchemy.NullPool,
                "creator": functools.partial(_open_sqlite, os.path.abspath(self.file)),
                "pool_events": [(_set_up_sqlite, "connect")],
            }
        return {
            "pool_size": 1,
            "max_overflow": 1,  # for the heartbeat, and for Optuna while it creates its tables
            "pool_pre_ping": True,
            "pool_recycle": 1800,
            "connect_args": POSTGRES_ARGUMENTS,
            "use_native_hstore": False,  # its detection takes three messages
            "pool_events": [
                (self._postgres_setup(PATIENT if patient else POSTGRES_LIMITS), "connect")
            ],
        }

    def engine(self) -> Engine:
        """Create an engine with connections of its own."""
        return sqlalchemy.create_engine(self.url, **self.engine_options())

    @contextlib.contextmanager
    def connected(self) -> Iterator[Connection]:
        """A short-lived connection of its own."""
        engine = self.engine()
        try:
            with self.errors(), engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold a lock against other processes, to create what must exist only once. The lock is
        released if the process dies."""
        if self.is_sqlite:
            path = self.file.with_name(f".{self.file.name}.lock")
            with self.errors():  # opening a pipe of that name fails; a file is not truncated
                flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK
                lock = os.fdopen(os.open(path, flags, 0o666), "w")
            with lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            return
        # The lock belongs to a transaction that stays open while other connections do the work:
        # PgBouncer may give the session to other clients.
        with self.connected() as connection:
            connection.exec_driver_sql(_settings("SET LOCAL", PATIENT))
            connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            yield

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn exceptions of Optuna and the database driver into errors that name the database."""
        try:
            yield
        except KeyError as error:  # raised by Optuna for a missing study or trial
            line = f"{self.place}: a study or trial is gone: {error.args[0]}"
            raise StorageError(line) from error
        except optuna.exceptions.UpdateFinishedTrialError as error:
            raise LeaseLostError("another process has ended the trial") from error
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
            wrapped = isinstance(error, optuna.exceptions.StorageInternalError)
            cause = (error.__cause__ if wrapped else None) or error
            raise self._failure(cause) from error
        except OSError as error:
            raise StorageError(f"{self.place}: {error.strerror or error}") from error

    def _failure(self, error: BaseException) -> StorageError:
        """A driver's failure as one line with a remedy, if there is one."""
        driver = getattr(error, "orig", None)
        # The SQLSTATE, or SQLite's extended code.
        code = getattr(driver, "sqlstate", None) or getattr(driver, "sqlite_errorcode", None)
        words = next(iter(str(driver or error).strip().splitlines()), type(error).__name__)
        remedy = REMEDIES.get("53300" if "too many" in words or "reserved" in words else code, "")
        remedy = f" ({remedy.format(**POSTGRES_LIMITS)})" if remedy else ""
        line = f"{self.place}: the database failed: {self.masked(words)}{remedy}"
        busy = not self.is_sqlite and BUSY.search(words) is not None
        return StorageError(line, transient=busy or self._is_transient(error, code), busy=busy)

    def _is_transient(self, error: BaseException, code: str | int | None) -> bool:
        """Whether the same statement may succeed later: the server restarts, a lock is held."""
        if self.is_sqlite:
            return isinstance(code, int) and code & 0xFF in SQLITE_TRANSIENT
        if isinstance(code, str) and not code.startswith("XX"):
            return code.startswith(TRANSIENT_STATES)
        kinds = (
            sqlalchemy.exc.OperationalError,
            sqlalchemy.exc.InterfaceError,
            sqlalchemy.exc.InternalError,
            sqlalchemy.exc.PendingRollbackError,
            sqlalchemy.exc.TimeoutError,  # of the pool: both connections are in use
        )
        return isinstance(error, kinds) and code not in DAMAGED and not REFUSED.search(str(error))

    def _postgres_setup(self, limits: dict[str, str]) -> Callable[[Any, Any], None]:
        """Return the function that sets up every new connection."""

        def set_up(connection: Any, record: Any) -> None:
            if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
                raise InputError(
                    f"{self.place}: its encoding is SQL_ASCII, from which neither Optuna nor "
                    "SQLAlchemy can read text; create a UTF8 database with: "
                    "CREATE DATABASE name TEMPLATE template0 ENCODING 'UTF8'"
                )
            # PgBouncer refuses start-up options. All statements share one message, which commits.
            connection.autocommit = True
            connection.execute(_settings("SET", limits))
            connection.autocommit = False

        return set_up


def _settings(verb: str, limits: dict[str, str]) -> str:
    return "; ".join(f"{verb} {name} = '{value}'" for name, value in limits.items())


def _open_sqlite(path: str) -> sqlite3.Connection:
    """Connect to an existing file; read-only if the user may not write to it or to its folder."""
    real = os.path.realpath(path)
    if os.access(real, os.W_OK) and os.access(os.path.dirname(real), os.W_OK):
        return _connect_sqlite(path, "rw")
    for _ in range(50):
        # Without a write-ahead log there is no writer. SQLite could not create the log, but can
        # open the file as immutable. If a writer comes or goes meanwhile, try again.
        logged = not _is_wal(real) or os.path.exists(f"{real}-wal")
        connection = _connect_sqlite(path, "ro" if logged else "ro&immutable=1")
        try:
            connection.execute("PRAGMA query_only=ON")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.OperationalError as error:
            connection.close()
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CANTOPEN:
                raise
            time.sleep(0.01)
        else:
            return connection
    raise sqlite3.OperationalError("this user can't read its write-ahead log")


def _connect_sqlite(path: str, mode: str) -> sqlite3.Connection:
    uri = f"file:{quote(path)}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=30, check_same_thread=False)
    # Text that is not UTF-8 must not hide the rest of its row.
    connection.text_factory = lambda data: data.decode(errors="replace")
    return connection


def _is_wal(path: str) -> bool:
    """Whether the database's header declares a write-ahead log."""
    try:
        with open(path, "rb") as file:
            return file.read(20)[18:] == b"\2\2"
    except OSError:
        return False


def _set_up_sqlite(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")  # our rows are deleted with Optuna's
