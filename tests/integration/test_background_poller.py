"""Study snapshots polled in the background, from silent databases and deleted studies, too."""

import socket
from collections.abc import Iterator

import pytest
import study_databases
from postgres import Postgres
from processes import wait_until
from psycopg import sql
from study_databases import Studies, claim, run

from tuner.study import snapshot
from tuner.study.connections import Address
from tuner.study.creation import create_study
from tuner.study.database import Database
from tuner.study.snapshot import BackgroundPoller
from tuner.study.verdict import Complete, Fail, Prune

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite
NONE = {"running": 0, "waiting": 0, "paused": 0, "complete": 0, "pruned": 0, "fail": 0}


def counts(poller: BackgroundPoller) -> tuple[int, dict[str, int]] | None:
    """The total and the number of trials in each state; None if the database does not answer."""
    found = poller.snapshot()
    return None if found is None else (found.total, found.counts)


@pytest.fixture
def no_caching(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MAX_AGE", 0.0)


@pytest.mark.usefixtures("no_caching")
def test_only_this_studys_trials_are_counted(studies: Studies) -> None:
    store = studies.create(trials=9)
    poller = BackgroundPoller(store)
    assert counts(poller) == (9, NONE)
    studies.create(name="other")
    other = studies.join("other")
    run(other, [50.0], Complete())
    session = studies.join()
    for end in (Complete(), Prune("bad"), Prune("worse"), Fail("broken")):
        run(session, [50.0], end)
    claim(session)
    store.raise_total(10)
    found = counts(poller)
    assert found == (10, NONE | {"complete": 1, "pruned": 2, "fail": 1, "running": 1})
    states = {state.lower(): n for state, n in store.summary().states.items()}
    assert found is not None
    assert {state: n for state, n in found[1].items() if n} == states


def test_counts_are_cached_for_a_while(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    store = studies.create()
    poller = BackgroundPoller(store)
    assert counts(poller) == (3, NONE)
    claim(studies.join())
    assert counts(poller) == (3, NONE)
    monkeypatch.setattr(snapshot, "MAX_AGE", 0.0)
    assert counts(poller) == (3, NONE | {"running": 1})


def test_no_connection_stays_open(postgres: Postgres) -> None:
    url = postgres.new_database()
    name = url.rpartition("/")[2]
    store = create_study(Database(url, create=True), study_databases.spec())
    store.database.rdb.engine.dispose()
    assert counts(BackgroundPoller(store)) == (3, NONE)
    with postgres.connect() as connection:
        query = sql.SQL("SELECT count(*) FROM pg_stat_activity WHERE datname = {}").format(name)
        wait_until(lambda: connection.execute(query).fetchone() == (0,), "the connection closes")


@pytest.mark.usefixtures("no_caching")
def test_polling_a_deleted_study_stops(studies: Studies) -> None:
    store = studies.create()
    poller = BackgroundPoller(store)
    assert counts(poller) is not None
    store.database.rdb.delete_study(store.study_id)
    assert counts(poller) is None


@pytest.fixture
def silent_port() -> Iterator[int]:
    """The port of a server that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.usefixtures("no_caching")
def test_polling_does_not_wait_for_a_silent_database(sqlite: Studies, silent_port: int) -> None:
    """However many threads poll, only one reads at a time."""
    poller = BackgroundPoller(sqlite.create())
    address = poller._address
    poller._address = Address(f"postgresql://u:p@127.0.0.1:{silent_port}/studies")
    assert counts(poller) is None
    reader = poller._reader
    assert counts(poller) is None
    assert poller._reader is reader
    poller._address = address
    wait_until(lambda: counts(poller) == (3, NONE), "the reader gives up on the silent server")
