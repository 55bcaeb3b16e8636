"""Jumps of the database's clock, forward and back, while workers run."""

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
import study_databases
from builders import DATASET
from study_databases import RANDOM, Studies, claim, eventually, run

from tuner.dashboard import publishing
from tuner.dashboard.publishing import refresh_plots
from tuner.study.claims import Claim, Idle
from tuner.study.dashboard_attributes import published
from tuner.study.session import WorkerSession
from tuner.study.verdict import Prune

url, studies = study_databases.url, study_databases.studies

HOURS = 7200.0
BOTH_WAYS = pytest.mark.parametrize("hours", [HOURS, -HOURS], ids=["forward", "back"])
CLOCK = """
CREATE TABLE clock (ahead float8);
INSERT INTO clock VALUES (0);
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.clock_timestamp() + make_interval(secs => ahead) FROM clock';
ALTER DATABASE {} SET search_path = public, pg_catalog;
"""


class Clock:
    """The database's clock, replaced by a function that shadows the built-in one."""

    def __init__(self, studies: Studies) -> None:
        self._studies, self._ahead = studies, 0.0
        self._sqlite = studies.url.startswith("sqlite")
        if not self._sqlite:
            name = str(sqlalchemy.make_url(studies.url).database)
            for statement in CLOCK.format(name).split(";\n"):
                studies.rows(statement or "SELECT 1")
            studies.engine.dispose()  # its connections still have the old search path

    def set(self, ahead: float) -> None:
        """Set the clock, in seconds ahead of the real one."""
        self._ahead = ahead
        if not self._sqlite:
            self._studies.rows("UPDATE clock SET ahead = :ahead", ahead=ahead)

    def replace(self, connection: Any, record: Any) -> None:
        """Replace a SQLite connection's clock."""
        if isinstance(connection, sqlite3.Connection):
            connection.create_function("julianday", 1, self._julian_day)

    def _julian_day(self, _: object) -> float:
        return 2440587.5 + (time.time() + self._ahead) / 86400


@pytest.fixture
def clock(studies: Studies) -> Iterator[Clock]:
    found = Clock(studies)
    arguments = sqlalchemy.Pool, "connect", found.replace
    sqlalchemy.event.listen(*arguments)
    with contextlib.closing(studies):  # its workers leave while the clock is replaced
        yield found
    sqlalchemy.event.remove(*arguments)


def stop_heartbeat(session: WorkerSession) -> None:
    session._heart.stop()


@BOTH_WAYS
def test_a_stop_request_reaches_a_worker(studies: Studies, clock: Clock, hours: float) -> None:
    store = studies.create(lease_seconds=600)
    session = studies.join()
    clock.set(hours)
    session._heart.beat()
    assert not session.stop_requested
    store.request_stop()
    session._heart.beat()
    assert session.stop_requested


@BOTH_WAYS
def test_a_worker_that_joins_after_a_stop_request_runs(
    studies: Studies, clock: Clock, hours: float
) -> None:
    studies.create(lease_seconds=600).request_stop()
    clock.set(hours)
    session = studies.join()
    session._heart.beat()
    assert not session.stop_requested


def test_a_forward_jump_expires_no_lease(studies: Studies, clock: Clock) -> None:
    studies.create(trials=1, lease_seconds=600)  # so long that only the test's heartbeats run
    owner, other = studies.join(), studies.join()
    claim(owner)
    clock.set(HOURS)
    assert other.claim(DATASET) is Idle.WAIT
    other._heart.beat()  # the other worker notices the jump
    assert other.claim(DATASET) is Idle.WAIT
    owner._heart.beat()
    assert owner.stats().renewals == {"renewed": 1, "refused": 0, "failed": 0}


@BOTH_WAYS
def test_a_dead_workers_lease_still_expires(studies: Studies, clock: Clock, hours: float) -> None:
    studies.create(trials=1, lease_seconds=1)
    owner, other = studies.join(), studies.join()
    claimed = claim(owner)
    stop_heartbeat(owner)
    clock.set(hours)
    began = time.monotonic()
    while (taken := other.claim(DATASET)) is Idle.WAIT:
        assert time.monotonic() < began + 20
    assert isinstance(taken, Claim)
    assert taken.trial_id == claimed.trial_id
    assert time.monotonic() - began > 0.9


@BOTH_WAYS
def test_a_living_worker_keeps_its_trial_and_the_right_to_prepare(
    studies: Studies, clock: Clock, hours: float
) -> None:
    studies.create(trials=1, lease_seconds=4)  # more than a busy machine delays a renewal
    owner, other = studies.join(), studies.join()
    claim(owner)
    assert owner.may_prepare()
    clock.set(hours)
    assert eventually(lambda: owner.stats().renewals["renewed"] > 2)  # renewals succeed
    end = time.monotonic() + 5
    while time.monotonic() < end:
        assert other.claim(DATASET) is Idle.WAIT
        assert not other.may_prepare()
    assert owner.stats().renewals["refused"] == 0


@BOTH_WAYS
def test_a_dead_worker_does_not_block_preparing_for_hours(
    studies: Studies, clock: Clock, hours: float
) -> None:
    studies.create(lease_seconds=1)
    session, other = studies.join(), studies.join()
    assert session.may_prepare()
    stop_heartbeat(session)
    clock.set(hours)
    assert eventually(other.may_prepare)


@BOTH_WAYS
def test_a_dead_worker_is_not_shown_as_alive(studies: Studies, clock: Clock, hours: float) -> None:
    store = studies.create(lease_seconds=30)
    living, dead = studies.join(), studies.join()
    for session in (living, dead):
        claim(session)  # owners are listed however long they have been silent
    clock.set(hours)
    living._heart.beat()
    alive = {worker.worker: worker.alive for worker in store.workers()}
    assert alive[living.worker]
    assert not alive[dead.worker]  # it is silent, although its process (this one) is alive


@BOTH_WAYS
def test_plots_are_still_refreshed(
    studies: Studies, clock: Clock, hours: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "FIRST", 1e-3)
    store = studies.create(RANDOM)
    refresh_plots(store)
    run(studies.join(), [50.0], Prune("bad"))
    clock.set(hours)
    refresh_plots(store)
    shown = published(store)
    assert shown is not None
    assert shown.events > 0
