"""A study's trials counted from another thread, whatever the database is at."""

import socket
from collections.abc import Iterator

import pytest
import workplace
from postgres import Postgres
from processes import wait_until
from psycopg import sql
from workplace import Studies, claim, run

from tuner.study import census
from tuner.study.census import Census
from tuner.study.connections import Address
from tuner.study.creation import create_study
from tuner.study.database import Database
from tuner.study.verdict import Complete, Fail, Prune

url, studies, sqlite = workplace.url, workplace.studies, workplace.sqlite
NONE = {"running": 0, "waiting": 0, "complete": 0, "pruned": 0, "fail": 0}


@pytest.fixture
def old_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "FRESH", 0.0)


@pytest.mark.usefixtures("old_at_once")
def test_every_state_is_counted_and_no_other_study_s_trials_are(studies: Studies) -> None:
    store = studies.make(trials=9)
    counted = Census(store)
    assert counted.count() == (9, NONE)
    studies.make(name="other")
    other = studies.join("other")
    run(other, [50.0], Complete())
    member = studies.join()
    for end in (Complete(), Prune("bad"), Prune("worse"), Fail("broken")):
        run(member, [50.0], end)
    claim(member)
    store.raise_total(10)
    found = counted.count()
    assert found == (10, NONE | {"complete": 1, "pruned": 2, "fail": 1, "running": 1})
    states = {state.lower(): n for state, n in store.summary().states.items()}
    assert found is not None
    assert {state: n for state, n in found.states.items() if n} == states


def test_a_count_serves_for_a_while(studies: Studies, monkeypatch: pytest.MonkeyPatch) -> None:
    store = studies.make()
    counted = Census(store)
    assert counted.count() == (3, NONE)
    claim(studies.join())
    assert counted.count() == (3, NONE)
    monkeypatch.setattr(census, "FRESH", 0.0)
    assert counted.count() == (3, NONE | {"running": 1})


def test_no_connection_stays_open(postgres: Postgres) -> None:
    url = postgres.new_database()
    name = url.rpartition("/")[2]
    store = create_study(Database(url, create=True), workplace.spec())
    store.database.rdb.engine.dispose()
    assert Census(store).count() == (3, NONE)
    with postgres.connect() as line:
        query = sql.SQL("SELECT count(*) FROM pg_stat_activity WHERE datname = {}").format(name)
        wait_until(lambda: line.execute(query).fetchone() == (0,), "it hangs up")


@pytest.mark.usefixtures("old_at_once")
def test_a_study_that_is_gone_is_not_counted(studies: Studies) -> None:
    store = studies.make()
    counted = Census(store)
    assert counted.count() is not None
    store.database.rdb.delete_study(store.study_id)
    assert counted.count() is None


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.usefixtures("old_at_once")
def test_a_database_that_says_nothing_is_not_waited_for(sqlite: Studies, silent: int) -> None:
    """And asked by one thread at a time, however many scrape."""
    counted = Census(sqlite.make())
    near = counted._address
    counted._address = Address(f"postgresql://u:p@127.0.0.1:{silent}/studies")
    assert counted.count() is None
    reader = counted._reader
    assert counted.count() is None
    assert counted._reader is reader
    counted._address = near
    wait_until(lambda: counted.count() == (3, NONE), "it has given up on that")
