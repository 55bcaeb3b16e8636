"""Deleted studies, and the next study, to which SQLite gives the same ids."""

import contextlib
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import study_databases
from builders import DATASET, epoch
from optuna.trial import TrialState
from study_databases import EXPIRE_LEASES, MACHINE, RANDOM, Studies, claim, report

from tuner.errors import StorageError, TunerError
from tuner.study import steering
from tuner.study.claims import Claim
from tuner.study.dashboard_attributes import publish
from tuner.study.session import WorkerSession
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Fail

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite


def delete_as_tuner(studies: Studies) -> None:
    steering.delete(studies.store())


def delete_as_optuna(studies: Studies) -> None:
    """Delete the study but not tuner's rows, as Optuna's connections enforce no foreign keys."""
    optuna.delete_study(study_name="s", storage=studies.optuna_storage)


def all_rows(studies: Studies, ours: bool = True) -> Any:
    """Every row; without ``ours``, not those of workers and leases, which Optuna leaves behind."""
    tables = ["tuner_studies", "study_system_attributes", *(["tuner_workers"] if ours else [])]
    found = studies.all_rows()
    if not ours:
        del found["tuner_leases"]
    return found, [studies.rows(f"SELECT * FROM {table}") for table in tables]


def work_on(session: WorkerSession, claimed: Claim) -> None:
    """Try everything that a worker does; any of it may fail because the study or trial is gone."""
    attempts: list[Callable[[], Any]] = [
        lambda: session.report(claimed, epoch(2, 1.0), [epoch(1, 30.0)]),
        lambda: session.finish(claimed, Complete(), note="ours"),
        lambda: session.finish(claimed, Fail("ours")),
        lambda: session.release(claimed),
        session._heart.beat,
        session.may_prepare,
        session.prepared,
        lambda: session._search.study._storage.set_study_system_attr(
            session.store.study_id, "qmc:x", 3
        ),
        lambda: publish(session.store, 100, 1.0, {"value": "{}"}, "ours"),
        lambda: session.claim(DATASET),
        session.leave_at_once,
    ]
    for attempt in attempts:
        with contextlib.suppress(TunerError, KeyError):
            attempt()


@pytest.mark.parametrize("delete", [delete_as_tuner, delete_as_optuna])
@pytest.mark.parametrize("next_study", ["ours", "another program's"])
def test_a_worker_of_a_deleted_study_never_touches_the_next(
    sqlite: Studies, delete: Callable[[Studies], None], next_study: str
) -> None:
    old = sqlite.create(RANDOM, trials=9)
    session, late = sqlite.join(), sqlite.store()
    claimed = claim(session)
    report(session, claimed, [30.0])
    delete(sqlite)
    if next_study == "ours":
        new = sqlite.create(RANDOM, name="t")
        assert new.study_id == old.study_id
        report(other := sqlite.join("t"), claim(other), [20.0])
        sqlite.rows(EXPIRE_LEASES)  # a trial that may be taken over
        new.study.enqueue_trial({"beta1": 0.5})
    else:
        foreign = optuna.create_study(study_name="t", storage=sqlite.optuna_storage)
        assert foreign._study_id == old.study_id
        assert foreign.ask()._trial_id == claimed.trial_id
        foreign.enqueue_trial({"beta1": 0.5})
    ours = next_study == "ours"
    before = all_rows(sqlite, ours)
    work_on(session, claimed)
    assert all_rows(sqlite, ours) == before
    with pytest.raises(StorageError, match="a study or trial is gone"):
        session.claim(DATASET)
    with pytest.raises(StorageError, match="a study or trial is gone"):
        WorkerSession(late, MACHINE, sqlite.messages.append).joined().__enter__()
    assert all_rows(sqlite, ours) == before


@pytest.mark.parametrize("delete", [delete_as_tuner, delete_as_optuna])
def test_actions_on_a_deleted_study_do_not_reach_the_next(
    sqlite: Studies, delete: Callable[[Studies], None]
) -> None:
    """The study is deleted and created again while the command waits for confirmation."""
    sqlite.create(RANDOM)
    old = sqlite.store()
    delete(sqlite)
    sqlite.create(RANDOM)
    other = sqlite.join()
    report(other, claim(other), [20.0])
    assert sqlite.store().study_id == old.study_id
    before = all_rows(sqlite)
    actions: list[Callable[[StudyStore], Any]] = [
        StudyStore.request_stop,
        lambda store: steering.enqueue(store, {"beta1": 0.5}, {}),
        lambda store: steering.request_prune(store, 0, "mistaken"),
        lambda store: store.raise_total(99),
        lambda store: store.record_artifacts("elsewhere"),
        lambda store: store.bind({"data": "another"}),
        steering.delete,
    ]
    for action in actions:
        with contextlib.suppress(TunerError):
            action(old)
        assert all_rows(sqlite) == before
    for read in (StudyStore.trials, StudyStore.remaining, StudyStore.fingerprint):
        with pytest.raises(StorageError, match="is gone"):
            read(old)
    with pytest.raises(StorageError, match="is gone"):
        steering.delete(old)
    assert [trial.state for trial in sqlite.trials()] == [TrialState.RUNNING]


def test_delete_applies_only_to_the_study_that_was_opened(studies: Studies) -> None:
    """This holds on Postgres too, which never reuses ids."""
    studies.create(RANDOM)
    old = studies.store()
    steering.delete(studies.store())
    studies.create(RANDOM)
    with pytest.raises(StorageError, match="is gone"):
        steering.delete(old)
    assert studies.store().trials() == []
