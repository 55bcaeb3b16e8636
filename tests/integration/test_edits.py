"""Edits of a study that workers run."""

import json
import threading
from typing import Any

import pytest
import study_databases
from builders import DATASET, RANGES, epoch
from command_line import call
from study_databases import EXPIRE_LEASES, RANDOM, Studies, claim, report, run, spec

from tuner.errors import InputError, StorageError
from tuner.files.study_files import begin_study
from tuner.spec.edits import Change
from tuner.study import edits, steering
from tuner.study.claims import Idle
from tuner.study.creation import create_study
from tuner.study.samplers import make_pruner
from tuner.study.session import WorkerSession
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Pause, Prune
from tuner.views.figures import PLOTS

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite
LOW, HIGH = "trial.learning_rate.high=1e-3", "trial.learning_rate.low=1e-3"
ASHA = RANGES + "[sampler]\nname = 'random'\n[pruner]\nname = 'asha'\nreduction_factor = 2\n"


def edit(store: StudyStore, *words: str) -> list[Change]:
    return edits.edit(store, words, "me@here")


def rate(session: WorkerSession) -> float:
    """The learning rate of the next trial, which completes."""
    return float(run(session, [9.0], Complete()).params["learning_rate"])


def test_a_running_worker_follows_at_its_next_claim(studies: Studies) -> None:
    store = studies.create(trials=40)
    session = studies.join()
    claimed = claim(session)
    pruner = "pruner.name=median"
    edit(store, HIGH, pruner, "study.max_takeovers=1", "study.checkpoint_seconds=1")
    assert session.spec.pruner.name == "none"  # until the trial has ended
    report(session, claimed, [9.0])
    session.finish(claimed, Complete())
    rates = [rate(session) for _ in range(9)]
    assert min(rates) >= 1e-3
    assert (session.spec, session.spec.pruner.name) == (store.spec, "median")
    assert type(session._search.study.pruner) is type(make_pruner(store.spec))
    assert studies.join().spec == store.spec


def test_the_history_lists_who_changed_what(studies: Studies) -> None:
    store = studies.create(trials=5)
    assert edits.history(store) == []
    [first] = edit(store, "study.trials=9")
    assert first == Change("study.trials", 5, 9)
    edits.edit(store, [LOW, "pictures.every=3"], "you@there")
    old = {"low": 1e-4, "high": 1e-2, "log": True}
    assert [(one.editor, one.changes) for one in edits.history(studies.store())] == [
        ("me@here", [first]),
        (
            "you@there",
            [
                Change("trial.learning_rate", old, old | {"high": 1e-3}),
                Change("pictures.every", 10, 3),
            ],
        ),
    ]
    [first_at, second_at] = [one.edited_at for one in edits.history(store)]
    assert 0 <= second_at - first_at < 60
    assert edit(store, "pictures.every=3", "study.trials=9") == []
    assert len(edits.history(store)) == 2


def test_the_total_is_lowered_and_raised(studies: Studies) -> None:
    store = studies.create(trials=5)
    session = studies.join()
    run(session, [9.0], Complete())
    assert edit(store, "study.trials=1") == [Change("study.trials", 5, 1)]
    assert (session.claim(DATASET), store.remaining()) == (Idle.ENDED, 0)
    store.raise_total(3)
    assert edit(store, "study.trials=2") == [Change("study.trials", 3, 2)]
    run(session, [9.0], Complete())
    assert session.claim(DATASET) is Idle.ENDED


def test_a_refused_edit_changes_nothing(studies: Studies) -> None:
    store = studies.create()
    before = store.spec
    with pytest.raises(InputError, match=r"^study 's': study\.seed: can't be changed: .*$"):
        edit(store, "study.seed=3", "study.trials=9")
    assert (studies.store().spec, studies.store().total, edits.history(store)) == (before, 3, [])


