"""Fixtures: study databases on SQLite and Postgres, worker sessions, lost connections.

A test module names the fixtures that it uses: ``url = study_databases.url``.
"""

import contextlib
import functools
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import optuna
import pytest
import sqlalchemy
from builders import DATASET, RANGES, epoch, new_database, spec_of
from optuna.storages._rdb import storage as rdb_storage
from optuna.trial import FrozenTrial
from postgres import Postgres
from psycopg import sql

from tuner.study.claims import Claim, Idle
from tuner.study.connections import Address
from tuner.study.creation import create_study
from tuner.study.database import Database
from tuner.study.session import WorkerSession
from tuner.study.store import StudyStore
from tuner.study.verdict import Verdict

RANDOM = RANGES + "[sampler]\nname = 'random'\n[pruner]\nname = 'none'\n"
MACHINE = {"device": "cpu", "jax": "0.10"}
EXPIRE_LEASES = "UPDATE tuner_leases SET expires_at = 0"
CONNECTION_ERROR = "database is locked"  # transient on both databases
_numbers = itertools.count()


class Studies:
    """Stores, sessions and Optuna's own view of one database; closes every connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.messages: list[str] = []  # announced by sessions
        self._made: dict[str, StudyStore] = {}
        self._open = contextlib.ExitStack()
        self.engine = Address(url).engine()
        self._open.callback(self.engine.dispose)

    def close(self) -> None:
        self._open.close()

    def open(self) -> Database:
        """Open the database with connections of its own."""
        database = Database(self.url)
        self._open.callback(database.rdb.engine.dispose)
        return database

    def create(self, toml: str = RANDOM, **study: Any) -> StudyStore:
        """Create a study, by default of three trials of four epochs."""
        store = create_study(self.open(), spec(toml, **study))
        self._made[store.name] = store
        return store

    def store(self, name: str = "s") -> StudyStore:
        return StudyStore(self.open(), name)

    def join(self, name: str = "s", retry_seconds: float = 20.0) -> WorkerSession:
        """A worker that has joined the study. The first one uses the connections of ``create``,
        later ones their own."""
        store = self._made.pop(name, None) or self.store(name)
        session = WorkerSession(store, MACHINE, self.messages.append, retry_seconds)
        return self._open.enter_context(session.joined())

    def optuna_study(self, name: str = "s") -> optuna.Study:
        """The study as Optuna opens it, without tuner."""
        return optuna.load_study(study_name=name, storage=self.optuna_storage)

    @functools.cached_property
    def optuna_storage(self) -> optuna.storages.RDBStorage:
        url = self.url.replace("postgresql:", "postgresql+psycopg:")
        storage = optuna.storages.RDBStorage(url)
        self._open.callback(storage.engine.dispose)
        return storage

    def trials(self, name: str = "s") -> list[FrozenTrial]:
        """The trials as Optuna reads them, without tuner."""
        return self.optuna_study(name).trials

    def rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Execute and commit a statement; return its rows."""
        with self.engine.begin() as connection:
            result = connection.execute(sqlalchemy.text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def leases(self) -> list[tuple[Any, ...]]:
        return self.rows(
            "SELECT trial_id, status, worker, token, epoch, takeovers, prune_reason "
            "FROM tuner_leases ORDER BY trial_id"
        )

    def all_rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row about trials, without the times at which leases expire."""
        tables = [
            *("trials", "trial_values", "trial_params", "trial_user_attributes"),
            *("trial_system_attributes", "trial_intermediate_values", "tuner_epochs"),
        ]
        found = {table: sorted(self.rows(f"SELECT * FROM {table}"), key=repr) for table in tables}
        return found | {"tuner_leases": self.leases()}


def spec(toml: str = RANDOM, **study: Any) -> Any:
    values = {"name": "s", "trials": 3, "epochs": 4} | study
    lines = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    return spec_of(f"[study]\n{lines}\n{toml}")


def claim(session: WorkerSession) -> Claim:
    """Claim a trial; fail if the worker must wait or leave."""
    found = session.claim(DATASET)
    assert not isinstance(found, Idle), found
    return found


def report(session: WorkerSession, claimed: Claim, fids: Sequence[float | None]) -> None:
    """Report the trial's next epochs, one for each FID; None reports non-finite values."""
    history = list(claimed.history)
    for number, fid in enumerate(fids, len(history) + 1):
        history.append(epoch(number, fid, finite=fid is not None))
        session.report(claimed, history[-1], history[:-1])


def run(
    session: WorkerSession, fids: Sequence[float | None], end: Verdict, artifact: str = ""
) -> Claim:
    """Claim a trial, report these FIDs and end the trial with the verdict."""
    claimed = claim(session)
    report(session, claimed, fids)
    session.finish(claimed, end, artifact or None)
    return claimed


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Wait until the condition holds; False if it does not within ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


class LostConnection:
    """Lose the session's connection at one COMMIT of this thread, numbered ``at`` from 0.

    The heartbeat's thread keeps it. The COMMIT does not reach the database; with ``answer_only``,
    it does and its answer is lost.
    """

    def __init__(self, session: WorkerSession, at: int = 0, *, answer_only: bool = False) -> None:
        self._dialect: Any = session.store.database.rdb.engine.dialect
        self._left, self._answer_only, self._thread = at, answer_only, threading.get_ident()
        self.lost = False

    def __enter__(self) -> Self:
        self._commit, self._dialect.do_commit = self._dialect.do_commit, self._do_commit
        return self

    def __exit__(self, *_: object) -> None:
        del self._dialect.do_commit

    def _do_commit(self, connection: Any) -> None:
        if threading.get_ident() != self._thread:
            self._commit(connection)
            return
        self._left -= 1
        self.lost |= self._left == -1
        if self._left != -1 or self._answer_only:
            self._commit(connection)
        if self._left == -1:
            error = self._dialect.loaded_dbapi.OperationalError(CONNECTION_ERROR)
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error


def each_lost_commit(session: WorkerSession) -> Iterator[LostConnection]:
    """Contexts that each lose another COMMIT of the code under them, until none is left to lose."""
    for answer_only in (True, False):
        for at in itertools.count():
            lost = LostConnection(session, at, answer_only=answer_only)
            yield lost
            if not lost.lost:
                break


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with all tables and no study: a copy, as creating the tables takes a second."""
    if request.param == "sqlite":
        yield new_database(tmp_path / "studies.db")
        return
    server: Postgres = request.getfixturevalue("postgres")
    name, template = map(sql.Identifier, (f"copy_{next(_numbers)}", template_database(server)))
    server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, template))
    yield server.url(name.as_string().strip('"'))
    server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@functools.cache
def template_database(server: Postgres) -> str:
    url = server.new_database()
    Database(url, create=True).rdb.engine.dispose()
    return str(sqlalchemy.make_url(url).database)


_scripts: list[Any] = []


@contextlib.contextmanager
def cached_migrations() -> Iterator[None]:
    """Cache Optuna's migration files; reading them takes most of the time to open a storage."""
    read = rdb_storage._VersionManager._create_alembic_script

    def once(manager: Any) -> Any:
        if not _scripts:
            _scripts.append(read(manager))
        return _scripts[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rdb_storage._VersionManager, "_create_alembic_script", once)
        yield


@pytest.fixture
def studies(url: str) -> Iterator[Studies]:
    with cached_migrations(), contextlib.closing(Studies(url)) as found:
        yield found


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Studies]:
    """For tests of SQLite, and of code that does not depend on the database."""
    url = new_database(tmp_path / "studies.db")
    with cached_migrations(), contextlib.closing(Studies(url)) as found:
        yield found
