"""A study in a real SQLite database: what is stored, what Optuna sees, and who owns it."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from builders import RANGES, SHAPE, epoch, new_database, spec_of
from optuna.trial import TrialState

from tuner.errors import InputError, StorageError, TunerError
from tuner.study.creation import create_study, summaries
from tuner.study.database import Database
from tuner.study.space import derive_seed
from tuner.study.store import Claim, StudyStore
from tuner.study.verdict import Complete, Fail, Prune, Verdict

RANDOM = RANGES + "[sampler]\nname = 'random'\n[pruner]\nname = 'none'\n"
BASELINES = """
[[baseline]]
learning_rate = 2e-4
beta1 = 0.5
[[baseline]]
beta1 = 0.25
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return new_database(tmp_path / "studies.db")


def make(url: str, toml: str = RANDOM, **study: Any) -> StudyStore:
    study = {"name": "s", "trials": 3, "epochs": 4} | study
    lines = "\n".join(f"{name} = {value!r}" for name, value in study.items())
    return create_study(Database(url, create=True), spec_of(f"[study]\n{lines}\n{toml}"))


def claim(store: StudyStore) -> Claim:
    found = store.claim(SHAPE, {"device": "cpu", "jax": "0.10"})
    assert found is not None
    return found


def run(store: StudyStore, fids: list[float | None], end: Verdict, artifact: str = "") -> Claim:
    """A trial with these FIDs that ends so."""
    found = claim(store)
    for number, fid in enumerate(fids, 1):
        store.report(found, epoch(number, fid, finite=fid is not None))
    store.finish(found, end, artifact or None)
    return found


def optunas(url: str, name: str = "s") -> list[optuna.trial.FrozenTrial]:
    """The trials as Optuna alone reads them."""
    return optuna.load_study(storage=url, study_name=name).trials


def test_created_twice_is_one_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/deep/er/studies.db"
    make(url, RANDOM + BASELINES)
    store = make(url, RANDOM + BASELINES)
    assert store.database.study_names() == ["s"]
    assert len(optunas(url)) == 2
    assert store.spec == spec_of(
        f"[study]\nname = 's'\ntrials = 3\nepochs = 4\n{RANDOM}{BASELINES}"
    )


def test_another_study_file_is_refused(url: str) -> None:
    store = make(url)
    with store.owned():
        claim(store)
    with pytest.raises(InputError) as caught:
        make(url, RANDOM.replace("0.9", "0.8"), epochs=9)
    text = str(caught.value)
    assert "study 's'" in text
    assert "study.epochs: 4 in the database, 9 in the file" in text
    assert "trial.beta1: {'low': 0.0, 'high': 0.9} in the database" in text
    make(url, name="another", epochs=9)
    assert set(Database(url).study_names()) == {"s", "another"}


def test_the_total_may_differ_and_be_raised(url: str) -> None:
    make(url, trials=3)
    store = make(url, trials=5)
    assert (store.total, store.remaining()) == (3, 3)
    store.raise_total(5)
    store.raise_total(4)
    assert (store.total, store.remaining()) == (5, 5)
    assert StudyStore(Database(url), "s").total == 5


def test_baselines_come_first_and_once(url: str) -> None:
    store = make(url, RANDOM + BASELINES)
    with store.owned():
        found = [run(store, [1.0], Complete()) for _ in range(3)]
    assert found[0].params == {"learning_rate": 2e-4, "beta1": 0.5}
    assert found[1].params["beta1"] == 0.25
    assert 1e-4 <= found[1].params["learning_rate"] <= 1e-2
    assert found[2].params["beta1"] not in (0.5, 0.25)
    assert [trial.user_attrs.get("tuner:baseline") for trial in optunas(url)] == [True, True, None]


def test_a_claim_is_a_trial_in_full(url: str) -> None:
    store = make(url, seed=9)
    with store.owned():
        run(store, [1.0], Complete())
        found = claim(store)
    assert found.number == 1
    assert found.config.hyperparameters.beta1 == found.params["beta1"]
    assert found.config.hyperparameters.generator_learning_rate == found.params["learning_rate"]
    assert found.config.program.image_shape == SHAPE
    assert (found.config.seed, found.config.epochs) == (derive_seed(9, 1), 4)
    trial = optunas(url)[1]
    assert (trial.state, trial.params) == (TrialState.RUNNING, found.params)


