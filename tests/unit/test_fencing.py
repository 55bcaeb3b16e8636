"""A worker whose trial was taken over can't write to it any more, and no write is done by half."""

import inspect
import threading
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import sqlalchemy
import workplace
from builders import PREMISES, RANGES, epoch
from optuna.storages._rdb import storage as optunas
from optuna.trial import TrialState
from workplace import LONG_AGO, Studies, claim, report, run

from tuner.errors import LeaseLostError, StorageError
from tuner.study import steering
from tuner.study.membership import Claim, Membership
from tuner.study.storage import FencedStorage, Lease
from tuner.study.verdict import Complete, Fail, Prune

url, studies = workplace.url, workplace.studies

HALVING = RANGES + "[sampler]\nname = 'random'\n[pruner]\nname = 'successive_halving'\n"
Write = Callable[[Membership, Claim], Any]

WRITES: dict[str, Write] = {
    "report": lambda m, c: m.report(c, epoch(2, 1.0), [epoch(1, 30.0)]),
    "report without a FID": lambda m, c: m.report(c, epoch(2, None, finite=False), []),
    "the epoch reported already": lambda m, c: m.report(c, epoch(1, 30.0), []),
    "an attribute of ours": lambda m, c: storage(m).settle(c.trial_id, [], {"tuner:x": 1}),
    "Optuna's user attribute": lambda m, c: trial(m, c).set_user_attr("x", 1),
    "Optuna's system attribute": lambda m, c: storage(m).set_trial_system_attr(c.trial_id, "x", 1),
    "Optuna's report": lambda m, c: trial(m, c).report(1.0, 9),
    "suggest": lambda m, c: trial(m, c).suggest_float("x", 0.0, 1.0),
    "complete": lambda m, c: m.finish(c, Complete(), "stale.safetensors"),
    "fail": lambda m, c: m.finish(c, Fail("stale"), traceback="stale"),
    "Optuna's tell": lambda m, c: m.store.study.tell(c.number, 1.0),
    "the pruner's marks": lambda m, c: m.pruner_says_stop(c),
}


def storage(member: Membership) -> FencedStorage:
    return member.store.database.rdb


def trial(member: Membership, claimed: Claim) -> optuna.Trial:
    """As Optuna's own code would go on with it."""
    member.store.study.get_trials(deepcopy=False)  # its cache must know of the trial
    return optuna.Trial(member.store.study, claimed.trial_id)


def test_whose_trial_was_taken_over_writes_nothing(studies: Studies) -> None:
    """Its lease ran out while it slept; the other has the trial, and has got further with it."""
    studies.make(HALVING)
    zombie = studies.join()
    claimed = claim(zombie)
    report(zombie, claimed, [30.0])
    studies.rows(LONG_AGO)
    owner = studies.join()
    taken = claim(owner)
    assert taken.number == claimed.number
    before = studies.everything()
    for what, write in WRITES.items():
        with pytest.raises(LeaseLostError, match="another worker took it over"):
            write(zombie, claimed)
        assert studies.everything() == before, what
    report(owner, taken, [20.0])
    owner.finish(taken, Complete())
    before = studies.everything()
    for what, write in WRITES.items():
        with pytest.raises((LeaseLostError, ValueError)):  # Optuna's own word for an ended trial
            write(zombie, claimed)
        assert studies.everything() == before, what
    assert [found.fid for found in owner.store.trial(0).reports] == [30.0, 20.0]


def test_its_heartbeat_does_not_win_the_trial_back(studies: Studies) -> None:
    studies.make()
    zombie = studies.join()
    claim(zombie)
    studies.rows(LONG_AGO)
    owner = studies.join()
    claim(owner)
    studies.rows("UPDATE tuner_leases SET expires_at = 1")
    zombie._heart.beat()
    zombie.leave_at_once()
    [lease] = studies.leases()
    assert lease[1:4] == ("held", owner.worker, 2)
    assert studies.rows("SELECT expires_at FROM tuner_leases") == [(1.0,)]
    owner._heart.beat()
    [(expires_at,)] = studies.rows("SELECT expires_at FROM tuner_leases")
    assert expires_at > 1


def test_a_lease_that_ran_out_holds_until_it_is_taken(studies: Studies) -> None:
    """Nobody else wanted the trial: its worker goes on, and has it again for the whole time."""
    studies.make()
    member = studies.join()
    claimed = claim(member)
    studies.rows(LONG_AGO)
    report(member, claimed, [30.0])
    [(expires_at,)] = studies.rows("SELECT expires_at FROM tuner_leases")
    [(now,)] = studies.rows("SELECT seen_at FROM tuner_workers")
    assert expires_at > now + 50
    member.finish(claimed, Complete())


