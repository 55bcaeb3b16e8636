"""Writes of a worker that lost its trial are refused, and every write is atomic."""

import inspect
import threading
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import sqlalchemy
import study_databases
from builders import DATASET, RANGES, epoch
from optuna.exceptions import StorageInternalError
from optuna.storages._rdb import storage as rdb_storage
from optuna.trial import TrialState
from study_databases import EXPIRE_LEASES, Studies, claim, report, run

from tuner.errors import LeaseLostError, StorageError
from tuner.study import leases, steering
from tuner.study import storage as storage_module
from tuner.study.claims import Claim
from tuner.study.leases import Lease
from tuner.study.session import WorkerSession
from tuner.study.storage import FencedStorage
from tuner.study.verdict import Complete, Fail, Prune

url, studies = study_databases.url, study_databases.studies

HALVING = RANGES + "[sampler]\nname = 'random'\n[pruner]\nname = 'successive_halving'\n"
LOST = "^the trial's lease ran out and another worker took it over$"
NOT_OWNED = "^this worker does not own the trial that it tried to write to$"
ENDED = "^another process has ended the trial$"
Write = Callable[[WorkerSession, Claim], Any]

WRITES: dict[str, Write] = {
    "report": lambda s, c: s.report(c, epoch(2, 1.0), [epoch(1, 30.0)]),
    "report without a FID": lambda s, c: s.report(c, epoch(2, None, finite=False), []),
    "an epoch reported before": lambda s, c: s.report(c, epoch(1, 30.0), []),
    "tuner's attribute": lambda s, c: storage(s).write_params(c.trial_id, [], {"tuner:x": 1}),
    "Optuna's user attribute": lambda s, c: trial(s, c).set_user_attr("x", 1),
    "Optuna's system attribute": lambda s, c: storage(s).set_trial_system_attr(c.trial_id, "x", 1),
    "Optuna's report": lambda s, c: trial(s, c).report(1.0, 9),
    "suggest": lambda s, c: trial(s, c).suggest_float("x", 0.0, 1.0),
    "complete": lambda s, c: s.finish(c, Complete(), "stale.safetensors"),
    "fail": lambda s, c: s.finish(c, Fail("stale"), traceback="stale"),
    "Optuna's tell": lambda s, c: s.store.study.tell(c.number, 1.0),
    "the pruner's marks": lambda s, c: s.pruner_decision(c, 1),
}


def storage(session: WorkerSession) -> FencedStorage:
    return session.store.database.rdb


def trial(session: WorkerSession, claimed: Claim) -> optuna.Trial:
    """The trial as Optuna's own code continues it."""
    session.store.study.get_trials(deepcopy=False)  # its cache must know of the trial
    return optuna.Trial(session.store.study, claimed.trial_id)


def test_a_fenced_worker_writes_nothing(studies: Studies) -> None:
    """Its lease expired while it was suspended, and another worker continued the trial."""
    studies.create(HALVING)
    fenced = studies.join()
    claimed = claim(fenced)
    report(fenced, claimed, [30.0])
    studies.rows(EXPIRE_LEASES)
    owner = studies.join()
    taken = claim(owner)
    assert taken.number == claimed.number
    before = studies.all_rows()
    for name, write in WRITES.items():
        with pytest.raises(LeaseLostError, match=LOST):
            write(fenced, claimed)
        assert studies.all_rows() == before, name
    report(owner, taken, [20.0])
    owner.finish(taken, Complete())
    before = studies.all_rows()
    for name, write in WRITES.items():
        with pytest.raises((LeaseLostError, ValueError)):  # the latter from Optuna
            write(fenced, claimed)
        assert studies.all_rows() == before, name
    assert [found.fid for found in owner.store.trial(0).reports] == [30.0, 20.0]


def test_the_heartbeat_does_not_win_a_lost_trial_back(studies: Studies) -> None:
    studies.create()
    fenced = studies.join()
    claim(fenced)
    studies.rows(EXPIRE_LEASES)
    owner = studies.join()
    claim(owner)
    studies.rows("UPDATE tuner_leases SET expires_at = 1")
    fenced._heart.beat()
    fenced.leave_at_once()
    [lease] = studies.leases()
    assert lease[1:4] == ("held", owner.worker, 2)
    assert studies.rows("SELECT expires_at FROM tuner_leases") == [(1.0,)]
    owner._heart.beat()
    [(expires_at,)] = studies.rows("SELECT expires_at FROM tuner_leases")
    assert expires_at > 1


def test_a_lease_that_ran_out_holds_until_it_is_taken(studies: Studies) -> None:
    """No other worker took the trial: the next report renews the lease."""
    studies.create()
    session = studies.join()
    claimed = claim(session)
    studies.rows(EXPIRE_LEASES)
    report(session, claimed, [30.0])
    [(expires_at,)] = studies.rows("SELECT expires_at FROM tuner_leases")
    [(now,)] = studies.rows("SELECT seen_at FROM tuner_workers")
    assert expires_at > now + 50
    session.finish(claimed, Complete())


