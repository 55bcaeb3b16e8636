"""Ownership of trials: when a trial is taken over, from whom, and with which history."""

import functools
import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
import study_databases
from builders import DATASET, RANGES, epoch
from optuna.trial import TrialState
from study_databases import EXPIRE_LEASES, RANDOM, LostConnection, Studies, claim, report, run

from tuner.errors import LeaseLostError, StorageError
from tuner.study import leases
from tuner.study.claims import Claim, Idle
from tuner.study.confirmation import Wanted
from tuner.study.session import WorkerSession
from tuner.study.verdict import Complete, Prune

url, studies = study_databases.url, study_databases.studies


def test_a_takeover_keeps_the_trials_point_and_history(studies: Studies) -> None:
    store = studies.create(trials=1)
    lost = studies.join()
    first = claim(lost)
    report(lost, first, [30.0, None])
    assert studies.join().claim(DATASET) is Idle.WAIT
    studies.rows(EXPIRE_LEASES)
    session = studies.join()
    taken = claim(session)
    here = f"{socket.gethostname()}:{os.getpid()}"
    assert taken.lost is not None
    assert re.fullmatch(rf"{here}, last seen \d+ s ago", taken.lost)
    assert taken == first._replace(
        lost=taken.lost,
        token=2,
        history=(epoch(1, 30.0), epoch(2, None, finite=False)),
        predecessor=f"worker {lost.worker} on {socket.gethostname()}",
    )
    report(session, taken, [20.0])
    session.finish(taken, Complete())
    assert [found.fid for found in store.trial(0).reports] == [30.0, None, 20.0]
    assert studies.trials()[0].intermediate_values == {1: 30.0, 3: 20.0}
    tokens = studies.rows("SELECT worker, token FROM tuner_epochs ORDER BY epoch")
    assert tokens == [(lost.worker, 1), (lost.worker, 1), (session.worker, 2)]


def test_the_trial_that_expired_first_is_taken_first(studies: Studies) -> None:
    studies.create()
    for session in [studies.join() for _ in range(3)]:
        claim(session)
    studies.rows("UPDATE tuner_leases SET expires_at = 9 - trial_id")
    assert [claim(studies.join()).number for _ in range(3)] == [2, 1, 0]
    assert {token for _, _, _, token, *_ in studies.leases()} == {2}


def test_takeovers_count_lost_workers_since_the_last_epoch(studies: Studies) -> None:
    studies.create(RANDOM, max_takeovers=5)
    counts = []
    for leave in ("release", "lost", "lost", "report", "lost", "release"):
        session = studies.join()
        claimed = claim(session)
        counts.append(studies.leases()[0][5])
        if leave == "report":
            report(session, claimed, [30.0])
        if leave in ("release", "report"):
            session.release(claimed)
        else:
            studies.rows(EXPIRE_LEASES)
    assert claim(studies.join()).number == 0
    assert counts == [0, 0, 1, 2, 0, 1]
    assert studies.leases()[0][3:6] == (7, 1, 1)


def test_a_trial_that_keeps_losing_workers_fails(studies: Studies) -> None:
    store = studies.create(max_takeovers=2, trials=1)
    for _ in range(3):
        assert claim(studies.join()).number == 0
        studies.rows(EXPIRE_LEASES)
    assert claim(studies.join()).number == 1
    found = store.trial(0)
    reason = "lost its worker 3 times without getting an epoch further"
    assert (found.state, found.reason) == ("FAIL", reason)
    assert [status for _, status, *_ in studies.leases()] == ["done", "held"]


def test_a_released_trial_is_claimed_at_once(studies: Studies) -> None:
    studies.create()
    session = studies.join()
    claimed = claim(session)
    report(session, claimed, [30.0])
    session.release(claimed)
    assert studies.leases()[0][1:6] == ("free", None, 1, 1, 0)
    taken = claim(studies.join())
    assert (taken.number, taken.token, len(taken.history)) == (0, 2, 1)


