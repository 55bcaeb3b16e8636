"""Connections to a database: their limits, what their failures mean, and who is alone on them."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy
import workplace
from postgres import PASSWORD, Postgres, free_port
from sqlalchemy import text
from workplace import Studies

from tuner.errors import StorageError
from tuner.study import connections
from tuner.study.connections import POSTGRES_LIMITS, Address, time_transactions
from tuner.study.database import Database
from tuner.study.patience import Patience

url, studies, sqlite = workplace.url, workplace.studies, workplace.sqlite


def failing(address: Address, statement: str, engine: sqlalchemy.Engine) -> StorageError:
    with (
        pytest.raises(StorageError) as caught,
        address.errors(),
        engine.begin() as connection,
    ):
        connection.execute(text(statement))
    assert str(caught.value).startswith(f"{address.place}: the database failed: ")
    assert "\n" not in str(caught.value)
    return caught.value


def test_what_stays_wrong_is_not_transient(studies: Studies) -> None:
    address = Address(studies.url)
    engine = address.engine()
    studies.make()
    for statement in (
        "SELEKT 1",
        "SELECT * FROM nothing_of_the_kind",
        "INSERT INTO studies SELECT * FROM studies",
        "UPDATE tuner_studies SET token = NULL",
    ):
        assert not failing(address, statement, engine).transient, statement
    engine.dispose()


def test_a_locked_sqlite_database_is_transient(sqlite: Studies) -> None:
    address = Address(sqlite.url)
    hasty = sqlalchemy.create_engine(sqlite.url, connect_args={"timeout": 0})
    engine = address.engine()
    with engine.connect() as holder:
        holder.exec_driver_sql("BEGIN IMMEDIATE")
        error = failing(address, "DELETE FROM trials", hasty)
    assert error.transient
    assert "database is locked" in str(error)
    for each in (hasty, engine):
        each.dispose()


@pytest.fixture
def address(postgres: Postgres) -> Address:
    return Address(postgres.new_database())


def test_a_connection_that_the_server_ends_is_transient(address: Address) -> None:
    engine = address.engine()
    error = failing(address, "SELECT pg_terminate_backend(pg_backend_pid())", engine)
    assert error.transient
    with engine.begin() as connection:  # there is another one at once
        assert connection.execute(text("SELECT 1")).scalar() == 1
    engine.dispose()


def test_a_lock_that_is_not_given_in_time_is_transient(address: Address) -> None:
    engine = address.engine()
    with engine.begin() as holder, engine.connect() as other:
        holder.execute(text("CREATE TABLE held (x int)"))
        holder.execute(text("SELECT pg_advisory_xact_lock(1)"))
        other.execute(text("SET lock_timeout = '50ms'"))
        with pytest.raises(StorageError, match="lock timeout") as caught, address.errors():
            other.execute(text("SELECT pg_advisory_xact_lock(1)"))
        assert caught.value.transient
        other.rollback()
    engine.dispose()


def test_a_server_that_is_away_is_transient(postgres: Postgres) -> None:
    away = postgres.url("postgres").replace(str(postgres.port), str(free_port()))
    with pytest.raises(StorageError, match="refused") as caught, Address(away).connected():
        raise AssertionError("it was there")
    assert caught.value.transient
    assert PASSWORD not in str(caught.value)


def test_a_server_that_says_nothing_is_given_up_soon(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that takes connections and then is silent, as a hung one does."""
    assert connections.POSTGRES_ARGUMENTS["connect_timeout"] in range(2, 11)
    monkeypatch.setitem(connections.POSTGRES_ARGUMENTS, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        hung = postgres.url("postgres").replace(str(postgres.port), str(port))
        began = time.monotonic()
        with pytest.raises(StorageError) as caught, Address(hung).connected():
            raise AssertionError("it answered")
        assert caught.value.transient
        assert 1 < time.monotonic() - began < 10


def test_every_connection_has_its_limits(address: Address) -> None:
    """Those of a storage, too; and also after a transaction that was rolled back."""
    database = Database(address.url.render_as_string(hide_password=False), create=True)
    for engine in (address.engine(), database.rdb.engine):
        for end in ("rollback", "commit"):
            with engine.connect() as connection:
                for name, value in POSTGRES_LIMITS.items():
                    found = connection.execute(text(f"SHOW {name}")).scalar()
                    assert found in (value, "1min"), name
                assert connection.execute(text("SHOW application_name")).scalar() == "tuner"
                getattr(connection, end)()
        engine.dispose()


def test_a_transaction_that_its_process_left_is_ended_by_the_server(address: Address) -> None:
    """Stopped in the middle of it, a worker must not hold up the others for long."""
    engine = address.engine()
    with engine.connect() as sleeper, engine.connect() as other:
        sleeper.execute(text("SET idle_in_transaction_session_timeout = '100ms'"))
        sleeper.commit()
        sleeper.execute(text("SELECT pg_advisory_xact_lock(1)"))
        other.execute(text("SELECT pg_advisory_xact_lock(1)"))  # it waits, and gets it
        with pytest.raises(StorageError) as caught, address.errors():
            sleeper.execute(text("SELECT 1"))
        assert caught.value.transient
        sleeper.invalidate()
    engine.dispose()


def test_sqlite_connections_read_beside_a_writer_and_keep_to_foreign_keys(sqlite: Studies) -> None:
    database = sqlite.open()
    with database.rdb.engine.connect() as connection:
        for pragma, value in (("journal_mode", "wal"), ("foreign_keys", 1), ("synchronous", 1)):
            assert connection.execute(text(f"PRAGMA {pragma}")).scalar() == value
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        assert sqlite.rows("SELECT count(*) FROM trials") == [(0,)]


def test_one_at_a_time_is_alone(studies: Studies) -> None:
    """Threads stand for processes: each has connections, and a lock, of its own."""
    inside, most = [0], [0]
    lock = threading.Lock()

    def enter(_: int) -> None:
        with Address(studies.url).alone():
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            with lock:
                inside[0] -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, range(8)))
    assert most == [1]


