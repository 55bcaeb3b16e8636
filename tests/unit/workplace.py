"""The studies of one database, on SQLite and on a real Postgres, and those who work on them.

A test module takes the fixtures: ``url, studies = workplace.url, workplace.studies``.
"""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import optuna
import pytest
import sqlalchemy
from builders import PREMISES, RANGES, epoch, new_database, spec_of
from optuna.storages._rdb import storage as optunas
from optuna.trial import FrozenTrial
from postgres import Postgres
from psycopg import sql

from tuner.study.connections import Address
from tuner.study.creation import create_study
from tuner.study.database import Database
from tuner.study.membership import Claim, Idle, Membership
from tuner.study.store import StudyStore
from tuner.study.verdict import Verdict

RANDOM = RANGES + "[sampler]\nname = 'random'\n[pruner]\nname = 'none'\n"
MACHINE = {"device": "cpu", "jax": "0.10"}
LONG_AGO = "UPDATE tuner_leases SET expires_at = 0"
BROKEN = "database is locked"  # which SQLite, too, may recover from
_numbers = itertools.count()


class Studies:
    """Opens the database as often as it is asked to, and closes all of it in the end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.said: list[str] = []  # by the workers
        self._made: dict[str, StudyStore] = {}
        self._open = contextlib.ExitStack()
        self._engine = Address(url).engine()
        self._open.callback(self._engine.dispose)

    def close(self) -> None:
        self._open.close()

    def open(self) -> Database:
        """The database, over connections of its own."""
        database = Database(self.url)
        self._open.callback(database.rdb.engine.dispose)
        return database

    def make(self, toml: str = RANDOM, **study: Any) -> StudyStore:
        """A study of three trials of four epochs, unless told otherwise."""
        store = create_study(self.open(), spec(toml, **study))
        self._made[store.name] = store
        return store

    def store(self, name: str = "s") -> StudyStore:
        return StudyStore(self.open(), name)

    def join(self, name: str = "s", patience: float = 20.0) -> Membership:
        """A worker that has joined the study: the first one who made it, all others over
        connections of their own."""
        store = self._made.pop(name, None) or self.store(name)
        member = Membership(store, MACHINE, self.said.append, patience)
        return self._open.enter_context(member)

    def plain(self, name: str = "s") -> optuna.Study:
        """The study as Optuna opens it without us."""
        return optuna.load_study(study_name=name, storage=self.plain_storage)

    @functools.cached_property
    def plain_storage(self) -> optuna.storages.RDBStorage:
        url = self.url.replace("postgresql:", "postgresql+psycopg:")
        storage = optuna.storages.RDBStorage(url)
        self._open.callback(storage.engine.dispose)
        return storage

    def trials(self, name: str = "s") -> list[FrozenTrial]:
        """The trials as Optuna alone reads them."""
        return self.plain(name).trials

    def rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """What a statement, carried out at once, gives."""
        with self._engine.begin() as connection:
            result = connection.execute(sqlalchemy.text(statement), values)
            return [tuple(row) for row in result] if result.returns_rows else []

    def leases(self) -> list[tuple[Any, ...]]:
        return self.rows(
            "SELECT trial_id, status, worker, token, epoch, takeovers, prune_reason "
            "FROM tuner_leases ORDER BY trial_id"
        )

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """All that the database says of trials, but for the times until which leases run."""
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


def claim(member: Membership) -> Claim:
    """A trial, which there must be."""
    found = member.claim(PREMISES)
    assert not isinstance(found, Idle), found
    return found


def report(member: Membership, claimed: Claim, fids: Sequence[float | None]) -> None:
    """The trial's next epochs, with these FIDs."""
    history = list(claimed.history)
    for number, fid in enumerate(fids, len(history) + 1):
        history.append(epoch(number, fid, finite=fid is not None))
        member.report(claimed, history[-1], history[:-1])


def run(
    member: Membership, fids: Sequence[float | None], end: Verdict, artifact: str = ""
) -> Claim:
    """A trial with these FIDs that ends so."""
    claimed = claim(member)
    report(member, claimed, fids)
    member.finish(claimed, end, artifact or None)
    return claimed


class Cut:
    """The line breaks, once, at a COMMIT of the worker's, the one numbered ``at`` from 0: before
    the database has carried it out, or after that, so that the ``answer_only`` is lost."""

    def __init__(self, member: Membership, at: int = 0, *, answer_only: bool = False) -> None:
        self._dialect: Any = member.store.database.rdb.engine.dialect
        self._left, self._answer_only = at, answer_only
        self.broke = False

    def __enter__(self) -> Self:
        self._commit, self._dialect.do_commit = self._dialect.do_commit, self._do_commit
        return self

    def __exit__(self, *_: object) -> None:
        del self._dialect.do_commit

    def _do_commit(self, connection: Any) -> None:
        self._left -= 1
        self.broke |= self._left == -1
        if self._left != -1 or self._answer_only:
            self._commit(connection)
        if self._left == -1:
            raise self._dialect.loaded_dbapi.OperationalError(BROKEN)


def each_cut(member: Membership) -> Iterator[Cut]:
    """A cut at each COMMIT, one after the other, of what is done under them."""
    for answer_only in (True, False):
        for at in itertools.count():
            line = Cut(member, at, answer_only=answer_only)
            yield line
            if not line.broke:
                break


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with all tables and no study: a copy, as making one takes a second."""
    if request.param == "sqlite":
        yield new_database(tmp_path / "studies.db")
        return
    server: Postgres = request.getfixturevalue("postgres")
    name, template = map(sql.Identifier, (f"copy_{next(_numbers)}", _template(server)))
    server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, template))
    yield server.url(name.as_string().strip('"'))
    server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@functools.cache
def _template(server: Postgres) -> str:
    url = server.new_database()
    Database(url, create=True).rdb.engine.dispose()
    return str(sqlalchemy.make_url(url).database)


_scripts: list[Any] = []


@contextlib.contextmanager
def _opened_fast() -> Iterator[None]:
    """Optuna reads the twenty files of its migrations whenever a storage is opened, which is most
    of the time that takes; here it reads them once."""
    read = optunas._VersionManager._create_alembic_script

    def once(manager: Any) -> Any:
        if not _scripts:
            _scripts.append(read(manager))
        return _scripts[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optunas._VersionManager, "_create_alembic_script", once)
        yield


@pytest.fixture
def studies(url: str) -> Iterator[Studies]:
    with _opened_fast(), contextlib.closing(Studies(url)) as found:
        yield found


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Studies]:
    """For what is SQLite's alone, and for what no database has a part in."""
    url = new_database(tmp_path / "studies.db")
    with _opened_fast(), contextlib.closing(Studies(url)) as found:
        yield found
