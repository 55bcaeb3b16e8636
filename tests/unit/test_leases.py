"""Who owns a trial when its worker is gone: who may take it over, when, and what comes along."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
import workplace
from builders import PREMISES, RANGES, epoch
from optuna.trial import TrialState
from workplace import LONG_AGO, RANDOM, Cut, Studies, claim, report, run

from tuner.errors import StorageError
from tuner.study import leases
from tuner.study.membership import Idle, Membership
from tuner.study.verdict import Complete, Prune

url, studies = workplace.url, workplace.studies


def test_a_trial_that_is_taken_over_stays_itself(studies: Studies) -> None:
    store = studies.make(trials=1)
    lost = studies.join()
    first = claim(lost)
    report(lost, first, [30.0, None])
    assert studies.join().claim(PREMISES) is Idle.WAIT
    studies.rows(LONG_AGO)
    member = studies.join()
    taken = claim(member)
    assert taken == first._replace(token=2, history=(epoch(1, 30.0), _lost_epoch(2)))
    report(member, taken, [20.0])
    member.finish(taken, Complete())
    assert [found.fid for found in store.trial(0).reports] == [30.0, None, 20.0]
    assert studies.trials()[0].intermediate_values == {1: 30.0, 3: 20.0}
    tokens = studies.rows("SELECT worker, token FROM tuner_epochs ORDER BY epoch")
    assert tokens == [(lost.worker, 1), (lost.worker, 1), (member.worker, 2)]


def _lost_epoch(number: int) -> Any:
    return epoch(number, None, finite=False)


def test_the_one_that_waited_longest_is_taken_first(studies: Studies) -> None:
    studies.make()
    for member in [studies.join() for _ in range(3)]:
        claim(member)
    studies.rows("UPDATE tuner_leases SET expires_at = 9 - trial_id")
    assert [claim(studies.join()).number for _ in range(3)] == [2, 1, 0]
    assert {token for _, _, _, token, *_ in studies.leases()} == {2}


def test_only_lost_workers_are_counted_and_an_epoch_starts_anew(studies: Studies) -> None:
    studies.make(RANDOM, max_takeovers=5)
    counts = []
    for leave in ("release", "get lost", "get lost", "report", "get lost", "release"):
        member = studies.join()
        claimed = claim(member)
        counts.append(studies.leases()[0][5])
        if leave == "report":
            report(member, claimed, [30.0])
        if leave in ("release", "report"):
            member.release(claimed)
        else:
            studies.rows(LONG_AGO)
    assert claim(studies.join()).number == 0
    assert counts == [0, 0, 1, 2, 0, 1]
    assert studies.leases()[0][3:6] == (7, 1, 1)


def test_a_trial_that_loses_worker_after_worker_fails(studies: Studies) -> None:
    store = studies.make(max_takeovers=2, trials=1)
    for _ in range(3):
        assert claim(studies.join()).number == 0
        studies.rows(LONG_AGO)
    assert claim(studies.join()).number == 1
    found = store.trial(0)
    reason = "lost its worker 3 times without getting an epoch further"
    assert (found.state, found.reason) == ("FAIL", reason)
    assert [status for _, status, *_ in studies.leases()] == ["done", "held"]


def test_what_is_given_back_is_taken_at_once(studies: Studies) -> None:
    studies.make()
    member = studies.join()
    claimed = claim(member)
    report(member, claimed, [30.0])
    member.release(claimed)
    assert studies.leases()[0][1:6] == ("free", None, 1, 1, 0)
    taken = claim(studies.join())
    assert (taken.number, taken.token, len(taken.history)) == (0, 2, 1)


def test_who_leaves_gives_back_all(studies: Studies) -> None:
    studies.make()
    with Membership(studies.store(), {}, studies.said.append) as member:
        claim(member)
    assert studies.leases()[0][1:6] == ("free", None, 1, 0, 0)
    assert studies.rows("SELECT count(*) FROM tuner_workers WHERE left_at IS NOT NULL") == [(1,)]
    member = Membership(studies.store(), {}, print)
    with pytest.raises(ZeroDivisionError), member:
        raise ZeroDivisionError(claim(member))
    assert studies.leases()[0][1:6] == ("free", None, 2, 0, 0)


def test_leaving_at_once_from_another_thread_gives_back_all(studies: Studies) -> None:
    studies.make()
    member = studies.join()
    claim(member)
    thread = threading.Thread(target=member.leave_at_once)
    thread.start()
    thread.join()
    assert studies.leases()[0][1] == "free"


HOLD = """
import sys, time
from builders import PREMISES, SHAPE, epoch
from tuner.study.database import Database
from tuner.study.membership import Membership
from tuner.study.store import StudyStore
with Membership(StudyStore(Database(sys.argv[1]), "s"), {}, print) as member:
    claim = member.claim(PREMISES)
    member.report(claim, epoch(1, 33.0), [])
    print(claim.number, flush=True)
    time.sleep(60)
