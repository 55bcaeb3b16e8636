"""A study's present state, read again and again; how long it still takes; a trial's past."""

from typing import Any

import pytest
import sqlalchemy
import workplace
from builders import epoch
from workplace import LONG_AGO, RANDOM, Studies, claim, report, run

from tuner.errors import StorageError
from tuner.study import steering
from tuner.study.history import stints, traceback_of
from tuner.study.present import RECENT, Latest, Observer, Present, seconds_left
from tuner.study.store import WorkerRecord
from tuner.study.verdict import Complete, Fail, Prune

url, studies = workplace.url, workplace.studies


def test_what_two_workers_are_at(studies: Studies) -> None:
    store = studies.make(RANDOM + "[[baseline]]\nbeta1 = 0.5\n" * 6, trials=7)
    observer = Observer(store)
    empty = observer.look()
    assert empty == (7, {"WAITING": 6}, {"WAITING": 0}, {}, [], None)
    first, second = studies.join(), studies.join()
    run(first, [30.0, 25.0], Complete())
    run(first, [5.0], Prune("its value does not count"))
    run(first, [1.0], Fail("a bug"))
    one, other = claim(first), claim(second)
    first.report(one, epoch(1, 40.0), [])
    second_epoch = epoch(2, None, train_seconds=7.0, loss_ratio=0.5)
    first.report(one, second_epoch, [epoch(1, 40.0)])
    found = observer.look()
    assert found.trials == {"COMPLETE": 1, "PRUNED": 1, "FAIL": 1, "RUNNING": 2, "WAITING": 1}
    assert found.epochs == {"COMPLETE": 2, "PRUNED": 1, "FAIL": 1, "RUNNING": 2, "WAITING": 0}
    speed = second_epoch.images_per_second
    assert found.running == {
        one.number: Latest(2, 40.0, 0.5, speed, 6.5),  # the newest FID there is
        other.number: Latest(),
    }
    assert [(w.worker, w.trial) for w in found.workers] == [
        (first.worker, one.number),
        (second.worker, other.number),
    ]
    assert found.best is not None
    assert (found.best.number, found.best.value) == (0, 25.0)
    assert found.best.params["beta1"] == 0.5


def test_it_follows_what_happens(studies: Studies) -> None:
    observer = Observer(studies.make(trials=2))
    member = studies.join()
    for fid in (30.0, 20.0):
        run(member, [fid], Complete())
        best = observer.look().best
        assert best is not None
        assert best.value == fid
    assert not observer.look().ended
    member.leave_at_once()
    assert observer.look().ended
    studies.store().raise_total(3)
    found = observer.look()
    assert (found.total, found.ended) == (3, False)


def test_a_trial_whose_worker_is_lost_is_left_behind(studies: Studies) -> None:
    observer = Observer(studies.make(lease_seconds=30))
    lost, busy = studies.join(), studies.join()
    number = claim(lost).number
    claim(busy)
    assert observer.look().left_behind == []
    studies.rows("UPDATE tuner_workers SET seen_at = seen_at - 40 WHERE worker = :w", w=lost.worker)
    assert observer.look().left_behind == [number]


def test_the_pace_is_of_recent_epochs(studies: Studies) -> None:
    observer = Observer(studies.make(epochs=40))
    member = studies.join()
    claimed = claim(member)
    for number in range(1, RECENT + 3):
        slow = number <= 2
        member.report(claimed, epoch(number, train_seconds=99.0 if slow else 2.0), [])
    [latest] = observer.look().running.values()
    assert (latest.epoch, latest.seconds) == (RECENT + 2, 3.0)


def test_other_studies_are_not_seen(studies: Studies) -> None:
    store = studies.make()
    studies.make(name="other")
    member = studies.join("other")
    run(member, [9.0], Complete())
    claim(member)
    assert Observer(store).look() == (3, {}, {}, {}, [], None)


def test_what_ended_is_not_read_again(studies: Studies) -> None:
    """Or a look would take the longer the more trials there are."""
    store = studies.make(trials=9)
    observer, member = Observer(store), studies.join()

    def statements() -> int:
        count = 0

        def counted(*args: Any) -> None:
            nonlocal count
            count += 1

        engine = store.database.rdb.engine
        sqlalchemy.event.listen(engine, "before_cursor_execute", counted)
        observer.look()
        sqlalchemy.event.remove(engine, "before_cursor_execute", counted)
        return count

    run(member, [30.0, 20.0], Complete())
    first = statements()
    quiet = statements()
    assert quiet < first
    for _ in range(3):
        run(member, [1.0], Prune("not good enough"))
    assert statements() == quiet


