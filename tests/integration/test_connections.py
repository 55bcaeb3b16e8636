"""Database connections: limits, transient and permanent errors, exclusive access, timing."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy
import study_databases
from postgres import PASSWORD, Postgres, free_port
from proxy import Proxy
from sqlalchemy import text
from study_databases import Studies

from tuner.errors import StorageError
from tuner.study import connections
from tuner.study.connections import POSTGRES_LIMITS, Address
from tuner.study.creation import create_study
from tuner.study.database import Database
from tuner.study.retrying import Retrier
from tuner.study.session import WorkerSession
from tuner.study.verdict import Prune

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite


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


def test_permanent_errors_are_not_transient(studies: Studies) -> None:
    address = Address(studies.url)
    engine = address.engine()
    studies.create()
    for statement in (
        "SELEKT 1",
        "SELECT * FROM nothing_of_the_kind",
        "INSERT INTO studies SELECT * FROM studies",
        "UPDATE tuner_studies SET token = NULL",
    ):
        assert not failing(address, statement, engine).transient, statement
    engine.dispose()


@pytest.mark.parametrize(
    ("state", "transient"),
    [
        *(("08006", True), ("08P01", True)),  # connections; PgBouncer uses 08P01 for most errors
        *(("40001", True), ("40P01", True)),  # serialization, deadlock
        *(("53100", True), ("53200", True), ("53300", True)),  # disk, memory, connections
        *(("57014", True), ("57P01", True), ("57P03", True)),  # cancelled, shut down, starting
        *(
            ("58030", True),
            ("25006", True),
            ("55P03", True),
        ),  # I/O error, standby, lock not available
        *(("58P01", False), ("XX001", False), ("XX002", False)),  # missing file, damaged data
        *(("42501", False), ("42P01", False), ("23505", False), ("22003", False)),
        *(("28000", False), ("0A000", False)),
        ("XX000", True),  # among others, a tuple that was updated at the same time
    ],
)
def test_transient_errors_are_recognised_by_sqlstate(
    address: Address, state: str, transient: bool
) -> None:
    engine = address.engine()
    raised = f"DO $$ BEGIN RAISE 'in any language' USING ERRCODE = '{state}'; END $$"
    assert failing(address, raised, engine).transient == transient
    engine.dispose()


def test_a_read_only_standby_is_transient(address: Address) -> None:
    engine = address.engine()
    with engine.begin() as connection:
        connection.execute(text("SET default_transaction_read_only = on"))
    error = failing(address, "CREATE TABLE another (x int)", engine)
    assert error.transient
    assert str(error).endswith("in a read-only transaction (it is a standby until it is promoted)")
    engine.dispose()


def test_a_changed_password_is_not_transient(address: Address, postgres: Postgres) -> None:
    for url in (
        postgres.url(str(address.url.database), password="another"),
        postgres.url(str(address.url.database), user="nobody_at_all"),
    ):
        denied = pytest.raises(StorageError, match="authentication failed")
        with denied as caught, Address(url).connected():
            raise AssertionError("the connection succeeded")
        assert not caught.value.transient
        assert not caught.value.busy
        assert "another" not in str(caught.value)


@pytest.fixture
def crowded(postgres: Postgres) -> Iterator[Address]:
    """A role that may have one connection."""
    postgres.execute("CREATE ROLE crowd LOGIN CONNECTION LIMIT 1 PASSWORD 'crowd-pass'")
    yield Address(postgres.url("postgres", user="crowd", password="crowd-pass"))
    postgres.execute("DROP ROLE crowd")


def test_too_many_connections_are_retried(crowded: Address) -> None:
    messages: list[str] = []

    def query() -> int:
        with crowded.connected() as connection:
            return int(connection.execute(text("SELECT 7")).scalar_one())

    with ThreadPoolExecutor() as pool:
        with crowded.connected():
            found = pool.submit(Retrier(messages.append, busy_only=True), query)
            while not messages:
                time.sleep(0.01)
        assert found.result() == 7
    assert messages[0].endswith(
        'too many connections for role "crowd" (raise its max_connections or run fewer workers); '
        "trying again for up to 600 s"
    )
    assert messages[1:] == ["recovered; continuing"]


def test_the_first_connection_retries_only_a_busy_server(postgres: Postgres) -> None:
    away = postgres.url("postgres").replace(str(postgres.port), str(free_port()))
    first = Retrier(lambda _: None, busy_only=True)
    for url in (away, postgres.url("nothing_of_the_kind")):
        with pytest.raises(StorageError, match=r"refused|does not exist"):
            first(partial(Database, url))


def test_a_slow_network_does_not_time_out(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction may wait for five round trips; opening a connection would take more."""
    direct_url = postgres.new_database()
    Database(direct_url, create=True).rdb.engine.dispose()
    proxy = Proxy(postgres.port, delay=0.03)
    monkeypatch.setitem(POSTGRES_LIMITS, "idle_in_transaction_session_timeout", "300ms")
    database = Database(direct_url.replace(f":{postgres.port}/", f":{proxy.port}/"))
    messages: list[str] = []
    with WorkerSession(
        create_study(database, study_databases.spec()), {}, messages.append
    ).joined() as session:
        study_databases.run(session, [50.0], Prune("bad"))
    assert messages == []
    proxy.cut()
    database.rdb.engine.dispose()