FIDS: list[float | None] = [30.0, 20.0, 25.0, 22.0]


@pytest.mark.parametrize(
    ("value", "seen", "final"),
    [
        ("best", {1: 30.0, 2: 20.0, 3: 20.0, 4: 20.0}, 20.0),
        ("last", {1: 30.0, 2: 20.0, 3: 25.0, 4: 22.0}, 22.0),
    ],
)
def test_optuna_sees_the_best_fid_so_far_or_the_last(
    value: str, seen: dict[int, float], final: float, url: str
) -> None:
    store = make(url, value=value)
    with store.owned():
        run(store, FIDS, Complete(), "trial-00000.safetensors")
    [trial] = optunas(url)
    assert trial.intermediate_values == seen
    assert (trial.state, trial.value) == (TrialState.COMPLETE, final)
    [record] = store.trials()
    assert [report.fid for report in record.reports] == FIDS
    assert record.reports == tuple(epoch(n, fid) for n, fid in enumerate(FIDS, 1))
    assert (record.state, record.value, record.artifact) == (
        "COMPLETE",
        final,
        "trial-00000.safetensors",
    )
    assert record.machine == {"device": "cpu", "jax": "0.10"}


@pytest.mark.parametrize(
    ("fids", "end", "state", "value"),
    [
        ([30.0, 40.0], Complete(), TrialState.COMPLETE, 30.0),
        ([30.0, 40.0], Prune("bad"), TrialState.PRUNED, 30.0),
        ([30.0, 40.0, None], Prune("not finite"), TrialState.PRUNED, 30.0),
        ([None], Prune("not finite"), TrialState.PRUNED, None),
        ([], Prune("out of memory"), TrialState.PRUNED, None),
        ([None], Complete(), TrialState.PRUNED, None),
        ([30.0], Fail("a bug"), TrialState.FAIL, None),
    ],
)
def test_how_a_trial_ends(
    fids: list[float | None], end: Verdict, state: TrialState, value: float | None, url: str
) -> None:
    store = make(url)
    with store.owned():
        found = run(store, fids, end)
    [trial] = optunas(url)
    assert (trial.state, trial.value) == (state, value)
    assert isinstance(end, Complete | Prune | Fail)
    assert trial.user_attrs["tuner:reason"] == end.reason
    record = store.trial(found.number)
    assert (record.state, record.reason, record.value) == (state.name, end.reason, value)
    assert [report.fid for report in record.reports] == fids
    assert store.summary().states == {state.name: 1}


def test_what_was_lost_is_none_in_the_table(url: str) -> None:
    store = make(url)
    lost = epoch(1, None, finite=False, d_loss=None, loss_ratio=None, d_auc=None)
    with store.owned():
        found = claim(store)
        assert store.report(found, lost) is False
        store.finish(found, Prune("not finite"))
    assert store.trial(0).reports == (lost,)


def test_the_pruner_is_asked(url: str) -> None:
    store = make(url, RANGES + "[pruner]\nname = 'threshold'\nupper = 10\nn_warmup_steps = 2")
    with store.owned():
        found = claim(store)
        asked = [store.report(found, epoch(n, fid)) for n, fid in enumerate([99.0, 9.0, 99.0], 1)]
        store.finish(found, Complete())
        other = claim(store)
        asked += [store.report(other, epoch(n, 99.0)) for n in (1, 2)]
    # The first trial's best so far is 9, so its 99 in epoch 3 is borne.
    assert asked == [False, False, False, False, True]


def test_the_total_is_exact(url: str) -> None:
    store = make(url, trials=3)
    with store.owned():
        run(store, FIDS, Complete())
        run(store, [30.0], Prune("bad"))
        assert store.remaining() == 1
        last = claim(store)
        assert store.remaining() == 1
        assert store.claim(SHAPE, {}) is None
        store.finish(last, Complete())
        assert store.claim(SHAPE, {}) is None
        store.raise_total(4)
        run(store, FIDS, Complete())
        assert store.claim(SHAPE, {}) is None
    assert len(optunas(url)) == 4


def test_a_failed_trial_does_not_count(url: str) -> None:
    store = make(url, trials=1)
    with store.owned():
        failed = run(store, [30.0], Fail("a bug"))
        assert store.remaining() == 1
        again = run(store, FIDS, Complete())
        assert store.claim(SHAPE, {}) is None
    assert again.params != failed.params
    assert store.summary().states == {"FAIL": 1, "COMPLETE": 1}