def test_a_study_that_is_gone_is_an_error_that_stays(studies: Studies) -> None:
    store = studies.make()
    observer = Observer(store)
    observer.look()
    steering.delete(studies.store())
    studies.make()  # SQLite gives it the same id
    with pytest.raises(StorageError, match="a study or trial is gone: study 's'") as caught:
        observer.look()
    assert not caught.value.transient


def worker(trial: int | None, *, alive: bool = True) -> WorkerRecord:
    return WorkerRecord("abc", "here", 12, "cpu", alive, 1.0, trial, 0)


def present(total: int = 4, **changes: Any) -> Present:
    """Of four trials none has ended, and two run, which take 10 and 5 seconds for an epoch."""
    made = Present(
        total=total,
        trials={"RUNNING": 2},
        epochs={"RUNNING": 5},
        running={0: Latest(epoch=2, seconds=10.0), 1: Latest(epoch=3, seconds=5.0)},
        workers=[worker(0), worker(1)],
        best=None,
    )
    return made._replace(**changes)


@pytest.mark.parametrize(
    ("now", "seconds"),
    [
        # 4 + 3 epochs to go of those that run and 2 x 6 to come, at 0.3 a second.
        (present(), 19 / 0.3),
        # What ended took 2 epochs on average: failures do not count towards the total.
        (
            present(
                total=8,
                trials={"COMPLETE": 1, "PRUNED": 1, "FAIL": 3, "RUNNING": 2},
                epochs={"COMPLETE": 3, "PRUNED": 1, "FAIL": 30, "RUNNING": 5},
            ),
            15 / 0.3,
        ),
        # None is to come: as long as the slower one takes.
        (present(total=2), 40.0),
        # One works, and the other trial waits for it.
        (present(total=2, workers=[worker(0), worker(1, alive=False)]), 70.0),
        # Who has not reported yet is taken to be as fast as the other.
        (present(running={0: Latest(2, seconds=10.0), 1: Latest()}), 22 / 0.2),
        (present(running={0: Latest(), 1: Latest()}), None),
        (present(workers=[worker(None)]), None),
        (present(workers=[]), None),
        (present(running={}, trials={}, epochs={}), None),
        (present(total=2, running={}, trials={"COMPLETE": 2}, workers=[]), 0.0),
        (present(total=2, running={}, trials={"COMPLETE": 3}, workers=[worker(None)]), 0.0),
        # More than were asked for.
        (present(total=1), 40.0),
    ],
)
def test_time_left(now: Present, seconds: float | None) -> None:
    assert seconds_left(now, epochs=6) == (None if seconds is None else pytest.approx(seconds))


def test_who_trained_which_epochs(studies: Studies) -> None:
    store = studies.make()
    assert stints(store, 0) == []
    lost = studies.join()
    report(lost, claim(lost), [30.0, 20.0])
    studies.rows(LONG_AGO)
    heir = studies.join()
    claimed = claim(heir)
    report(heir, claimed, [10.0])
    first, second = stints(store, claimed.number)
    assert (first.worker, first.device, first.first_epoch, first.last_epoch) == (
        *(lost.worker, "cpu"),
        *(1, 2),
    )
    assert (second.worker, second.first_epoch, second.last_epoch) == (heir.worker, 3, 3)
    assert first.first_reported_at <= first.last_reported_at <= second.first_reported_at
    studies.rows("DELETE FROM tuner_workers WHERE worker = :w", w=lost.worker)
    assert stints(store, claimed.number)[0][:3] == (None, None, lost.worker)


def test_why_a_trial_failed(studies: Studies) -> None:
    store = studies.make()
    member = studies.join()
    claimed = claim(member)
    member.finish(claimed, Fail("a bug"), traceback="Traceback: line 1")
    run(member, [1.0], Complete())
    assert traceback_of(store, 0) == "Traceback: line 1"
    assert traceback_of(store, 1) is None