def test_an_idle_transaction_timeout_names_the_limit(address: Address) -> None:
    engine = address.engine()
    raised = "DO $$ BEGIN RAISE 'too long' USING ERRCODE = '25P03'; END $$"
    error = failing(address, raised, engine)
    assert error.transient
    assert "too long (it allows 5s between two statements" in str(error)
    engine.dispose()


def execute(engine: sqlalchemy.Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_transient_errors_of_sqlite(tmp_path: Path) -> None:
    """A full disk is a transient error; a read-only, damaged or missing file is not."""
    address, file = Address(f"sqlite:///{tmp_path}/s.db"), tmp_path / "s.db"
    engine = address.engine()
    file.touch()
    execute(engine, "CREATE TABLE some (x text)")
    filled = "INSERT INTO some SELECT randomblob(100000)"
    with pytest.raises(StorageError, match=r"full \(free some") as full, address.errors():
        execute(engine, "PRAGMA max_page_count = 2", filled)
    assert full.value.transient
    with pytest.raises(StorageError, match="readonly") as readonly, address.errors():
        execute(engine, "PRAGMA query_only = 1", filled)
    assert not readonly.value.transient
    for damage in (b"x" * 8192, file.read_bytes()[:100] + b"x" * 8192):
        file.write_bytes(damage)
        assert not failing(address, "SELECT * FROM some", engine).transient
    missing = Address(f"sqlite:///{tmp_path}/nowhere/s.db")
    assert not failing(missing, "SELECT 1", missing.engine()).transient


def test_a_locked_sqlite_database_is_transient(sqlite: Studies) -> None:
    address = Address(sqlite.url)
    no_wait = sqlalchemy.create_engine(sqlite.url, connect_args={"timeout": 0})
    engine = address.engine()
    with engine.connect() as holder:
        holder.exec_driver_sql("BEGIN IMMEDIATE")
        error = failing(address, "DELETE FROM trials", no_wait)
    assert error.transient
    assert "database is locked" in str(error)
    for each in (no_wait, engine):
        each.dispose()


@pytest.fixture
def address(postgres: Postgres) -> Address:
    return Address(postgres.new_database())


def test_a_connection_ended_by_the_server_is_transient(address: Address) -> None:
    engine = address.engine()
    error = failing(address, "SELECT pg_terminate_backend(pg_backend_pid())", engine)
    assert error.transient
    with engine.begin() as connection:  # the pool connects again
        assert connection.execute(text("SELECT 1")).scalar() == 1
    engine.dispose()


def test_a_lock_timeout_is_transient(address: Address) -> None:
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


def test_an_unreachable_server_is_transient(postgres: Postgres) -> None:
    away = postgres.url("postgres").replace(str(postgres.port), str(free_port()))
    with pytest.raises(StorageError, match="refused") as caught, Address(away).connected():
        raise AssertionError("the connection succeeded")
    assert caught.value.transient
    assert PASSWORD not in str(caught.value)


def test_a_silent_server_times_out(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hung host accepts connections and sends nothing."""
    assert connections.POSTGRES_ARGUMENTS["connect_timeout"] in range(2, 11)
    monkeypatch.setitem(connections.POSTGRES_ARGUMENTS, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        hung = postgres.url("postgres").replace(str(postgres.port), str(port))
        began = time.monotonic()
        with pytest.raises(StorageError) as caught, Address(hung).connected():
            raise AssertionError("the connection succeeded")
        assert caught.value.transient
        assert 1 < time.monotonic() - began < 10


def test_every_connection_has_its_limits(address: Address) -> None:
    """This includes the connections of Optuna's storage, and holds after a rollback."""
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


def test_the_server_ends_idle_transactions(address: Address) -> None:
    """A worker stopped in a transaction must not block the others for long."""
    engine = address.engine()
    with engine.connect() as sleeper, engine.connect() as other:
        sleeper.execute(text("SET idle_in_transaction_session_timeout = '100ms'"))
        sleeper.commit()
        sleeper.execute(text("SELECT pg_advisory_xact_lock(1)"))
        # This blocks until the server ends the idle transaction.
        other.execute(text("SELECT pg_advisory_xact_lock(1)"))
        with pytest.raises(StorageError) as caught, address.errors():
            sleeper.execute(text("SELECT 1"))
        assert caught.value.transient
        sleeper.invalidate()
    engine.dispose()


def test_sqlite_reads_next_to_a_writer_and_enforces_foreign_keys(sqlite: Studies) -> None:
    database = sqlite.open()
    with database.rdb.engine.connect() as connection:
        for pragma, value in (("journal_mode", "wal"), ("foreign_keys", 1), ("synchronous", 1)):
            assert connection.execute(text(f"PRAGMA {pragma}")).scalar() == value
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        assert sqlite.rows("SELECT count(*) FROM trials") == [(0,)]


def test_alone_admits_one_process_at_a_time(studies: Studies) -> None:
    """Threads stand for processes: each has its own connections and lock."""
    inside, most = [0], [0]
    lock = threading.Lock()

    def enter(_: int) -> None:
        with Address(studies.url).exclusive():
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            with lock:
                inside[0] -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, range(8)))
    assert most == [1]


