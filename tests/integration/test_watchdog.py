"""Time limits of epochs, and release of trials that hung."""

import threading
from typing import Any

import pytest
import study_databases
from builders import epoch, spec_of
from study_databases import Studies, claim, report

from tuner.run.watchdog import FIRST_LIMIT, SHORTEST_LIMIT, Pace, stacks
from tuner.study.records import Hang, hang_of

url, studies = study_databases.url, study_databases.studies


def pace(toml: str = "", timeout: float | None = None) -> Pace:
    return Pace(spec_of(toml).metrics, epochs=50, timeout=timeout)


def trained(found: Pace, *seconds: float, first: int = 1, here: bool = True) -> Pace:
    for number, taken in enumerate(seconds, first):
        found.add(epoch(number, train_seconds=taken, evaluate_seconds=0.0), here=here)
    return found


def test_an_epoch_that_compiles_has_hours() -> None:
    assert pace().limit(1) == FIRST_LIMIT
    assert pace().suspicious(1) == SHORTEST_LIMIT
    assert pace().longest(1) == 0
    assert trained(pace(), 2000.0, here=False).limit(2) == 20_000
    assert trained(pace(), 1.0, here=False).limit(2) == FIRST_LIMIT


def test_the_limit_is_ten_medians_and_at_least_ten_minutes() -> None:
    found = trained(pace(), 400.0, 100.0, 90.0)
    assert found.limit(4) == 1000
    assert found.suspicious(4) == 1000
    assert found.longest(4) == 400
    quick = trained(pace(), 4.0, 1.0, 1.0)
    assert quick.limit(4) == SHORTEST_LIMIT
    assert quick.suspicious(4) == 10


def test_limits_depend_on_what_an_epoch_measures() -> None:
    """An evaluation may take longer than ten epochs without one, and compiles the first time."""
    found = trained(pace("[metrics]\nevery = 5"), 100.0, 100.0, 100.0, 100.0)
    assert (found.limit(5), found.limit(6)) == (FIRST_LIMIT, 1000)
    trained(found, 3000.0, first=5)
    assert (found.limit(10), found.limit(6)) == (30_000, 1000)
    last = trained(pace("[metrics]\nneighbours = 'end'"), 100.0, 100.0)
    assert (last.limit(3), last.limit(50)) == (1000, FIRST_LIMIT)


def test_the_study_files_epoch_timeout_comes_first() -> None:
    found = pace(timeout=30.0)
    assert (found.limit(1), found.suspicious(1)) == (30, 30)
    assert trained(found, 100.0).limit(2) == 30


def test_stacks_show_the_other_threads() -> None:
    waiting, over = threading.Event(), threading.Event()

    def wait_there() -> None:
        waiting.set()
        over.wait()

    thread = threading.Thread(target=wait_there, name="waiting")
    thread.start()
    waiting.wait()
    found = stacks()
    over.set()
    thread.join()
    assert "Thread waiting:" in found
    assert "in wait_there" in found
    assert "in test_stacks" not in found  # the calling thread is left out


def test_a_hung_trial_is_released_and_finally_fails(studies: Studies) -> None:
    store = studies.create(max_takeovers=1)
    for takeovers in (1, 2):
        session = studies.join()
        claimed = claim(session)
        if takeovers == 1:
            report(session, claimed, [50.0])
        session.give_up_hung(claimed, "epoch 2 hung", f"stacks {takeovers}")
        [(_, status, worker, _, reported, counted, _)] = studies.leases()
        assert (status, worker, reported, counted) == ("free", None, 1, takeovers)
        assert store.hang(0) == Hang(1, "epoch 2 hung", f"stacks {takeovers}")
        session._heart.beat()  # does not renew the lease
        assert studies.leases()[0][1] == "free"
    assert claim(studies.join()).number == 1
    [(reason,)] = studies.rows(
        "SELECT value_json FROM trial_user_attributes WHERE key = 'tuner:reason'"
    )
    assert reason == (
        '"lost its worker 2 times without getting an epoch further; the last time, epoch 2 hung"'
    )


def test_a_trial_of_another_worker_is_not_released(studies: Studies) -> None:
    store = studies.create()
    session = studies.join()
    claimed = claim(session)
    studies.rows(study_databases.EXPIRE_LEASES)
    assert claim(studies.join()).trial_id == claimed.trial_id
    before = studies.leases()
    session.give_up_hung(claimed, "epoch 1 hung", "stacks")
    assert studies.leases() == before
    assert store.hang(0) is None


@pytest.mark.parametrize(
    "value", [None, 7, "hung", [], {}, {"reported": "1", "what": "x", "stacks": "y"}]
)
def test_malformed_hang_attributes_are_ignored(value: Any) -> None:
    assert hang_of({"tuner:hung": value}) is None