def test_a_trial_of_nobodys_is_not_written_to(studies: Studies) -> None:
    studies.make()
    member, other = studies.join(), studies.join()
    claimed = claim(other)
    before = studies.everything()
    for write in (WRITES["an attribute of ours"], WRITES["suggest"], WRITES["Optuna's report"]):
        with pytest.raises(LeaseLostError, match="this worker does not own"):
            write(member, claimed)
    assert studies.everything() == before


Broken = Callable[..., Any]

# Optuna's part of each write: what it does last, before it commits.
OPTUNAS_PART = {
    "report": "_set_trial_intermediate_value_without_commit",
    "an attribute of ours": "_set_trial_attr_without_commit",
    "Optuna's user attribute": "_set_trial_attr_without_commit",
    "Optuna's system attribute": "_set_trial_attr_without_commit",
    "Optuna's report": "_set_trial_intermediate_value_without_commit",
    "suggest": "_set_trial_param_without_commit",
    "complete": "_set_trial_value_without_commit",
}


def failing_after(method: Broken) -> Broken:
    def broken(*args: Any, **options: Any) -> None:
        method(*args, **options)
        raise RuntimeError("a bug of Optuna's")

    return broken


def test_what_optuna_fails_to_write_leaves_the_lease_as_it_was(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies.make()
    member = studies.join()
    claimed = claim(member)
    report(member, claimed, [30.0])
    before = studies.everything(), studies.rows("SELECT expires_at FROM tuner_leases")
    for what, name in OPTUNAS_PART.items():
        with monkeypatch.context() as patch:
            patch.setattr(FencedStorage, name, failing_after(getattr(FencedStorage, name)))
            with pytest.raises(RuntimeError, match="a bug of Optuna's"):
                WRITES[what](member, claimed)
        assert (studies.everything(), studies.rows("SELECT expires_at FROM tuner_leases")) == before
    WRITES["complete"](member, claimed)
    assert studies.trials()[0].state == TrialState.COMPLETE


def test_a_trial_comes_to_be_with_its_lease_or_not_at_all(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of the queue as well as new."""
    studies.make(RANGES + "[[baseline]]\nbeta1 = 0.5")
    member = studies.join()
    before = studies.everything()
    for name in ("_pop", "_lease"):
        with monkeypatch.context() as patch:
            patch.setattr(FencedStorage, name, failing_after(getattr(FencedStorage, name)))
            with pytest.raises(RuntimeError):
                member.claim(PREMISES)
        assert studies.everything() == before
    assert claim(member).params["beta1"] == 0.5
    before = studies.everything()
    for name in ("_get_prepared_new_trial", "_lease"):
        with monkeypatch.context() as patch:
            patch.setattr(FencedStorage, name, failing_after(getattr(FencedStorage, name)))
            with pytest.raises(RuntimeError):
                member.store.database.rdb.begin_trial(member.store.study_id)
        assert studies.everything() == before
    assert claim(studies.join()).number == 1


def test_the_storage_itself_keeps_to_members_and_the_total(studies: Studies) -> None:
    store = studies.make(trials=1)
    with pytest.raises(AssertionError, match="has a lease"):
        store.study.ask()
    with pytest.raises(AssertionError, match="by a worker that has joined"):
        store.database.rdb.begin_trial(store.study_id)
    assert studies.trials() == []
    claim(studies.join())
    assert studies.join().store.database.rdb.begin_trial(store.study_id) is None
    assert len(studies.trials()) == 1


def end_elsewhere(studies: Studies, number: int) -> None:
    """As a person does in the dashboard."""
    studies.plain().tell(number, state=TrialState.FAIL)


def test_a_report_on_a_trial_ended_elsewhere_is_not_kept(studies: Studies) -> None:
    studies.make()
    member = studies.join()
    for number, fid in enumerate((20.0, None)):
        claimed = claim(member)
        report(member, claimed, [30.0])
        end_elsewhere(studies, number)
        before = studies.everything()
        with pytest.raises(LeaseLostError, match="ended from elsewhere"):
            member.report(claimed, epoch(2, fid), [epoch(1, 30.0)])
        now = studies.everything()
        for table in ("trials", "trial_intermediate_values", "tuner_epochs"):
            assert now[table] == before[table]


def test_a_trial_ended_elsewhere_is_lost_and_the_study_goes_on(studies: Studies) -> None:
    store = studies.make(HALVING, trials=1)
    member = studies.join()
    for number, what in enumerate(("complete", "fail", "the pruner's marks")):
        claimed = claim(member)
        report(member, claimed, [30.0 - number])  # the best so far: the pruner would note it
        end_elsewhere(studies, number)
        ended = studies.trials()[number]
        with pytest.raises(LeaseLostError, match="ended from elsewhere"):
            WRITES[what](member, claimed)
        assert studies.trials()[number] == ended
    assert run(member, [20.0], Complete()).number == 3
    assert store.remaining() == 0
    assert {status for _, status, *_ in studies.leases()} == {"done"}


def test_a_trial_ended_elsewhere_is_not_taken_over(studies: Studies) -> None:
    studies.make()
    lost = studies.join()
    claim(lost)
    end_elsewhere(studies, 0)
    studies.rows(LONG_AGO)
    member = studies.join()
    assert claim(member).number == 1
    assert [status for _, status, *_ in studies.leases()] == ["done", "held"]


def test_a_study_deleted_under_a_worker_is_one_line(studies: Studies) -> None:
    store = studies.make()
    member = studies.join()
    claimed = claim(member)
    steering.delete(studies.store())
    place = store.database.place
    with pytest.raises(StorageError, match=f"^{place}: a study or trial is gone") as caught:
        member.claim(PREMISES)
    assert not caught.value.transient
    with pytest.raises(LeaseLostError):
        member.report(claimed, epoch(1), [])


def test_a_study_is_deleted_while_its_worker_reports(studies: Studies) -> None:
    """After the rows that go with it were read, and before they are deleted."""
    studies.make()
    member = studies.join()
    claimed = claim(member)
    report(member, claimed, [30.0])
    store = studies.store()
    failures: list[Exception] = []

    def report_more() -> None:
        try:
            member.report(claimed, epoch(2, 20.0), [])
        except (LeaseLostError, StorageError) as error:
            failures.append(error)

    reporter = threading.Thread(target=report_more)

    def meanwhile(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("DELETE FROM trial_intermediate_values"):
            reporter.start()
            reporter.join(timeout=1)

    sqlalchemy.event.listen(store.database.rdb.engine, "before_cursor_execute", meanwhile)
    steering.delete(store)
    reporter.join()
    assert [type(failure) for failure in failures] == [LeaseLostError]
    for table in ("studies", "trials", "tuner_epochs", "tuner_leases", "tuner_workers"):
        assert studies.rows(f"SELECT * FROM {table}") == [], table


def test_what_we_lean_on_in_optuna_is_there() -> None:
    """What ``FencedStorage`` overrides or calls, by name and by the names of its parameters."""
    expected = {
        "_create_new_trial": ["study_id", "template_trial"],
        "_get_prepared_new_trial": ["study_id", "template_trial", "session"],
        "_set_trial_param_without_commit": [
            *("session", "trial_id", "param_name", "param_value_internal", "distribution"),
            "previous_distribution",
        ],
        "check_trial_is_updatable": ["trial_id", "trial_state"],
        "_set_trial_param": [
            *("trial_id", "param_name", "param_value_internal", "distribution"),
            "previous_distribution",
        ],
        "_set_trial_attr_without_commit": ["session", "model_cls", "trial_id", "key", "value"],
        "_set_trial_intermediate_value_without_commit": [
            *("session", "trial_id", "step", "intermediate_value"),
        ],
        "set_trial_state_values": ["trial_id", "state", "values"],
        "set_trial_intermediate_value": ["trial_id", "step", "intermediate_value"],
        "set_trial_user_attr": ["trial_id", "key", "value"],
        "set_trial_system_attr": ["trial_id", "key", "value"],
    }
    for name, parameters in expected.items():
        method = getattr(optuna.storages.RDBStorage, name)
        assert list(inspect.signature(method).parameters) == ["self", *parameters]
    # Every way in which Optuna writes to a trial is one that we fence, or leads to one.
    writers = {n for n in vars(optuna.storages.RDBStorage) if n.startswith(("set_trial", "_set_t"))}
    parts = {name for name in writers if name.endswith("_without_commit")}
    assert writers - parts - set(vars(FencedStorage)) == {"set_trial_param"}


def test_optunas_transactions_within_ours_are_ours(studies: Studies) -> None:
    """They share the thread's session, so that one commit, or roll-back, is for both."""
    studies.make()
    member = studies.join()
    rdb = storage(member)
    with rdb.transaction() as session, optunas._create_scoped_session(rdb.scoped_session) as inner:
        assert inner is session
    claimed = claim(member)
    rdb.held[claimed.trial_id] = Lease(member.worker, 9, 60.0)  # a token it does not have
    with pytest.raises(LeaseLostError):
        rdb.set_trial_user_attr(claimed.trial_id, "x", 1)
    assert "x" not in studies.trials()[0].user_attrs


def test_a_pruned_trials_marks_are_not_the_next_ones(studies: Studies) -> None:
    """The pruner had spoken when its trial was lost; the next trial ends without its word."""
    studies.make(HALVING + "bootstrap_count = 1")
    member = studies.join()
    lost = claim(member)
    report(member, lost, [30.0])
    assert member.pruner_says_stop(lost)
    studies.rows(LONG_AGO)
    claim(studies.join())
    with pytest.raises(LeaseLostError):
        member.finish(lost, Prune("says the pruner"))
    run(member, [None], Prune("not finite"))
    assert studies.trials()[1].system_attrs == {}
