"""A study as it is read and steered: its total, its trials, its workers, and whose it is."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
import sqlalchemy
import workplace
from builders import epoch, new_database
from workplace import LONG_AGO, RANDOM, Studies, claim, report, run

from tuner.errors import InputError, StorageError
from tuner.study import steering
from tuner.study.creation import summaries
from tuner.study.database import Database
from tuner.study.fingerprint import digest
from tuner.study.membership import Membership
from tuner.study.processes import this_process
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Fail, Prune

url, studies = workplace.url, workplace.studies


def test_the_total_is_raised_but_never_lowered(studies: Studies) -> None:
    store, other = studies.make(trials=3), studies.store()
    store.raise_total(5)
    other.raise_total(4)
    assert (store.total, other.total, other.remaining()) == (5, 5, 5)
    store.raise_total(6)
    assert other.remaining() == 6
    assert other.total == 6


def test_best_trial_and_summary(studies: Studies) -> None:
    store = studies.make(RANDOM + "[[baseline]]\nbeta1 = 0.5\n" * 5, trials=7)
    with pytest.raises(InputError, match="no complete trial yet"):
        store.best()
    with pytest.raises(InputError, match="no trial 0, expected one that has begun; none has"):
        store.trial(0)
    member = studies.join()
    run(member, [5.0], Prune("the best value does not count where it was pruned"))
    run(member, [30.0, 25.0], Complete())
    run(member, [30.0, 27.0], Complete())
    run(member, [1.0], Fail("a bug"))
    claim(member)
    assert (store.best().number, store.best().value) == (1, 25.0)
    with pytest.raises(InputError, match="no trial 7, expected 0 to 4"):
        store.trial(7)
    [summary] = summaries(studies.open())
    states = {"PRUNED": 1, "COMPLETE": 2, "FAIL": 1, "RUNNING": 1}
    assert summary == ("s", 7, states, 25.0, "FID", None)


def test_what_waits_has_not_begun(studies: Studies) -> None:
    store = studies.make(RANDOM + "[[baseline]]\nbeta1 = 0.5\n" * 2)
    assert store.trials() == []
    run(studies.join(), [1.0], Complete())
    assert [trial.number for trial in store.trials()] == [0]
    assert store.summary().states == {"COMPLETE": 1, "WAITING": 1}


def test_every_report_comes_with_its_own_trial(studies: Studies) -> None:
    store = studies.make()
    studies.make(name="other")
    run(studies.join("other"), [99.0, 98.0], Complete())
    members = [studies.join(), studies.join()]
    claims = [claim(member) for member in members]
    for number in (1, 2):
        for member, found in zip(members, claims, strict=True):
            member.report(found, epoch(number, 10.0 * number + found.number), [])
    fids = [[found.fid for found in trial.reports] for trial in store.trials()]
    assert fids == [[10.0, 20.0], [11.0, 21.0]]


def test_who_works_on_what(studies: Studies) -> None:
    store = studies.make(lease_seconds=30)
    studies.make(name="other")
    studies.join("other")
    idle, busy, lost = (studies.join() for _ in range(3))
    with Membership(studies.store(), {}, print):
        pass  # left again
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


def test_who_has_died_here_is_lost_before_its_lease_is_over(studies: Studies) -> None:
    store = studies.make()
    dead, elsewhere, heir = (studies.join() for _ in range(3))
    with subprocess.Popen(["true"]) as process:
        pass
    die = "UPDATE tuner_workers SET pid = :p WHERE worker = :w"
    studies.rows(die, p=process.pid, w=dead.worker)
    studies.rows(die, p=process.pid, w=elsewhere.worker)
    away = "UPDATE tuner_workers SET place = 'of another machine' WHERE worker = :w"
    studies.rows(away, w=elsewhere.worker)
    alive = {worker.worker: worker.alive for worker in store.workers()}
    assert alive == {dead.worker: False, elsewhere.worker: True, heir.worker: True}


def test_who_was_lost_long_ago_is_shown_while_its_trial_waits(studies: Studies) -> None:
    store = studies.make()
    lost = studies.join()
    claim(lost)
    studies.rows("UPDATE tuner_workers SET seen_at = 0")
    assert [w.trial for w in store.workers()] == [0]
    studies.rows(LONG_AGO)
    heir = studies.join()
    claim(heir)
    assert [w.worker for w in store.workers()] == [heir.worker]


def test_who_is_told_to_stop(studies: Studies) -> None:
    store = studies.make()
    member = studies.join()
    member._heart.beat()
    assert not member.stop_requested
    store.request_stop()
    later = studies.join()
    for worker in (member, later):
        worker._heart.beat()
    assert member.stop_requested
    assert not later.stop_requested


def test_the_first_place_of_the_files_stands(studies: Studies) -> None:
    store, other = studies.make(), studies.store()
    assert not store.artifacts
    store.keep_artifacts_at("/one")
    other.keep_artifacts_at("/other")
    for found in (store, other, studies.store()):
        assert found.artifacts == "/one"


def test_a_study_is_tied_to_what_it_was_measured_with(studies: Studies) -> None:
    store = studies.make()
    assert (store.fingerprint(), store.summary().fingerprint) == ({}, None)
    store.check_fingerprint({"data": "xyz"})  # nothing is known yet
    parts = {"data": "abc", "samples": "9"}
    store.bind(parts)
    again = studies.store()
    again.bind(parts)
    with pytest.raises(InputError, match="study 's': found data xyz, expected abc, with which"):
        again.bind(parts | {"data": "xyz"})
    with pytest.raises(InputError, match="data xyz, expected abc; found samples 8, expected 9,"):
        again.check_fingerprint({"data": "xyz", "samples": "8"})
    assert again.fingerprint() == parts
    assert store.summary().fingerprint == digest(parts)


def test_who_finds_a_study_tied_writes_nothing(studies: Studies) -> None:
    """A role that may only read can measure the best trial again."""
    store, parts = studies.make(), {"data": "abc"}
    store.bind(parts)
    statements: list[str] = []
    engine = store.database.rdb.engine
    sqlalchemy.event.listen(
        engine, "before_cursor_execute", lambda *args: statements.append(args[2])
    )
    store.bind(parts)
    assert statements
    assert not any(statement.startswith("UPDATE") for statement in statements)


def test_one_of_two_that_bind_at_once_is_refused(studies: Studies) -> None:
    studies.make()
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
        folders.add(studies.make().folder)
        studies.close()
    assert len(folders) == 2
    assert all(folder.startswith("s-") for folder in folders)


def test_missing_database(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    with pytest.raises(StorageError, match="found no database, expected one made by") as caught:
        Database(f"sqlite:///{path}")
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.exit_code == 3
    assert not path.exists()


def test_missing_study(studies: Studies) -> None:
    studies.make()
    optuna.create_study(storage=studies.plain_storage, study_name="foreign")
    for name in ("t", "foreign"):
        with pytest.raises(InputError, match=f"found no study '{name}', expected one of: s$"):
            studies.store(name)


def test_a_study_file_of_another_version_is_one_line(studies: Studies) -> None:
    studies.make()
    studies.rows("""UPDATE tuner_studies SET spec = '{"old": 1}', tuner_version = '9.8.7'""")
    store = studies.store()
    assert store.trials() == []
    with pytest.raises(InputError, match=r"found a study file of tuner 9\.8\.7 in .* can't read$"):
        _ = store.spec


def test_trials_of_another_tuner_are_read_but_not_gone_on_with(studies: Studies) -> None:
    studies.make()
    run(studies.join(), [30.0], Complete())
    studies.rows("UPDATE tuner_studies SET tuner_version = '0.0.9'")
    store = studies.store()
    assert store.best().value == 30.0
    with pytest.raises(InputError, match=r"found a study of tuner 0\.0\.9 in .* this is 0\.1\."):
        Membership(store, {}, print)
    studies.rows("UPDATE tuner_studies SET tuner_version = '0.1.99'")
    run(studies.join(), [30.0], Complete())


@pytest.mark.parametrize("by", ["us", "plain Optuna"])
def test_a_deleted_study_leaves_nothing_behind(by: str, studies: Studies) -> None:
    """SQLite gives its ids to what comes next, and lets our rows be over Optuna's connections."""
    run_and_leave(studies)
    if by == "us":
        steering.delete(studies.store())
    else:
        optuna.delete_study(storage=studies.plain_storage, study_name="s")
    assert studies.open().study_names() == []
    run_anew(studies)
    assert studies.rows("SELECT count(*) FROM tuner_epochs") == [(2,)]


def run_and_leave(studies: Studies) -> None:
    studies.make()
    member = studies.join()
    run(member, [30.0, 20.0, 10.0], Complete())
    report(member, claim(member), [30.0])
    member.leave_at_once()


def run_anew(studies: Studies) -> None:
    """A study of that name, in which nothing of the first one turns up."""
    store = studies.make(epochs=9)
    assert store.spec.study.epochs == 9
    assert (store.total, store.trials(), store.workers()) == (3, [], [])
    member = studies.join()
    for number in range(2):
        found = claim(member)
        assert (found.number, found.token, found.history) == (number, 1, ())
        assert store.trial(number).reports == ()
        report(member, found, [77.0])
        member.finish(found, Prune("bad"))
    assert [[r.fid for r in trial.reports] for trial in store.trials()] == [[77.0], [77.0]]
    assert [w.worker for w in store.workers()] == [member.worker]