def test_leaving_releases_all_trials(studies: Studies) -> None:
    studies.create()
    with WorkerSession(studies.store(), {}, studies.messages.append).joined() as session:
        claim(session)
    assert studies.leases()[0][1:6] == ("free", None, 1, 0, 0)
    assert studies.rows("SELECT count(*) FROM tuner_workers WHERE left_at IS NOT NULL") == [(1,)]
    session = WorkerSession(studies.store(), {}, print)
    with pytest.raises(ZeroDivisionError), session.joined():
        raise ZeroDivisionError(claim(session))
    assert studies.leases()[0][1:6] == ("free", None, 2, 0, 0)


def test_leaving_from_another_thread_releases_all_trials(studies: Studies) -> None:
    studies.create()
    session = studies.join()
    claim(session)
    thread = threading.Thread(target=session.leave_at_once)
    thread.start()
    thread.join()
    assert studies.leases()[0][1] == "free"


HOLD = """
import sys, time
from builders import DATASET, SHAPE, epoch
from tuner.study.database import Database
from tuner.study.session import WorkerSession
from tuner.study.store import StudyStore
with WorkerSession(StudyStore(Database(sys.argv[1]), "s"), {}, print).joined() as session:
    claim = session.claim(DATASET)
    session.report(claim, epoch(1, 33.0), [])
    print(claim.number, flush=True)
    time.sleep(60)
"""