def test_a_worker_writes_only_to_its_own_trials(studies: Studies) -> None:
    studies.create()
    session, other = studies.join(), studies.join()
    claimed = claim(other)
    before = studies.all_rows()
    for write in (WRITES["tuner's attribute"], WRITES["suggest"], WRITES["Optuna's report"]):
        with pytest.raises(LeaseLostError, match=NOT_OWNED):
            write(session, claimed)
    assert studies.all_rows() == before


# The last method of Optuna that each write calls before it commits.
LAST_OPTUNA_CALL = {
    "report": "_set_trial_intermediate_value_without_commit",
    "tuner's attribute": "_set_trial_attr_without_commit",
    "Optuna's user attribute": "_set_trial_attr_without_commit",
    "Optuna's system attribute": "_set_trial_attr_without_commit",
    "Optuna's report": "_set_trial_intermediate_value_without_commit",
    "suggest": "_set_trial_param_without_commit",
    "complete": "_set_trial_value_without_commit",
}


def failing_after(method: Callable[..., Any]) -> Callable[..., Any]:
    def broken(*args: Any, **options: Any) -> None:
        method(*args, **options)
        raise RuntimeError("a bug of Optuna's")

    return broken


def test_a_failing_optuna_write_leaves_the_lease_unchanged(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies.create()
    session = studies.join()
    claimed = claim(session)
    report(session, claimed, [30.0])
    before = studies.all_rows(), studies.rows("SELECT expires_at FROM tuner_leases")
    for write, name in LAST_OPTUNA_CALL.items():
        with monkeypatch.context() as patch:
            patch.setattr(FencedStorage, name, failing_after(getattr(FencedStorage, name)))
            with pytest.raises(RuntimeError, match="a bug of Optuna's"):
                WRITES[write](session, claimed)
        assert (studies.all_rows(), studies.rows("SELECT expires_at FROM tuner_leases")) == before
    WRITES["complete"](session, claimed)
    assert studies.trials()[0].state == TrialState.COMPLETE


def test_an_end_that_optuna_does_not_store_is_an_error(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna reports a violated constraint of the database by returning False."""
    studies.create()
    session = studies.join()
    claimed = claim(session)
    before = studies.all_rows()

    def violate(*_: Any) -> None:
        raise sqlalchemy.exc.IntegrityError("INSERT", {}, Exception("a constraint"))

    with monkeypatch.context() as patch:
        patch.setattr(FencedStorage, "_set_trial_value_without_commit", violate)
        with pytest.raises(StorageInternalError, match=r"^the trial's end was not stored$"):
            storage(session).set_trial_state_values(claimed.trial_id, TrialState.COMPLETE, [1.0])
    assert studies.all_rows() == before
    assert storage(session).set_trial_state_values(claimed.trial_id, TrialState.COMPLETE, [1.0])
    assert studies.leases()[0][1] == "done"


def test_a_trial_is_created_with_its_lease_or_not_at_all(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds for queued trials and for new ones."""
    studies.create(RANGES + "[[baseline]]\nbeta1 = 0.5")
    session = studies.join()
    before = studies.all_rows()
    for module, name in ((storage_module, "start_queued"), (leases, "create")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, failing_after(getattr(module, name)))
            with pytest.raises(RuntimeError):
                session.claim(DATASET)
        assert studies.all_rows() == before
    assert claim(session).params["beta1"] == 0.5
    before = studies.all_rows()
    steps: list[tuple[Any, str]] = [(FencedStorage, "_get_prepared_new_trial"), (leases, "create")]
    for owner, name in steps:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing_after(getattr(owner, name)))
            with pytest.raises(RuntimeError):
                session.store.database.rdb.begin_trial()
        assert studies.all_rows() == before
    assert claim(studies.join()).number == 1


def test_only_joined_workers_begin_trials_and_never_beyond_the_total(studies: Studies) -> None:
    store = studies.create(trials=1)
    with pytest.raises(AssertionError, match=r"^a running trial needs a lease: see begin_trial$"):
        store.study.ask()
    with pytest.raises(AssertionError, match=r"^only a worker that has joined begins trials$"):
        store.database.rdb.begin_trial()
    assert studies.trials() == []
    store.study.enqueue_trial({})
    with pytest.raises(AssertionError, match=r"^queued trials are started by begin_trial$"):
        store.study.ask()
    claim(studies.join())
    assert studies.join().store.database.rdb.begin_trial() is None
    assert len(studies.trials()) == 1


def end_elsewhere(studies: Studies, number: int) -> None:
    """Fail the trial, as a user does in the dashboard."""
    studies.optuna_study().tell(number, state=TrialState.FAIL)


def test_a_report_on_a_trial_ended_elsewhere_is_not_kept(studies: Studies) -> None:
    studies.create()
    session = studies.join()
    for number, fid in enumerate((20.0, None)):
        claimed = claim(session)
        report(session, claimed, [30.0])
        end_elsewhere(studies, number)
        before = studies.all_rows()
        with pytest.raises(LeaseLostError, match=ENDED):
            session.report(claimed, epoch(2, fid), [epoch(1, 30.0)])
        now = studies.all_rows()
        for table in ("trials", "trial_intermediate_values", "tuner_epochs"):
            assert now[table] == before[table]


def test_a_trial_finished_elsewhere_is_lost_and_the_study_continues(studies: Studies) -> None:
    store = studies.create(HALVING, trials=1)
    session = studies.join()
    for number, write in enumerate(("complete", "fail", "the pruner's marks")):
        claimed = claim(session)
        report(session, claimed, [30.0 - number])  # the best so far: the pruner would mark it
        end_elsewhere(studies, number)
        ended = studies.trials()[number]
        with pytest.raises(LeaseLostError, match=ENDED):
            WRITES[write](session, claimed)
        assert studies.trials()[number] == ended
    assert run(session, [20.0], Complete()).number == 3
    assert store.remaining() == 0
    assert {status for _, status, *_ in studies.leases()} == {"done"}


def test_a_trial_ended_elsewhere_is_not_taken_over(studies: Studies) -> None:
    studies.create()
    lost = studies.join()
    claim(lost)
    end_elsewhere(studies, 0)
    studies.rows(EXPIRE_LEASES)
    session = studies.join()
    assert claim(session).number == 1
    assert [status for _, status, *_ in studies.leases()] == ["done", "held"]


def test_a_deleted_study_is_reported_in_one_line(studies: Studies) -> None:
    store = studies.create()
    session = studies.join()
    claimed = claim(session)
    steering.delete(studies.store())
    place = store.database.place
    with pytest.raises(StorageError, match=f"^{place}: a study or trial is gone") as caught:
        session.claim(DATASET)
    assert not caught.value.transient
    with pytest.raises(LeaseLostError):
        session.report(claimed, epoch(1), [])


def test_a_study_is_deleted_while_its_worker_reports(studies: Studies) -> None:
    """The report comes after the rows to delete are read and before they are deleted."""
    studies.create()
    session = studies.join()
    claimed = claim(session)
    report(session, claimed, [30.0])
    store = studies.store()
    failures: list[Exception] = []

    def report_more() -> None:
        try:
            session.report(claimed, epoch(2, 20.0), [])
        except (LeaseLostError, StorageError) as error:
            failures.append(error)

    reporter = threading.Thread(target=report_more)

    def before_delete(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("DELETE FROM trial_intermediate_values"):
            reporter.start()
            reporter.join(timeout=1)

    sqlalchemy.event.listen(store.database.rdb.engine, "before_cursor_execute", before_delete)
    steering.delete(store)
    reporter.join()
    assert [type(failure) for failure in failures] == [LeaseLostError]
    for table in ("studies", "trials", "tuner_epochs", "tuner_leases", "tuner_workers"):
        assert studies.rows(f"SELECT * FROM {table}") == [], table


def test_the_optuna_internals_in_use_exist() -> None:
    """The methods that ``FencedStorage`` overrides or calls, with their parameters."""
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
    # Every method by which Optuna writes to a trial is fenced, or calls one that is.
    writers = {n for n in vars(optuna.storages.RDBStorage) if n.startswith(("set_trial", "_set_t"))}
    parts = {name for name in writers if name.endswith("_without_commit")}
    assert writers - parts - set(vars(FencedStorage)) == {"set_trial_param"}


def test_nested_optuna_transactions_join_the_outer_one(studies: Studies) -> None:
    """They share the thread's session, so that one commit or rollback covers both."""
    studies.create()
    session = studies.join()
    rdb = storage(session)
    with (
        rdb.transaction() as outer,
        rdb_storage._create_scoped_session(rdb.scoped_session) as inner,
    ):
        assert inner is outer
    claimed = claim(session)
    rdb.held[claimed.trial_id] = Lease(session.worker, 9, 60.0)  # a token that it does not hold
    with pytest.raises(LeaseLostError):
        rdb.set_trial_user_attr(claimed.trial_id, "x", 1)
    assert "x" not in studies.trials()[0].user_attrs


def test_a_lost_trials_pruner_marks_do_not_reach_the_next(studies: Studies) -> None:
    """The pruner had marked the trial when it was lost; the next trial has no marks."""
    studies.create(HALVING + "bootstrap_count = 1")
    session = studies.join()
    lost = claim(session)
    report(session, lost, [30.0])
    assert session.pruner_decision(lost, 1)
    studies.rows(EXPIRE_LEASES)
    claim(studies.join())
    with pytest.raises(LeaseLostError):
        session.finish(lost, Prune("says the pruner"))
    run(session, [None], Prune("not finite"))
    assert studies.trials()[1].system_attrs == {}