def test_of_two_edits_at_the_same_time_both_take_effect(studies: Studies) -> None:
    stores = [studies.create(trials=3), studies.store()]
    problems: list[Exception] = []

    def edit_often(store: StudyStore, key: str) -> None:
        try:
            for number in range(1, 9):
                edit(store, f"{key}={number}")
        except Exception as error:
            problems.append(error)

    keys = ("pictures.every", "study.checkpoint_seconds")
    threads = [
        threading.Thread(target=edit_often, args=pair) for pair in zip(stores, keys, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    spec = studies.store().spec
    assert (spec.pictures.every, spec.study.checkpoint_seconds) == (8, 8.0)
    history = edits.history(stores[0])
    assert len(history) == 16
    assert all(len(one.changes) == 1 for one in history)


def test_a_trial_outside_a_narrowed_range_goes_on(studies: Studies) -> None:
    store = studies.create(trials=3)
    steering.enqueue(store, {"learning_rate": 5e-3, "beta1": 0.1}, {})
    session = studies.join()
    first = claim(session)
    report(session, first, [50.0])
    edit(store, LOW)
    studies.rows(EXPIRE_LEASES)
    other = studies.join()
    taken = claim(other)
    assert (taken.number, taken.params, taken.config) == (0, first.params, first.config)
    assert [one.epoch for one in taken.history] == [1]
    other.report(taken, epoch(2, 40.0), [*taken.history])
    assert other.pruner_decision(taken, 2) is None
    other.finish(taken, Complete())
    assert rate(other) <= 1e-3
    assert store.trial(0).value == 40.0


@pytest.mark.parametrize("point", [{"learning_rate": 5e-3, "beta1": 0.1}, {"learning_rate": 5e-3}])
def test_a_queued_trial_outside_a_narrowed_range_runs(studies: Studies, point: Any) -> None:
    store = studies.create(trials=3)
    steering.enqueue(store, point, {})
    edit(store, LOW)
    with pytest.raises(InputError, match=r"learning_rate: found 0\.005, expected 0\.0001 to 0"):
        steering.parse_point(store, ["learning_rate=5e-3"])
    session = studies.join()
    claimed = run(session, [9.0], Complete())
    assert claimed.params | point == claimed.params
    assert claimed.config.hyperparameters.generator_learning_rate == 5e-3
    assert rate(session) <= 1e-3
    # A point that no version of the study file allows is refused as before.
    studies.optuna_study().enqueue_trial({"learning_rate": 3.0})
    edit(store, "study.trials=9")
    rate(session)
    assert "outside the search space" in str(store.trial(2).reason)


@pytest.mark.parametrize("name", ["tpe", "cmaes", "qmc", "random"])
def test_samplers_ignore_trials_outside_the_new_ranges(studies: Studies, name: str) -> None:
    toml = RANGES + "optimizer = ['adam', 'sgd']\n"
    sampler = f"[sampler]\nname = '{name}'\n[pruner]\nname = 'none'\n"
    store = studies.create(toml + sampler, trials=40)
    session = studies.join()
    for number in range(14):
        run(session, [10.0 + number], Complete())
    edit(store, HIGH, "trial.optimizer=['lion', 'adam']", "trial.beta1={low=0.2,high=0.95}")
    for number in range(12):
        params = run(session, [5.0 + number], Complete()).params
        assert 1e-3 <= params["learning_rate"] <= 1e-2
        assert params["optimizer"] in ("lion", "adam")
        assert 0.2 <= params["beta1"] <= 0.95
    assert not [trial for trial in store.trials() if trial.state == "FAIL"]
    for plot in PLOTS.values():
        plot.draw(store.spec, store.trials())


def test_the_grid_may_grow(studies: Studies) -> None:
    grid = "[trial]\nbatch_size = [32, 64]\n[sampler]\nname = 'grid'\n[pruner]\nname = 'none'\n"
    store = studies.create(grid, trials=4)
    session = studies.join()
    for _ in range(2):
        run(session, [9.0], Complete())
    edit(store, "trial.batch_size=[32, 128, 64, 16]")
    for _ in range(2):
        run(session, [9.0], Complete())
    assert sorted(trial.params["batch_size"] for trial in store.trials()) == [16, 32, 64, 128]


def test_a_branch_whose_choice_is_removed_goes_on(studies: Studies) -> None:
    when = "optimizer = ['sgd', 'adam']\n[trial.when.optimizer.sgd]\nmomentum = [0.5, 0.9]\n"
    store = studies.create(f"[trial]\n{when}[sampler]\nname = 'random'\n", trials=3)
    steering.enqueue(store, {"optimizer": "sgd", "momentum": 0.5}, {})
    session = studies.join()
    first = claim(session)
    session.release(first)
    edit(store, "trial.optimizer=['adam', 'lion']")
    again = claim(session)
    assert (again.number, again.params, again.config) == (0, first.params, first.config)
    report(session, again, [9.0])
    session.finish(again, Complete())
    for plot in PLOTS.values():
        plot.draw(store.spec, store.trials())


def pause(session: WorkerSession, fid: float) -> int:
    """Train a trial for one epoch, after which asha pauses it."""
    claimed = claim(session)
    report(session, claimed, [fid])
    assert isinstance(session.pruner_decision(claimed, 1), Pause)
    session.pause(claimed, 1000)
    return claimed.number


def test_paused_trials_go_on_when_an_edit_replaces_asha(studies: Studies) -> None:
    store = studies.create(ASHA, trials=2, epochs=5)
    session, late = studies.join(), studies.join()
    pause(session, 9.0)
    still = claim(late)
    edit(store, "pruner.name=none")
    again = claim(session)
    assert (again.number, len(again.history)) == (0, 1)
    assert session.pruner_decision(again, 1) is None
    session.finish(again, Complete())
    # A worker still follows the old file, and pauses its trial where nobody promotes any more.
    report(late, still, [10.0])
    late.pause(still, 1000)
    assert claim(session).number == 1


def test_trials_paused_where_no_rung_is_left_go_on(studies: Studies) -> None:
    store = studies.create(ASHA, trials=3, epochs=9)
    session = studies.join()
    pause(session, 9.0)
    edit(store, "pruner.min_resource=2")
    again = claim(session)
    assert (again.number, again.rung) == (0, 1)
    assert session.pruner_decision(again, 1) is None
    session.report(again, epoch(2, 8.0), [*again.history])
    assert isinstance(session.pruner_decision(again, 2), Pause)


def test_a_prune_request_outlives_an_edit_of_the_pruner(studies: Studies) -> None:
    store = studies.create(ASHA, trials=2, epochs=5)
    session = studies.join()
    pause(session, 9.0)
    steering.request_prune(store, 0, "enough")
    edit(store, "pruner.name=none")
    again = claim(session)
    assert again.prune_reason == "enough"
    session.finish(again, Prune("enough"))


def test_a_worker_that_cannot_run_the_edited_study_leaves(studies: Studies) -> None:
    store = studies.create()
    session = studies.join()

    def refuse(spec: Any) -> None:
        raise InputError(f"study {spec.study.name!r}: not on these images")

    session.when_edited = refuse
    run(session, [9.0], Complete())
    edit(store, LOW)
    with pytest.raises(InputError, match="not on these images"):
        session.claim(DATASET)
    assert [lease[1] for lease in studies.leases()] == ["done"]


def test_the_files_from_before_an_edit_still_resume_the_study(sqlite: Studies) -> None:
    store = sqlite.create(trials=5)
    run(sqlite.join(), [9.0], Complete())
    edit(store, LOW, "study.trials=3")
    edit(store, "pictures.every=3")
    for file in (spec(trials=5), store.spec, spec(trials=50)):
        assert create_study(sqlite.open(), file).spec == store.spec
    with pytest.raises(InputError, match="with a different study file"):
        create_study(sqlite.open(), spec(seed=9))
    again, _ = begin_study(sqlite.open(), spec(trials=5), raise_total=True)
    assert again.total == 3  # the edit stands
    again, _ = begin_study(sqlite.open(), spec(trials=8), raise_total=True)
    assert again.total == 8  # the file was changed


def test_an_edited_study_that_has_not_begun_is_not_replaced(sqlite: Studies) -> None:
    store = sqlite.create()
    edit(store, LOW)
    assert create_study(sqlite.open(), spec()).token == store.token
    other = create_study(sqlite.open(), spec(seed=9))
    assert (other.token == store.token, edits.history(other)) == (False, [])


def test_a_damaged_history_is_read_around(studies: Studies) -> None:
    store = studies.create(trials=9)
    edit(store, "pictures.every=3")
    edit(store, LOW)
    edit(store, "pictures.every=4")
    studies.rows("UPDATE tuner_edits SET changes = '[[1, 2], 5]' WHERE number = 1")
    studies.rows("UPDATE tuner_edits SET changes = '{', spec = '{' WHERE number = 2")
    assert [one.changes for one in edits.history(store)] == [[Change("pictures.every", 3, 4)]]
    assert len(edits.earlier_specs(store)) == 2
    session = studies.join()
    run(session, [9.0], Complete())


def test_an_edit_of_a_deleted_study_fails_in_one_line(studies: Studies) -> None:
    store = studies.create()
    session = studies.join()
    edit(store, LOW)
    steering.delete(studies.store())
    for act in (lambda: edit(store, HIGH), lambda: session.claim(DATASET)):
        with pytest.raises(StorageError, match=r"^[^\n]*$"):
            act()
    assert studies.rows("SELECT * FROM tuner_edits") == []


def test_the_command_edits_and_lists(
    sqlite: Studies, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite.create(RANDOM, trials=9)
    monkeypatch.setenv("TUNER_STORAGE", sqlite.url)
    monkeypatch.setenv("TUNER_MACHINE", "here")
    monkeypatch.setenv("LOGNAME", "me")
    assert call("edit", "s") == 0
    assert capsys.readouterr().out == "Study 's' has not been edited.\n"
    assert call("edit", "s", "study.trials=12", "trial.beta1={low=0, high=0.5}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "trial.beta1: { low = 0.0, high = 0.9 } -> { low = 0.0, high = 0.5 }",
        "study.trials: 9 -> 12",
    ]
    assert lines[-1] == "Study 's': workers follow at their next trial."
    assert call("edit", "s", "study.trials=12") == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert call("edit", "s", "study.seed=3", "study.epochs=5", "study.trial=5") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("tuner: ").split(": ")[:2] for line in lines] == [
        ["study 's'", f"study.{key}"] for key in ("seed", "epochs", "trial")
    ]
    assert call("edit", "s", "--json") == 0
    [found] = json.loads(capsys.readouterr().out)
    assert found["editor"] == "me@here"
    assert found["changes"][1] == {"key": "study.trials", "old": 9, "new": 12}
    assert call("edit", "s") == 0
    assert "study.trials: 9 -> 12" in capsys.readouterr().out
