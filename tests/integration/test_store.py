"""Study stores: total, trials, workers, fingerprint and deletion."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
import sqlalchemy
import study_databases
from builders import epoch, new_database
from study_databases import EXPIRE_LEASES, RANDOM, Studies, claim, report, run

from tuner.errors import InputError, StorageError
from tuner.study import steering
from tuner.study.creation import study_summaries
from tuner.study.database import Database
from tuner.study.fingerprint import digest
from tuner.study.records import StudySummary
from tuner.study.session import WorkerSession
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Fail, Prune
from tuner.study.workers import this_process

url, studies = study_databases.url, study_databases.studies


def test_the_total_is_raised_but_never_lowered(studies: Studies) -> None:
    store, other = studies.create(trials=3), studies.store()
    store.raise_total(5)
    other.raise_total(4)
    assert (store.total, other.total, other.remaining()) == (5, 5, 5)
    store.raise_total(6)
    assert other.remaining() == 6
    assert other.total == 6


def test_only_a_complete_trial_is_the_best(studies: Studies) -> None:
    store = studies.create(RANDOM + "[[baseline]]\nbeta1 = 0.5\n" * 5, trials=7)
    with pytest.raises(InputError, match=r"no complete trial yet$"):
        store.best()
    with pytest.raises(InputError, match="has no trial 0; none has begun"):
        store.trial(0)
    session = studies.join()
    run(session, [5.0], Prune("the best value does not count where it was pruned"))
    run(session, [30.0, 25.0], Complete())
    run(session, [30.0, 27.0], Complete())
    run(session, [1.0], Fail("a bug"))
    claim(session)
    assert (store.best().number, store.best().value) == (1, 25.0)
    with pytest.raises(InputError, match="no trial 7; its trials are 0 to 4"):
        store.trial(7)
    [summary] = study_summaries(studies.open(), print)
    states = {"PRUNED": 1, "COMPLETE": 2, "FAIL": 1, "RUNNING": 1}
    assert summary == StudySummary("s", 7, states, 25.0, "FID", None, workers=1)


def test_waiting_trials_have_not_started(studies: Studies) -> None:
    store = studies.create(RANDOM + "[[baseline]]\nbeta1 = 0.5\n" * 2)
    assert store.trials() == []
    run(studies.join(), [1.0], Complete())
    assert [trial.number for trial in store.trials()] == [0]
    assert store.summary().states == {"COMPLETE": 1, "WAITING": 1}


def test_reports_are_returned_with_their_trials(studies: Studies) -> None:
    store = studies.create()
    studies.create(name="other")
    run(studies.join("other"), [99.0, 98.0], Complete())
    sessions = [studies.join(), studies.join()]
    claims = [claim(session) for session in sessions]
    for number in (1, 2):
        for session, found in zip(sessions, claims, strict=True):
            session.report(found, epoch(number, 10.0 * number + found.number), [])
    fids = [[found.fid for found in trial.reports] for trial in store.trials()]
    assert fids == [[10.0, 20.0], [11.0, 21.0]]


def test_running_trials_name_their_workers(studies: Studies) -> None:
    store = studies.create(lease_seconds=30)
    studies.create(name="other")
    studies.join("other")
    idle, busy, lost = (studies.join() for _ in range(3))
    with WorkerSession(studies.store(), {}, print).joined():
        pass  # this worker has left
    assert claim(busy).number == 0
    report(lost, claim(lost), [30.0])
    studies.rows("UPDATE tuner_workers SET seen_at = seen_at - 40 WHERE worker = :w", w=lost.worker)
    found = store.workers()
    assert [(w.worker, w.alive, w.trial, w.epoch) for w in found] == [
        (idle.worker, True, None, None),
        (busy.worker, True, 0, 0),
        (lost.worker, False, 1, 1),
    ]
    here = this_process()
    assert {(w.host, w.pid, w.device) for w in found} == {(here.host, here.pid, "cpu")}
    assert found[0].seen < 30 < found[2].seen < 70


def test_a_dead_local_worker_is_lost_before_its_lease_expires(studies: Studies) -> None:
    store = studies.create()
    dead, elsewhere, successor = (studies.join() for _ in range(3))
    with subprocess.Popen(["true"]) as process:
        pass
    die = "UPDATE tuner_workers SET pid = :p WHERE worker = :w"
    studies.rows(die, p=process.pid, w=dead.worker)
    studies.rows(die, p=process.pid, w=elsewhere.worker)
    other_machine = "UPDATE tuner_workers SET place = 'of another machine' WHERE worker = :w"
    studies.rows(other_machine, w=elsewhere.worker)
    alive = {worker.worker: worker.alive for worker in store.workers()}
    assert alive == {dead.worker: False, elsewhere.worker: True, successor.worker: True}


def test_a_lost_worker_is_shown_while_its_trial_waits(studies: Studies) -> None:
    store = studies.create()
    lost = studies.join()
    claim(lost)
    studies.rows("UPDATE tuner_workers SET seen_at = 0")
    assert [w.trial for w in store.workers()] == [0]
    studies.rows(EXPIRE_LEASES)
    successor = studies.join()
    claim(successor)
    assert [w.worker for w in store.workers()] == [successor.worker]


def test_stop_requests_reach_the_named_workers(studies: Studies) -> None:
    store = studies.create()
    session = studies.join()
    session._heart.beat()
    assert not session.stop_requested
    store.request_stop()
    later = studies.join()
    for worker in (session, later):
        worker._heart.beat()
    assert session.stop_requested
    assert not later.stop_requested


def test_the_first_artifact_store_is_kept(studies: Studies) -> None:
    store, other = studies.create(), studies.store()
    assert not store.artifacts
    store.record_artifacts("/one")
    other.record_artifacts("/other")
    for found in (store, other, studies.store()):
        assert found.artifacts == "/one"


def test_a_study_is_bound_to_its_metric_fingerprint(studies: Studies) -> None:
    store = studies.create()
    assert (store.fingerprint(), store.summary().fingerprint) == ({}, None)
    store.check_fingerprint({"data": "xyz"})  # not bound yet
    parts = {"data": "abc", "samples": "9"}
    store.bind(parts)
    again = studies.store()
    again.bind(parts)
    with pytest.raises(
        InputError, match="study 's': found data xyz, expected abc; numbers would not"
    ):
        again.bind(parts | {"data": "xyz"})
    with pytest.raises(InputError, match="data xyz, expected abc; found samples 8, expected 9;"):
        again.check_fingerprint({"data": "xyz", "samples": "8"})
    assert again.fingerprint() == parts
    assert store.summary().fingerprint == digest(parts)


def test_binding_a_bound_study_writes_nothing(studies: Studies) -> None:
    """A read-only role can therefore evaluate the best trial again."""
    store, parts = studies.create(), {"data": "abc"}
    store.bind(parts)
    statements: list[str] = []
    engine = store.database.rdb.engine
    sqlalchemy.event.listen(
        engine, "before_cursor_execute", lambda *args: statements.append(args[2])
    )
    store.bind(parts)
    assert statements
    assert not any(statement.startswith("UPDATE") for statement in statements)


def test_concurrent_bindings_accept_only_one(studies: Studies) -> None:
    studies.create()
    stores = [studies.store() for _ in range(4)]

    def bind(store: StudyStore) -> bool:
        with suppress(InputError):
            store.bind({"data": str(id(store))})
            return True
        return False

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(bind, stores)) == 1


def test_studies_of_one_name_have_folders_of_their_own(tmp_path: Path) -> None:
    folders = set()
    for name in ("one", "other"):
        studies = Studies(new_database(tmp_path / f"{name}.db"))
        folders.add(studies.create().folder)
        studies.close()
    assert len(folders) == 2
    assert all(folder.startswith("s-") for folder in folders)


def test_a_missing_database_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    with pytest.raises(StorageError, match="no such database; to create one, run: ") as caught:
        Database(f"sqlite:///{path}")
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.exit_code == 3
    assert not path.exists()


def test_a_missing_study_is_refused_with_the_existing_names(studies: Studies) -> None:
    studies.create()
    optuna.create_study(storage=studies.optuna_storage, study_name="foreign")
    for name, why in {
        "t": "no study 't',",
        "foreign": "'foreign' was made, .* files;",
    }.items():
        with pytest.raises(InputError, match=f"{why} expected one of: s$"):
            studies.store(name)


def test_an_unreadable_study_file_is_refused_in_one_line(studies: Studies) -> None:
    studies.create()
    studies.rows("""UPDATE tuner_studies SET spec = '{"old": 1}', tuner_version = '9.8.7'""")
    store = studies.store()
    assert store.trials() == []
    with pytest.raises(InputError, match=r"has a study file of tuner 9\.8\.7, .* can't read$"):
        _ = store.spec


def test_trials_of_another_tuner_version_are_read_but_not_resumed(studies: Studies) -> None:
    studies.create()
    run(studies.join(), [30.0], Complete())
    studies.rows("UPDATE tuner_studies SET tuner_version = '0.0.9'")
    store = studies.store()
    assert store.best().value == 30.0
    with pytest.raises(InputError, match=r"was created by tuner 0\.0\.9, but this is 0\.1\."):
        WorkerSession(store, {}, print)
    studies.rows("UPDATE tuner_studies SET tuner_version = '0.1.99'")
    run(studies.join(), [30.0], Complete())


@pytest.mark.parametrize("by", ["tuner", "plain Optuna"])
def test_a_deleted_study_leaves_nothing_behind(by: str, studies: Studies) -> None:
    """SQLite reuses ids, and Optuna's connections do not enforce foreign keys."""
    run_and_leave(studies)
    if by == "tuner":
        steering.delete(studies.store())
    else:
        optuna.delete_study(storage=studies.optuna_storage, study_name="s")
    assert studies.open().study_names() == []
    run_again(studies)
    assert studies.rows("SELECT count(*) FROM tuner_epochs") == [(2,)]


def run_and_leave(studies: Studies) -> None:
    studies.create()
    session = studies.join()
    run(session, [30.0, 20.0, 10.0], Complete())
    report(session, claim(session), [30.0])
    session.leave_at_once()


def run_again(studies: Studies) -> None:
    """Run a study of the same name; nothing of the first one may be left in it."""
    store = studies.create(epochs=9)
    assert store.spec.study.epochs == 9
    assert (store.total, store.trials(), store.workers()) == (3, [], [])
    session = studies.join()
    for number in range(2):
        found = claim(session)
        assert (found.number, found.token, found.history) == (number, 1, ())
        assert store.trial(number).reports == ()
        report(session, found, [77.0])
        session.finish(found, Prune("bad"))
    assert [[r.fid for r in trial.reports] for trial in store.trials()] == [[77.0], [77.0]]
    assert [w.worker for w in store.workers()] == [session.worker]