def hold(url: str, machine: str) -> tuple[subprocess.Popen[str], int]:
    """A process on a machine that has claimed a trial, and the trial's number."""
    tests = str(Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, url],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": tests, "TUNER_MACHINE": machine},
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_trials_of_a_dead_local_process_are_taken_at_once(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies.create(trials=4)
    monkeypatch.setenv("TUNER_MACHINE", "here")
    here, mine = hold(studies.url, "here")
    there, others = hold(studies.url, "there")
    with here, there:
        session = studies.join()
        assert claim(session).number not in (mine, others)  # both are alive
        for process in (here, there):
            process.kill()
        here.wait()
        taken = claim(studies.join())
        assert (taken.number, taken.token) == (mine, 2)
        assert [found.fid for found in taken.history] == [33.0]
        there.wait()
    assert claim(studies.join()).number not in (mine, others)
    assert studies.join().claim(DATASET) is Idle.WAIT
    studies.rows(f"{EXPIRE_LEASES} WHERE trial_id = :id", id=others + 1)
    assert claim(studies.join()).number == others


def test_after_an_outage_no_worker_is_taken_for_lost(studies: Studies) -> None:
    """No worker could renew its lease during the outage. Released trials stay free to claim."""
    studies.create(trials=3)
    stopped, released = studies.join(), studies.join()
    first, second = claim(stopped), claim(released)
    released.release(second)
    studies.rows(f"{EXPIRE_LEASES} WHERE status = 'held'")
    session = studies.join()
    with LostConnection(session):
        assert run(session, [1.0], Complete()).number == second.number
    assert run(session, [1.0], Complete()).number == 2
    assert session.claim(DATASET) is Idle.WAIT
    assert [message.rpartition(": ")[2] for message in studies.messages] == [
        f"{study_databases.CONNECTION_ERROR}; trying again for up to 20 s",
        "recovered; continuing",
    ]
    assert session._retrier.last_trouble is not None
    session._retrier.last_trouble -= 60  # the length of a lease
    assert claim(session).number == first.number


def test_an_outage_noticed_only_by_the_heartbeat_counts_too(studies: Studies) -> None:
    studies.create()
    claim(studies.join())
    studies.rows(EXPIRE_LEASES)
    session = studies.join()
    engine = session._heart._engine
    session._heart._engine = optuna.storages.RDBStorage(
        "sqlite://", skip_compatibility_check=True, skip_table_creation=False
    ).engine  # without tuner's tables
    with pytest.raises(StorageError):
        session._heart.beat()
    session._heart._engine.dispose()
    session._heart._engine = engine
    assert claim(session).number == 1


def test_parameters_missing_after_a_takeover_are_suggested(studies: Studies) -> None:
    """The worker died between claiming the trial and storing its second parameter."""
    studies.create(RANGES + "[[baseline]]\nbeta1 = 0.25\nlearning_rate = 1e-3", trials=2)
    for number in range(2):
        assert claim(studies.join()).number == number
    studies.rows("DELETE FROM trial_params WHERE param_name = 'beta1'")
    studies.rows(EXPIRE_LEASES)
    baseline, drawn = sorted([claim(studies.join()), claim(studies.join())])
    assert baseline.params == {"beta1": 0.25, "learning_rate": 1e-3}
    assert set(drawn.params) == {"beta1", "learning_rate"}
    assert drawn.config.hyperparameters.generator_beta1 == drawn.params["beta1"]
    assert [trial.params for trial in studies.trials()] == [baseline.params, drawn.params]


def test_a_trial_begun_by_optuna_gets_a_lease(studies: Studies) -> None:
    """The program that began it may still be running it, or may have died."""
    studies.create(trials=2)
    study = studies.optuna_study()
    orphan = study.ask()
    orphan.suggest_float("beta1", 0.0, 0.9)
    session = studies.join()
    assert claim(session).number == 1
    assert len(studies.leases()) == 1
    other = studies.join()
    assert other.claim(DATASET) is Idle.WAIT
    assert other.claim(DATASET) is Idle.WAIT
    assert studies.leases()[0][1:6] == ("held", None, 0, 0, 0)
    [(left,)] = studies.rows(
        "SELECT l.expires_at - w.joined_at FROM tuner_leases l, tuner_workers w "
        "WHERE l.worker IS NULL ORDER BY w.joined_at DESC LIMIT 1"
    )
    assert left == pytest.approx(leases.ORPHAN_SECONDS, abs=20)
    studies.rows(f"{EXPIRE_LEASES} WHERE worker IS NULL")
    taken = claim(other)
    assert (taken.number, taken.token) == (0, 1)
    assert taken.params["beta1"] == orphan.params["beta1"]
    other.finish(taken, Prune("bad"))
    assert studies.trials()[0].state == TrialState.PRUNED


def test_a_running_trial_whose_lease_is_gone_keeps_its_reports(studies: Studies) -> None:
    """For example, after a database was restored table by table."""
    studies.create(trials=1)
    lost, session = studies.join(), studies.join()
    claimed = claim(lost)
    report(lost, claimed, [30.0, 20.0])
    studies.rows("DELETE FROM tuner_leases")
    assert session.claim(DATASET) is Idle.WAIT
    assert studies.leases()[0][1:6] == ("held", None, 0, 2, 0)
    studies.rows(EXPIRE_LEASES)
    taken = claim(session)
    assert (taken.number, taken.token) == (0, 1)
    assert [found.fid for found in taken.history] == [30.0, 20.0]
    with pytest.raises(LeaseLostError):
        lost.report(claimed, epoch(3, 1.0), list(taken.history))


def test_a_worker_leaves_the_trials_of_other_studies_alone(studies: Studies) -> None:
    studies.create(name="other", lease_seconds=600)
    claim(studies.join("other"))
    studies.optuna_study("other").ask()
    before = studies.rows("SELECT * FROM tuner_leases")
    studies.create(trials=1, lease_seconds=1)
    claim(studies.join())
    assert studies.join().claim(DATASET) is Idle.WAIT
    others = "SELECT * FROM tuner_leases WHERE study_id = :id"
    assert studies.rows(others, id=studies.store("other").study_id) == before


@pytest.mark.parametrize(
    "change",
    [
        "expires_at = 1e300",
        "expires_at = 9e9",
        "status = 'x', expires_at = 9e9",
        "status = 'done', expires_at = 9e9",
        "takeovers = -7, expires_at = 0",
    ],
)
def test_a_lease_with_impossible_values_still_ends(studies: Studies, change: str) -> None:
    studies.create(trials=1)
    report(session := studies.join(), claim(session), [30.0])
    studies.rows(f"UPDATE tuner_leases SET {change}")
    other = studies.join()
    taken = other.claim(DATASET)  # which corrects the lease of an ended trial
    if taken is Idle.WAIT:
        assert studies.leases()[0][1] == "free"
        taken = other.claim(DATASET)
    assert isinstance(taken, Claim)
    assert (taken.number, [e.epoch for e in taken.history]) == (0, [1])
    with pytest.raises(LeaseLostError):
        session.report(taken, epoch(2, 20.0), [epoch(1, 30.0)])


def test_an_orphan_that_its_program_ends_is_left_alone(studies: Studies) -> None:
    studies.create(trials=1)
    orphan = studies.optuna_study().ask()
    session = studies.join()
    assert session.claim(DATASET) is Idle.WAIT
    studies.optuna_study().tell(orphan.number, 5.0)
    studies.rows(EXPIRE_LEASES)
    assert session.claim(DATASET) is Idle.ENDED
    assert studies.trials()[0].value == 5.0


def test_concurrent_workers_lease_an_orphan_once(studies: Studies) -> None:
    store = studies.create(trials=1)
    studies.optuna_study().ask()
    session, other = studies.join(), studies.open().rdb
    with ThreadPoolExecutor() as pool:
        with other.transaction() as inner:
            leases.lease_orphans(inner, store.key)
            found = pool.submit(session._persist, session._trials.idle)  # the last step of claim
            wait_for_a_blocked_connection(studies)
        assert found.result() is Idle.WAIT
    assert len(studies.leases()) == 1


def wait_for_a_blocked_connection(studies: Studies) -> None:
    if studies.url.startswith("sqlite"):
        time.sleep(0.3)  # SQLite does not show waiting connections
        return
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    end = time.monotonic() + 20
    while not studies.rows(f"{waiting} AND datname = current_database()"):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_trial_lost_during_sampling_is_left_to_its_owner(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker was suspended during sampling until another worker took the trial."""
    studies.create()
    session, other = studies.join(), studies.join()
    sampler = type(session._search.study.sampler)
    draw = sampler.sample_independent

    def draw_after_losing_the_trial(*args: Any) -> Any:
        monkeypatch.setattr(sampler, "sample_independent", draw)
        studies.rows(EXPIRE_LEASES)
        assert claim(other).number == 0
        return draw(*args)

    monkeypatch.setattr(sampler, "sample_independent", draw_after_losing_the_trial)
    assert claim(session).number == 1
    assert [worker for _, _, worker, *_ in studies.leases()] == [other.worker, session.worker]


@pytest.mark.parametrize("url", ["postgres"], indirect=True)  # SQLite locks all rows at once
def test_a_trial_begins_with_the_locks_of_optunas_enqueue(studies: Studies) -> None:
    """In the same order, since another one could deadlock."""
    studies.create()
    session = studies.join()
    original = claim(session)
    rdb, wanted = session.store.database.rdb, Wanted(original.number, 0, 0)
    confirm = functools.partial(rdb.begin_confirmation, studies.trials()[0], wanted)
    for begin in (rdb.begin_trial, confirm):
        with ThreadPoolExecutor() as pool:
            with studies.engine.begin() as enqueue:
                enqueue.execute(sqlalchemy.text("SELECT 1 FROM studies FOR UPDATE"))
                begun = pool.submit(begin)
                wait_for_a_blocked_connection(studies)
                studies.rows("SELECT 1 FROM tuner_studies FOR UPDATE NOWAIT")
            assert begun.result() is not None


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_trial_that_another_worker_is_taking_is_not_waited_for(studies: Studies) -> None:
    store = studies.create(trials=2)
    for _ in range(2):
        claim(studies.join())
    studies.rows(EXPIRE_LEASES)
    session, other = studies.join(), studies.join()
    lease = leases.Lease(other.worker, 0, 60.0)
    with other.store.database.rdb.transaction() as transaction:
        taken = leases.take(transaction, store.key, lease, [], 1e12)
        assert taken is not None
        assert claim(session).trial_id != taken.trial_id


def test_concurrent_workers_take_different_trials(studies: Studies) -> None:
    """On Postgres, each skips rows that another has locked."""
    studies.create(trials=4)
    for _ in range(4):
        claim(studies.join())
    studies.rows(EXPIRE_LEASES)
    sessions = [studies.join() for _ in range(4)]
    found: list[int] = []
    ready = threading.Barrier(4)

    def take(session: WorkerSession) -> None:
        ready.wait()
        found.append(claim(session).number)

    threads = [threading.Thread(target=take, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1, 2, 3]
    assert all(lease[1] == "held" and lease[3] == 2 for lease in studies.leases())
