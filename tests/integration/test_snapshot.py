"""Study snapshots, the estimate of remaining time, and the ownership history of trials."""

from typing import Any

import pytest
import sqlalchemy
import study_databases
from builders import epoch
from study_databases import EXPIRE_LEASES, RANDOM, Studies, claim, report, run

from tuner.errors import StorageError
from tuner.phases import UNCOUNTED
from tuner.study import steering
from tuner.study.epochs import ownership_history, report_times
from tuner.study.records import TrialRecord
from tuner.study.snapshot import (
    RECENT,
    StudyPoller,
    StudySnapshot,
    recent_seconds,
    seconds_left,
)
from tuner.study.verdict import Complete, Fail, Prune
from tuner.study.workers import WorkerRecord

url, studies = study_databases.url, study_databases.studies


def test_a_snapshot_has_trials_epochs_workers_and_the_best(studies: Studies) -> None:
    store = studies.create(RANDOM + "[[baseline]]\nbeta1 = 0.5\n" * 6, trials=7)
    poller = StudyPoller(store)
    empty = poller.snapshot()
    waiting = {"WAITING": 6}, {"WAITING": 0}
    assert empty == StudySnapshot(7, *waiting, {}, [], None, UNCOUNTED)
    first, second = studies.join(), studies.join()
    run(first, [30.0, 25.0], Complete())
    run(first, [5.0], Prune("its value does not count"))
    run(first, [1.0], Fail("a bug"))
    one, other = claim(first), claim(second)
    first.report(one, epoch(1, 40.0), [])
    second_epoch = epoch(2, None, train_seconds=7.0, loss_ratio=0.5)
    first.report(one, second_epoch, [epoch(1, 40.0)])
    found = poller.snapshot()
    assert found.trials == {"COMPLETE": 1, "PRUNED": 1, "FAIL": 1, "RUNNING": 2, "WAITING": 1}
    assert found.epochs == {"COMPLETE": 2, "PRUNED": 1, "FAIL": 1, "RUNNING": 2, "WAITING": 0}
    assert {number: trial.reports for number, trial in found.running.items()} == {
        one.number: (epoch(1, 40.0), second_epoch),
        other.number: (),
    }
    assert found.running[one.number].params == one.params
    assert [(w.worker, w.trial) for w in found.workers] == [
        (first.worker, one.number),
        (second.worker, other.number),
    ]
    assert found.best is not None
    assert (found.best.number, found.best.value) == (0, 25.0)
    assert found.best.params["beta1"] == 0.5
    assert [report.fid for report in found.best.reports] == [30.0, 25.0]


def test_the_snapshot_follows_the_study(studies: Studies) -> None:
    poller = StudyPoller(studies.create(trials=2))
    session = studies.join()
    for fid in (30.0, 20.0):
        run(session, [fid], Complete())
        best = poller.snapshot().best
        assert best is not None
        assert best.value == fid
    assert not poller.snapshot().ended
    session.leave_at_once()
    assert poller.snapshot().ended
    studies.store().raise_total(3)
    found = poller.snapshot()
    assert (found.total, found.ended) == (3, False)


def test_a_trial_of_a_lost_worker_is_left_behind(studies: Studies) -> None:
    poller = StudyPoller(studies.create(lease_seconds=30))
    lost, busy = studies.join(), studies.join()
    number = claim(lost).number
    claim(busy)
    assert poller.snapshot().left_behind == []
    studies.rows("UPDATE tuner_workers SET seen_at = seen_at - 40 WHERE worker = :w", w=lost.worker)
    assert poller.snapshot().left_behind == [number]


def test_the_pace_is_that_of_recent_epochs(studies: Studies) -> None:
    poller = StudyPoller(studies.create(epochs=40))
    session = studies.join()
    claimed = claim(session)
    for number in range(1, RECENT + 3):
        slow = number <= 2
        session.report(claimed, epoch(number, train_seconds=99.0 if slow else 2.0), [])
    [latest] = poller.snapshot().running.values()
    assert (len(latest.reports), recent_seconds(latest)) == (RECENT + 2, 3.0)


def test_other_studies_are_not_included(studies: Studies) -> None:
    store = studies.create()
    studies.create(name="other")
    session = studies.join("other")
    run(session, [9.0], Complete())
    claim(session)
    assert StudyPoller(store).snapshot() == StudySnapshot(3, {}, {}, {}, [], None, UNCOUNTED)


def test_finished_trials_are_not_read_again(studies: Studies) -> None:
    """The cost of a poll must not grow with the number of trials."""
    store = studies.create(trials=9)
    poller, session = StudyPoller(store), studies.join()

    def statements() -> int:
        count = 0

        def counted(*args: Any) -> None:
            nonlocal count
            count += 1

        engine = store.database.rdb.engine
        sqlalchemy.event.listen(engine, "before_cursor_execute", counted)
        poller.snapshot()
        sqlalchemy.event.remove(engine, "before_cursor_execute", counted)
        return count

    run(session, [30.0, 20.0], Complete())
    first = statements()
    quiet = statements()
    assert quiet < first
    for _ in range(3):
        run(session, [1.0], Prune("not good enough"))
    assert statements() == quiet


def test_a_deleted_study_is_a_permanent_error(studies: Studies) -> None:
    store = studies.create()
    poller = StudyPoller(store)
    poller.snapshot()
    steering.delete(studies.store())
    studies.create()  # SQLite gives it the same id
    with pytest.raises(StorageError, match="a study or trial is gone: study 's'") as caught:
        poller.snapshot()
    assert not caught.value.transient


