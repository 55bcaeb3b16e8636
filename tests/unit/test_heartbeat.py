"""The thread that shows a worker's life: it renews what is owned, and hears that it is to stop."""

import time
from collections.abc import Callable

import pytest
import workplace
from builders import PREMISES
from workplace import Studies, claim

from tuner.errors import StorageError
from tuner.study.connections import Address
from tuner.study.membership import Idle, Vitals
from tuner.study.verdict import Prune

url, studies = workplace.url, workplace.studies


def soon(found: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether it comes true, within ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found():
            return True
        time.sleep(0.02)
    return False


def expiry(studies: Studies) -> float:
    [(found,)] = studies.rows("SELECT expires_at FROM tuner_leases")
    return float(found)


def test_a_worker_that_trains_long_keeps_its_trial(studies: Studies) -> None:
    """An epoch longer than the lease: nothing is written meanwhile, but by the heartbeat."""
    studies.make(lease_seconds=2, trials=1)
    member = studies.join()
    claimed = claim(member)
    first = expiry(studies)
    assert soon(lambda: expiry(studies) > first + 1)
    assert studies.join().claim(PREMISES) is Idle.WAIT
    member.finish(claimed, Prune("bad"))
    ended = expiry(studies)
    seen = studies.rows("SELECT max(seen_at) FROM tuner_workers")
    assert soon(lambda: studies.rows("SELECT min(seen_at) FROM tuner_workers") > seen)
    assert expiry(studies) == ended


def test_it_hears_that_it_is_to_stop(studies: Studies) -> None:
    store = studies.make(lease_seconds=1)
    member = studies.join()
    assert not member.stop_requested
    store.request_stop()
    assert soon(lambda: member.stop_requested)


def test_it_keeps_the_right_to_prepare_while_it_prepares(studies: Studies) -> None:
    studies.make(lease_seconds=2)
    member, other = studies.join(), studies.join()
    assert member.may_prepare()
    [(until,)] = studies.rows("SELECT preparer_until FROM tuner_studies")
    later = "SELECT 1 FROM tuner_studies WHERE preparer_until > :until"
    assert soon(lambda: bool(studies.rows(later, until=until + 1)))
    assert not other.may_prepare()
    assert member.may_prepare()
    member.prepared()
    assert other.may_prepare()
    assert not member.may_prepare()


def test_who_dies_while_it_prepares_is_replaced(studies: Studies) -> None:
    studies.make(lease_seconds=1)
    member, other = studies.join(), studies.join()
    assert member.may_prepare()
    member._heart.stop()
    assert soon(other.may_prepare)
    member.prepared()  # too late: the right is another's
    assert not member.may_prepare()


def test_it_goes_on_after_trouble_and_remembers_it(studies: Studies) -> None:
    studies.make(lease_seconds=1)
    member = studies.join()
    heart = member._heart
    assert heart.last_trouble is None
    healthy, heart._engine = heart._engine, Address("sqlite:////nowhere/s.db").engine()
    assert soon(lambda: heart.last_trouble is not None)
    with pytest.raises(StorageError):
        heart.beat()
    heart._engine = healthy
    [(seen,)] = studies.rows("SELECT seen_at FROM tuner_workers")
    assert soon(lambda: studies.rows("SELECT seen_at FROM tuner_workers") > [(seen,)])


def test_it_keeps_count_of_what_came_of_its_leases(studies: Studies) -> None:
    studies.make(lease_seconds=600)  # nobody but this test beats
    member = studies.join()
    heart = member._heart
    assert member.vitals() == Vitals(0, {"renewed": 0, "refused": 0, "failed": 0}, None)
    heart.beat()  # it owns nothing yet
    began = time.time()
    claim(member)
    heart.beat()
    studies.rows("UPDATE tuner_leases SET token = 9")
    heart.beat()
    retries, renewals, last = member.vitals()
    assert (retries, renewals) == (0, {"renewed": 1, "refused": 1, "failed": 0})
    assert last is not None
    assert last >= began
    healthy, heart._engine = heart._engine, Address("sqlite:////nowhere/s.db").engine()
    with pytest.raises(StorageError):
        heart.beat()
    heart._engine = healthy
    assert member.vitals() == Vitals(0, {"renewed": 1, "refused": 1, "failed": 1}, last)


def test_it_stops_at_once(studies: Studies) -> None:
    studies.make()
    member = studies.join()
    began = time.monotonic()
    member._heart.stop()
    assert time.monotonic() - began < 5
    assert not member._heart._thread.is_alive()


def test_a_worker_whose_row_is_gone_lives_on(studies: Studies) -> None:
    """Somebody tidied up."""
    studies.make()
    member = studies.join()
    claimed = claim(member)
    studies.rows("DELETE FROM tuner_workers")
    member._heart.beat()
    member.finish(claimed, Prune("bad"))