"""


def hold(url: str, machine: str) -> tuple[subprocess.Popen[str], int]:
    """A process on that machine that has claimed a trial; and the trial's number."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, url],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths, "TUNER_MACHINE": machine},
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_a_dead_process_of_this_machine_is_not_waited_for(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies.make(trials=4)
    monkeypatch.setenv("TUNER_MACHINE", "here")
    here, mine = hold(studies.url, "here")
    there, others = hold(studies.url, "there")
    with here, there:
        member = studies.join()
        assert claim(member).number not in (mine, others)  # both are alive
        for process in (here, there):
            process.kill()
        here.wait()
        taken = claim(studies.join())
        assert (taken.number, taken.token) == (mine, 2)
        assert [found.fid for found in taken.history] == [33.0]
        there.wait()
    assert claim(studies.join()).number not in (mine, others)
    assert studies.join().claim(PREMISES) is Idle.WAIT
    studies.rows(f"{LONG_AGO} WHERE trial_id = :id", id=others + 1)
    assert claim(studies.join()).number == others


def test_after_trouble_with_the_database_nobody_is_taken_for_lost(studies: Studies) -> None:
    """Nobody could have renewed a lease then. What was given back is free all the same."""
    studies.make(trials=3)
    stopped, released = studies.join(), studies.join()
    first, second = claim(stopped), claim(released)
    released.release(second)
    studies.rows(f"{LONG_AGO} WHERE status = 'held'")
    member = studies.join()
    with Cut(member):
        assert run(member, [1.0], Complete()).number == second.number
    assert run(member, [1.0], Complete()).number == 2
    assert member.claim(PREMISES) is Idle.WAIT
    assert [word.rpartition(": ")[2] for word in studies.said] == [
        f"{workplace.BROKEN}; trying again for up to 20 s",
        "it answers again",
    ]
    assert member._patience.last_trouble is not None
    member._patience.last_trouble -= 60  # the time that a lease runs
    assert claim(member).number == first.number


def test_trouble_of_the_heartbeat_alone_counts_too(studies: Studies) -> None:
    studies.make()
    claim(studies.join())
    studies.rows(LONG_AGO)
    member = studies.join()
    healthy = member._heart._engine
    member._heart._engine = optuna.storages.RDBStorage(
        "sqlite://", skip_compatibility_check=True, skip_table_creation=False
    ).engine  # which has none of our tables
    with pytest.raises(StorageError):
        member._heart.beat()
    member._heart._engine.dispose()
    member._heart._engine = healthy
    assert claim(member).number == 1


def test_parameters_that_a_lost_worker_did_not_get_to_are_suggested(studies: Studies) -> None:
    """It died between asking for the trial and its second parameter."""
    studies.make(RANGES + "[[baseline]]\nbeta1 = 0.25\nlearning_rate = 1e-3", trials=2)
    for number in range(2):
        assert claim(studies.join()).number == number
    studies.rows("DELETE FROM trial_params WHERE param_name = 'beta1'")
    studies.rows(LONG_AGO)
    baseline, drawn = sorted([claim(studies.join()), claim(studies.join())])
    assert baseline.params == {"beta1": 0.25, "learning_rate": 1e-3}
    assert set(drawn.params) == {"beta1", "learning_rate"}
    assert drawn.config.hyperparameters.generator_beta1 == drawn.params["beta1"]
    assert [trial.params for trial in studies.trials()] == [baseline.params, drawn.params]


def test_a_trial_of_plain_optunas_gets_a_lease_and_time(studies: Studies) -> None:
    """Another program began it; that may be at work on it, or dead."""
    studies.make(trials=2)
    study = studies.plain()
    stray = study.ask()
    stray.suggest_float("beta1", 0.0, 0.9)
    member = studies.join()
    assert claim(member).number == 1
    assert len(studies.leases()) == 1
    other = studies.join()
    assert other.claim(PREMISES) is Idle.WAIT
    assert other.claim(PREMISES) is Idle.WAIT
    assert studies.leases()[0][1:6] == ("held", None, 0, 0, 0)
    [(left,)] = studies.rows(
        "SELECT l.expires_at - w.joined_at FROM tuner_leases l, tuner_workers w "
        "WHERE l.worker IS NULL ORDER BY w.joined_at DESC LIMIT 1"
    )
    assert left == pytest.approx(leases.STRAY_SECONDS, abs=20)
    studies.rows(f"{LONG_AGO} WHERE worker IS NULL")
    taken = claim(other)
    assert (taken.number, taken.token) == (0, 1)
    assert taken.params["beta1"] == stray.params["beta1"]
    other.finish(taken, Prune("bad"))
    assert studies.trials()[0].state == TrialState.PRUNED


def test_a_stray_that_its_program_ends_is_left_alone(studies: Studies) -> None:
    studies.make(trials=1)
    stray = studies.plain().ask()
    member = studies.join()
    assert member.claim(PREMISES) is Idle.WAIT
    studies.plain().tell(stray.number, 5.0)
    studies.rows(LONG_AGO)
    assert member.claim(PREMISES) is Idle.ENDED
    assert studies.trials()[0].value == 5.0


def test_workers_that_find_a_stray_at_once_do_not_trip_over_each_other(studies: Studies) -> None:
    store = studies.make(trials=1)
    studies.plain().ask()
    member, other = studies.join(), studies.open().rdb
    with ThreadPoolExecutor() as pool:
        with other.transaction() as session:
            leases.lease_strays(session, store.study_id)
            found = pool.submit(member._persist, member._idle)  # what claim does in the end
            wait_until_one_waits_for_the_other(studies)
        assert found.result() is Idle.WAIT
    assert len(studies.leases()) == 1


def wait_until_one_waits_for_the_other(studies: Studies) -> None:
    if studies.url.startswith("sqlite"):
        time.sleep(0.3)  # it does not tell
        return
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    end = time.monotonic() + 20
    while not studies.rows(f"{waiting} AND datname = current_database()"):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_trial_lost_while_it_is_claimed_is_left_to_its_owner(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker slept while it asked the sampler, for so long that another took the trial."""
    studies.make()
    member, other = studies.join(), studies.join()
    sampler = type(member.store.study.sampler)
    draw = sampler.sample_independent

    def sleep(*args: Any) -> Any:
        monkeypatch.setattr(sampler, "sample_independent", draw)
        studies.rows(LONG_AGO)
        assert claim(other).number == 0
        return draw(*args)

    monkeypatch.setattr(sampler, "sample_independent", sleep)
    assert claim(member).number == 1
    assert [worker for _, _, worker, *_ in studies.leases()] == [other.worker, member.worker]


def test_two_at_once_take_two_trials(studies: Studies) -> None:
    """On Postgres one passes over the row that the other has locked."""
    studies.make(trials=4)
    for _ in range(4):
        claim(studies.join())
    studies.rows(LONG_AGO)
    members = [studies.join() for _ in range(4)]
    found: list[int] = []
    ready = threading.Barrier(4)

    def take(member: Membership) -> None:
        ready.wait()
        found.append(claim(member).number)

    threads = [threading.Thread(target=take, args=(member,)) for member in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1, 2, 3]
    assert all(lease[1] == "held" and lease[3] == 2 for lease in studies.leases())