def test_what_is_to_be_tried_again_is_queued(url: str) -> None:
    store = make(url, trials=2)
    with store.owned():
        failed = run(store, [30.0], Fail("interrupted", requeue=True))
        assert [record.state for record in store.trials()] == ["FAIL"]  # what waits has not begun
        again = run(store, FIDS, Complete())
        other = run(store, FIDS, Complete())
    assert (again.number, again.params) == (1, failed.params)
    assert other.params != failed.params
    assert [len(record.reports) for record in store.trials()] == [1, 4, 4]


def test_best_trial_and_summary(url: str) -> None:
    store = make(url)
    with pytest.raises(InputError, match="no complete trial yet"):
        store.best()
    with pytest.raises(InputError, match="no trial 0, expected one that has begun; none has"):
        store.trial(0)
    with store.owned():
        run(store, [5.0], Prune("the best value does not count where it was pruned"))
        run(store, [30.0, 25.0], Complete())
        run(store, [30.0, 27.0], Complete())
    assert (store.best().number, store.best().value) == (1, 25.0)
    with pytest.raises(InputError, match="no trial 7, expected 0 to 2"):
        store.trial(7)
    [summary] = summaries(Database(url))
    assert summary == ("s", 3, {"PRUNED": 1, "COMPLETE": 2}, 25.0)


def test_traceback_is_kept(url: str) -> None:
    store = make(url)
    with store.owned():
        found = claim(store)
        store.keep_traceback(found, "Traceback: line 3")
        store.finish(found, Fail("a bug"))
    assert optunas(url)[0].user_attrs["tuner:traceback"] == "Traceback: line 3"


def test_a_restarted_worker_goes_on_with_new_points(url: str) -> None:
    params = []
    for _ in range(3):
        store = make(url)
        with store.owned():
            params.append(run(store, FIDS, Complete()).params["beta1"])
    assert len(set(params)) == 3


HOLD = """
import sys, time
from tuner.study.database import Database
from tuner.study.store import StudyStore
from builders import SHAPE, epoch
store = StudyStore(Database(sys.argv[1]), "s")
with store.owned():
    claim = store.claim(SHAPE, {})
    store.report(claim, epoch(1, 33.0))
    print(claim.params["beta1"], flush=True)
    time.sleep(60)
"""


def test_a_dead_owners_trial_is_buried_and_queued_again(url: str) -> None:
    store = make(url)
    here = str(Path(__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, url],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": here},
    ) as owner:
        assert owner.stdout is not None
        beta1 = float(owner.stdout.readline())
        try:
            with (
                pytest.raises(TunerError, match="another process on this machine is running it"),
                store.owned(),
            ):
                pytest.fail("two owners")
            assert store.trial(0).state == "RUNNING"
        finally:
            os.kill(owner.pid, signal.SIGKILL)
            owner.wait()
    with store.owned():
        assert store.trial(0).state == "FAIL"
        assert store.trial(0).reason == "its process died"
        assert [report.fid for report in store.trial(0).reports] == [33.0]
        assert store.remaining() == 3
        again = claim(store)
    assert (again.number, again.params["beta1"]) == (1, beta1)
    with store.owned():  # the second trial was never finished, so its owner is taken for dead
        third = claim(store)
    assert (third.number, third.params) == (2, again.params)


def test_other_studies_of_a_database_can_be_owned_at_once(url: str) -> None:
    one, other = make(url, name="one"), make(url, name="other")
    with one.owned(), other.owned():
        run(one, FIDS, Complete())
        run(other, [8.0], Complete())
    assert [len(store.trials()[0].reports) for store in (one, other)] == [4, 1]


def test_the_lock_is_let_go(url: str) -> None:
    store = make(url)
    with pytest.raises(KeyError), store.owned():
        raise KeyError
    with store.owned():
        assert claim(store).number == 0