def worker(trial: int | None, *, alive: bool = True) -> WorkerRecord:
    return WorkerRecord("abc", "here", 12, "cpu", alive, 1.0, trial, 0)


def trial(epochs: int = 0, seconds: float = 5.0) -> TrialRecord:
    """A running trial after ``epochs`` epochs of ``seconds`` each."""
    reports = (epoch(n, train_seconds=seconds - 1.0) for n in range(1, epochs + 1))
    return TrialRecord(0, "RUNNING", {}, None, tuple(reports), None, None, {})


def snapshot(total: int = 4, **changes: Any) -> StudySnapshot:
    """Four trials, none finished; two are running, at 10 and 5 seconds per epoch."""
    made = StudySnapshot(
        total=total,
        trials={"RUNNING": 2},
        epochs={"RUNNING": 5},
        running={0: trial(epochs=2, seconds=10.0), 1: trial(epochs=3)},
        workers=[worker(0), worker(1)],
        best=None,
    )
    return made._replace(**changes)


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        # 4 + 3 epochs of running trials and 2 x 6 of new ones, at 0.3 epochs per second.
        (snapshot(), 19 / 0.3),
        # Finished trials took 2 epochs on average; failed ones do not count.
        (
            snapshot(
                total=8,
                trials={"COMPLETE": 1, "PRUNED": 1, "FAIL": 3, "RUNNING": 2},
                epochs={"COMPLETE": 3, "PRUNED": 1, "FAIL": 30, "RUNNING": 5},
            ),
            15 / 0.3,
        ),
        # No new trials: the slower running one decides.
        (snapshot(total=2), 40.0),
        # One living worker runs both trials in turn.
        (snapshot(total=2, workers=[worker(0), worker(1, alive=False)]), 70.0),
        # A trial without reports is assumed as fast as the other.
        (snapshot(running={0: trial(epochs=2, seconds=10.0), 1: trial()}), 22 / 0.2),
        (snapshot(running={0: trial(), 1: trial()}), None),
        (snapshot(workers=[worker(None)]), None),
        (snapshot(workers=[]), None),
        (snapshot(running={}, trials={}, epochs={}), None),
        (snapshot(total=2, running={}, trials={"COMPLETE": 2}, workers=[]), 0.0),
        (snapshot(total=2, running={}, trials={"COMPLETE": 3}, workers=[worker(None)]), 0.0),
        # More running trials than the total.
        (snapshot(total=1), 40.0),
    ],
)
def test_time_left_follows_from_the_pace(now: StudySnapshot, seconds: float | None) -> None:
    assert seconds_left(now, epochs=6) == (None if seconds is None else pytest.approx(seconds))


def test_the_history_names_the_owners_of_epochs(studies: Studies) -> None:
    store = studies.create()
    assert ownership_history(store, 0) == []
    lost = studies.join()
    report(lost, claim(lost), [30.0, 20.0])
    studies.rows(EXPIRE_LEASES)
    successor = studies.join()
    claimed = claim(successor)
    report(successor, claimed, [10.0])
    first, second = ownership_history(store, claimed.number)
    assert (first.worker, first.device, first.first_epoch, first.last_epoch) == (
        *(lost.worker, "cpu"),
        *(1, 2),
    )
    assert (second.worker, second.first_epoch, second.last_epoch) == (successor.worker, 3, 3)
    assert first.first_reported_at <= first.last_reported_at <= second.first_reported_at
    studies.rows("DELETE FROM tuner_workers WHERE worker = :w", w=lost.worker)
    assert ownership_history(store, claimed.number)[0][:3] == (None, None, lost.worker)


def test_owners_are_listed_in_the_order_of_their_epochs(studies: Studies) -> None:
    """A worker that gets its trial back is listed twice."""
    store = studies.create()
    first, second = studies.join(), studies.join()
    for session, fid in ((first, 30.0), (second, 20.0), (first, 10.0)):
        report(session, claim(session), [fid])
        studies.rows(EXPIRE_LEASES)
    for host, session in (("b", first), ("a", second)):  # not in the order of their names
        studies.rows(
            "UPDATE tuner_workers SET host = :h WHERE worker = :w", h=host, w=session.worker
        )
    found = [(owner.host, owner.first_epoch) for owner in ownership_history(store, 0)]
    assert found == [("b", 1), ("a", 2), ("b", 3)]


def test_times_and_owners_are_those_of_the_study_and_the_trial(studies: Studies) -> None:
    epochs = {"s": [1, 2], "other": [3, 1]}  # of two trials
    stores = {name: studies.create(name=name) for name in epochs}
    for name, store in stores.items():
        for number, count in enumerate(epochs[name]):
            session = studies.join(name)
            report(session, claim(session), [30.0] * count)
            [owner] = ownership_history(store, number)
            assert (owner.worker, owner.last_epoch) == (session.worker, count)
    for name, store in stores.items():
        assert [len(times) for times in report_times(store).values()] == epochs[name]


def test_the_traceback_of_a_failed_trial_is_stored(studies: Studies) -> None:
    store = studies.create()
    session = studies.join()
    claimed = claim(session)
    session.finish(claimed, Fail("a bug"), traceback="Traceback: line 1")
    run(session, [1.0], Complete())
    assert store.traceback(0) == "Traceback: line 1"
    assert store.traceback(1) is None
