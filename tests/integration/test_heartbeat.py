"""The heartbeat thread: lease renewals, stop requests, the right to prepare, errors."""

import time

import pytest
import study_databases
from builders import DATASET
from study_databases import Studies, claim, eventually

from tuner.errors import StorageError
from tuner.phases import Phase
from tuner.study.claims import Idle
from tuner.study.connections import Address
from tuner.study.presence import WorkerStats
from tuner.study.steering import delete
from tuner.study.verdict import Prune

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite


def expiry(studies: Studies) -> float:
    [(found,)] = studies.rows("SELECT expires_at FROM tuner_leases")
    return float(found)


def test_a_worker_that_trains_long_keeps_its_trial(studies: Studies) -> None:
    """During an epoch longer than the lease, only the heartbeat writes."""
    studies.create(lease_seconds=2, trials=1)
    session = studies.join()
    claimed = claim(session)
    first = expiry(studies)
    assert eventually(lambda: expiry(studies) > first + 1)
    assert studies.join().claim(DATASET) is Idle.WAIT
    session.finish(claimed, Prune("bad"))
    ended = expiry(studies)
    seen = studies.rows("SELECT max(seen_at) FROM tuner_workers")
    assert eventually(lambda: studies.rows("SELECT min(seen_at) FROM tuner_workers") > seen)
    assert expiry(studies) == ended


def test_the_heartbeat_reads_stop_requests(studies: Studies) -> None:
    store = studies.create(lease_seconds=1)
    session = studies.join()
    assert not session.stop_requested
    store.request_stop()
    assert eventually(lambda: session.stop_requested)


def test_the_heartbeat_renews_the_right_to_prepare(studies: Studies) -> None:
    studies.create(lease_seconds=2)
    session, other = studies.join(), studies.join()
    assert session.may_prepare()
    [(until,)] = studies.rows("SELECT preparer_until FROM tuner_studies")
    later = "SELECT 1 FROM tuner_studies WHERE preparer_until > :until"
    assert eventually(lambda: bool(studies.rows(later, until=until + 1)))
    assert not other.may_prepare()
    assert session.may_prepare()
    session.prepared()
    assert other.may_prepare()
    assert not session.may_prepare()


def test_a_worker_that_dies_while_preparing_is_replaced(studies: Studies) -> None:
    studies.create(lease_seconds=1)
    session, other = studies.join(), studies.join()
    assert session.may_prepare()
    session._heart.stop()
    assert eventually(other.may_prepare)
    session.prepared()  # too late: the other worker prepares
    assert not session.may_prepare()


def test_a_preparer_that_died_locally_is_replaced_at_once(studies: Studies) -> None:
    studies.create(lease_seconds=600)
    session, other = studies.join(), studies.join()
    assert session.may_prepare()
    assert not other.may_prepare()
    studies.rows("UPDATE tuner_workers SET pid_since = '1' WHERE worker = :w", w=session.worker)
    assert other.may_prepare()
    assert not session.may_prepare()


def test_a_worker_that_leaves_at_once_lets_another_prepare(studies: Studies) -> None:
    studies.create(lease_seconds=600)
    session, other = studies.join(), studies.join()
    assert session.may_prepare()
    session.leave_at_once()
    assert other.may_prepare()


def test_the_heartbeat_continues_after_an_error_and_remembers_it(studies: Studies) -> None:
    studies.create(lease_seconds=1)
    session = studies.join()
    heart = session._heart
    assert heart.last_trouble is None
    engine, heart._engine = heart._engine, Address("sqlite:////nowhere/s.db").engine()
    assert eventually(lambda: heart.last_trouble is not None)
    with pytest.raises(StorageError):
        heart.beat()
    heart._engine = engine
    [(seen,)] = studies.rows("SELECT seen_at FROM tuner_workers")
    assert eventually(lambda: studies.rows("SELECT seen_at FROM tuner_workers") > [(seen,)])


def test_the_heartbeat_counts_renewals(studies: Studies) -> None:
    studies.create(lease_seconds=600)  # so long that only the test's heartbeats run
    session = studies.join()
    heart = session._heart
    assert session.stats() == WorkerStats(0, {"renewed": 0, "refused": 0, "failed": 0}, None)
    heart.beat()  # the worker owns no trial yet
    began = time.time()
    claim(session)
    heart.beat()
    studies.rows("UPDATE tuner_leases SET token = 9")
    heart.beat()
    retries, renewals, last = session.stats()
    assert (retries, renewals) == (0, {"renewed": 1, "refused": 1, "failed": 0})
    assert last is not None
    assert last >= began
    engine, heart._engine = heart._engine, Address("sqlite:////nowhere/s.db").engine()
    with pytest.raises(StorageError):
        heart.beat()
    heart._engine = engine
    assert session.stats() == WorkerStats(0, {"renewed": 1, "refused": 1, "failed": 1}, last)


def test_the_heartbeat_stops_at_once(studies: Studies) -> None:
    studies.create()
    session = studies.join()
    began = time.monotonic()
    session._heart.stop()
    assert time.monotonic() - began < 5
    assert not session._heart._thread.is_alive()


def test_a_worker_whose_row_was_deleted_joins_again(studies: Studies) -> None:
    """The database was restored from an older dump."""
    store = studies.create(lease_seconds=600)
    session = studies.join()
    claimed = claim(session)
    store.request_stop()  # lost with the row
    studies.rows("DELETE FROM tuner_workers")
    session._heart.beat()
    assert studies.rows("SELECT worker FROM tuner_workers") == [(session.worker,)]
    session._heart.beat()
    assert not session.stop_requested
    store.request_stop()
    session._heart.beat()
    assert session.stop_requested
    session.finish(claimed, Prune("bad"))


def test_a_worker_does_not_join_the_study_that_replaced_its_own(sqlite: Studies) -> None:
    """SQLite reuses the id of the deleted study."""
    sqlite.create(lease_seconds=600)
    session = sqlite.join()
    delete(sqlite.store())
    sqlite.create(lease_seconds=600).request_stop()
    with pytest.raises(StorageError, match="gone: the study"):
        session._heart.beat()
    assert sqlite.rows("SELECT * FROM tuner_workers") == []
    assert not session.stop_requested


def test_other_processes_see_what_a_worker_has_been_doing_for_a_while(studies: Studies) -> None:
    """Between two beats, which are minutes apart here."""
    store = studies.create(lease_seconds=600)
    session = studies.join()
    claim(session)
    first = expiry(studies)

    def doing() -> str | None:
        return store.workers()[0].doing

    assert eventually(lambda: doing() is None)  # claiming may have lasted
    with session.clock.phase(Phase.FILES, "loading the checkpoint"):
        began = time.monotonic()
        assert eventually(lambda: doing() == "loading the checkpoint")
        seconds = store.workers()[0].doing_seconds
        assert seconds is not None
        assert 0 < seconds < time.monotonic() - began + 1
        studies.rows("UPDATE tuner_workers SET seen_at = seen_at - 1000")
        assert doing() is None  # it may be lost
    assert expiry(studies) == first  # a small write, not a beat
    session._heart.beat()
    assert doing() is None  # nothing lasts any more
    assert store.workers()[0].trial == 0