def test_missing_database(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    with pytest.raises(StorageError, match="found no database, expected one made by") as caught:
        Database(f"sqlite:///{path}")
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.exit_code == 3
    assert not path.exists()


def test_missing_study(url: str) -> None:
    make(url)
    with pytest.raises(InputError, match="found no study 't', expected one of: s"):
        StudyStore(Database(url), "t")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@host/studies",
        "mysql+pymysql://me:secret@host/studies",
        "sqlite://",
        "me:secret@host",
        "studies.db",
    ],
)
def test_only_sqlite_files(url: str) -> None:
    with pytest.raises(InputError, match="expected sqlite:///FILE") as caught:
        Database(url, create=True)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unusable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "corrupt.db").write_bytes(b"not a database at all " * 300)
    (tmp_path / "folder.db").mkdir()
    places = ["file/studies.db", "corrupt.db", "folder.db"]
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        places.append("locked/studies.db")
    for place in places:
        with pytest.raises(StorageError) as caught:
            Database(f"sqlite:///{tmp_path}/{place}", create=True)
        assert str(caught.value).startswith(f"{tmp_path}/{place}: ")
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 3


def test_a_folder_that_can_not_be_written_on_linux() -> None:
    with pytest.raises(StorageError, match=r"^/proc/tuner/studies.db: "):
        Database("sqlite:////proc/tuner/studies.db", create=True)


def test_a_deleted_study_leaves_nothing_behind(url: str) -> None:
    store = make(url)
    with store.owned():
        run(store, FIDS, Complete())
        run(store, FIDS, Prune("bad"))
    optuna.delete_study(storage=url, study_name="s")
    assert Database(url).study_names() == []
    store = make(url, RANDOM + BASELINES, epochs=9)
    assert store.spec.study.epochs == 9
    assert (store.total, store.trials()) == (3, [])
    with store.owned():
        first = claim(store)
        assert store.trial(0).reports == ()
        store.report(first, epoch(1, 77.0))
        store.finish(first, Prune("bad"))
    assert [report.fid for report in store.trial(0).reports] == [77.0]


def test_our_rows_go_with_optunas_through_our_connections(url: str) -> None:
    store = make(url)
    with store.owned():
        run(store, FIDS, Complete())
    optuna.delete_study(storage=store.database.rdb, study_name="s")
    with sqlite3.connect(store.database.path) as connection:
        for table in ("tuner_studies", "tuner_epochs"):
            assert connection.execute(f"select count(*) from {table}").fetchone() == (0,)
    connection.close()


def test_studies_of_others_are_let_alone(url: str) -> None:
    make(url)
    optuna.create_study(storage=url, study_name="foreign")
    assert Database(url).study_names() == ["s"]
    with pytest.raises(InputError, match="found no study 'foreign'"):
        StudyStore(Database(url), "foreign")


def test_a_study_without_trials_is_made_anew_from_a_mended_file(tmp_path: Path) -> None:
    database = Database(new_database(tmp_path / "s.db"), create=True)
    create_study(database, spec_of(RANGES + "[study]\nepochs = 3"))
    store = create_study(database, spec_of(RANGES + "[study]\nepochs = 4"))
    assert store.spec.study.epochs == 4
    assert database.study_names() == [store.name]


def test_a_study_is_tied_to_what_it_was_measured_with(tmp_path: Path) -> None:
    database = Database(new_database(tmp_path / "s.db"), create=True)
    store = create_study(database, spec_of(RANGES))
    store.bind("data", "abc")
    again = StudyStore(database, store.name)
    again.bind("data", "abc")
    with pytest.raises(InputError, match="found data xyz, expected abc"):
        again.bind("data", "xyz")


def test_a_study_of_another_version_is_one_line(tmp_path: Path) -> None:
    database = Database(new_database(tmp_path / "s.db"), create=True)
    name = create_study(database, spec_of(RANGES)).name
    with database.rdb.engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE tuner_studies SET spec = '{\"old\": 1}'"))
    with pytest.raises(InputError, match="found a study file of tuner"):
        StudyStore(database, name)


def test_a_point_queued_again_takes_nothing_of_its_first_try_along(tmp_path: Path) -> None:
    database = Database(new_database(tmp_path / "s.db"), create=True)
    store = create_study(database, spec_of(RANGES))
    with store.owned():
        first = claim(store)
        store.report(first, epoch(1, 50.0))
        store.finish(first, Fail("interrupted", requeue=True), artifact="first.safetensors")
        claim(store)
    _, second = store.trials()
    assert second.params == first.params
    assert (second.reason, second.artifact, second.reports) == (None, None, ())