def test_alone_ends_with_a_failure(studies: Studies) -> None:
    address = Address(studies.url)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), address.alone():
            raise ZeroDivisionError


def test_errors_of_other_kinds_come_out_as_they_are(studies: Studies) -> None:
    address = Address(studies.url)
    with pytest.raises(ZeroDivisionError), address.errors():
        raise ZeroDivisionError
    with (
        pytest.raises(StorageError, match="a study or trial is gone: it") as gone,
        address.errors(),
    ):
        raise KeyError("it")
    with pytest.raises(StorageError, match=r": No space left on device$") as full, address.errors():
        raise OSError(28, "No space left on device")
    assert str(full.value).startswith(f"{address.place}: ")
    assert not gone.value.transient
    assert not full.value.transient


def test_patience_outlives_a_server_that_comes_back(address: Address, postgres: Postgres) -> None:
    """The server lets nobody into this database for a moment, and throws out who is in it."""
    engine, said = address.engine(), list[str]()
    name = str(address.url.database)

    def admit(somebody: bool) -> None:
        postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {somebody}")

    def ask() -> int:
        with address.errors(), engine.begin() as connection:
            return int(connection.execute(text("SELECT 7")).scalar_one())

    assert ask() == 7
    admit(False)
    out = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    postgres.execute(out)
    with ThreadPoolExecutor() as pool:
        found = pool.submit(Patience(said.append), ask)
        time.sleep(0.5)
        admit(True)
        assert found.result() == 7
    assert [": the database failed: " in word for word in said] == [True, False]
    engine.dispose()


def test_transactions_are_timed_with_their_commits(studies: Studies) -> None:
    """Each once, also one that fails."""
    studies.make()
    engine, told = Address(studies.url).engine(), list[float]()
    time_transactions(engine, told.append)

    def late(connection: sqlalchemy.Connection) -> None:
        time.sleep(0.05)

    sqlalchemy.event.listen(engine, "commit", late)
    with engine.begin() as connection:
        connection.execute(text("UPDATE tuner_studies SET total = 9"))
        assert told == []
    assert len(told) == 1
    assert told[0] >= 0.05
    with pytest.raises(sqlalchemy.exc.SQLAlchemyError), engine.begin() as connection:
        connection.execute(text("SELEKT 1"))
    assert len(told) == 2
    engine.dispose()


def test_a_database_tells_of_its_transactions_once_it_is_watched(studies: Studies) -> None:
    store, told = studies.make(), list[float]()
    store.remaining()
    store.database.watch(told.append)
    store.remaining()
    found = len(told)
    assert found > 0
    store.summary()  # Optuna's own sessions, too
    assert len(told) > found
    assert all(seconds > 0 for seconds in told)