def test_an_exception_releases_the_lock_of_alone(studies: Studies) -> None:
    address = Address(studies.url)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), address.exclusive():
            raise ZeroDivisionError


def test_other_errors_are_translated_or_pass_unchanged(studies: Studies) -> None:
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


def test_retries_outlast_a_short_outage(address: Address, postgres: Postgres) -> None:
    """The server refuses connections to the database for a moment and ends the open ones."""
    engine, messages = address.engine(), list[str]()
    name = str(address.url.database)

    def allow_connections(allowed: bool) -> None:
        postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}")

    def query() -> int:
        with address.errors(), engine.begin() as connection:
            return int(connection.execute(text("SELECT 7")).scalar_one())

    assert query() == 7
    allow_connections(False)
    backends = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    postgres.execute(backends)
    with ThreadPoolExecutor() as pool:
        found = pool.submit(Retrier(messages.append), query)
        time.sleep(0.5)
        allow_connections(True)
        assert found.result() == 7
    assert [": the database failed: " in message for message in messages] == [True, False]
    engine.dispose()


def test_transactions_are_timed_with_their_commits(studies: Studies) -> None:
    """Each counts once, even if it fails."""
    studies.create()
    database, seconds_taken = studies.open(), list[float]()
    database.watch(seconds_taken.append)
    engine = database.rdb.engine

    def slow_commit(connection: sqlalchemy.Connection) -> None:
        time.sleep(0.05)

    sqlalchemy.event.listen(engine, "commit", slow_commit)
    with engine.begin() as connection:
        connection.execute(text("UPDATE tuner_studies SET total = 9"))
        assert seconds_taken == []
    assert len(seconds_taken) == 1
    assert seconds_taken[0] >= 0.05
    with pytest.raises(sqlalchemy.exc.SQLAlchemyError), engine.begin() as connection:
        connection.execute(text("SELEKT 1"))
    assert len(seconds_taken) == 2


def test_watching_starts_the_timing_of_transactions(studies: Studies) -> None:
    store, seconds_taken = studies.create(), list[float]()
    store.remaining()
    store.database.watch(seconds_taken.append)
    store.remaining()
    found = len(seconds_taken)
    assert found > 0
    store.summary()  # Optuna's own sessions count too
    assert len(seconds_taken) > found
    assert all(seconds > 0 for seconds in seconds_taken)
