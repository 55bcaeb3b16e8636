"""Studies with several objectives in the database: stored, resumed, pruned, searched, shown."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
import study_databases
from builders import RANGES, epoch
from command_line import call
from optuna.study import StudyDirection
from optuna.trial import TrialState
from study_databases import EXPIRE_LEASES, Studies, claim, each_lost_commit

from tuner.epoch_report import EpochReport
from tuner.errors import InputError
from tuner.study.claims import Claim
from tuner.study.creation import create_study
from tuner.study.screening import screened
from tuner.study.session import WorkerSession
from tuner.study.store import StudyStore
from tuner.study.verdict import Complete, Fail, Pause, Prune
from tuner.views.data_frames import trials_frame
from tuner.views.studies import sorted_trials

url, studies, sqlite = study_databases.url, study_databases.studies, study_databases.sqlite


NO_PRUNER = "[pruner]\nname = 'none'"


def two(sampler: str = "random", more: str = NO_PRUNER) -> str:
    metrics = "[metrics]\nobjectives = ['fid', 'recall']\n"
    return f"{RANGES}{metrics}[sampler]\nname = '{sampler}'\n{more}\n"


def train(
    session: WorkerSession, claimed: Claim, values: list[tuple[float, float]]
) -> list[EpochReport]:
    """Report the trial's next epochs with these FIDs and recalls; returns all reports."""
    history = list(claimed.history)
    for fid, recall in values:
        history.append(epoch(len(history) + 1, fid, recall=recall))
        session.report(claimed, history[-1], history[:-1])
    return history


def complete(session: WorkerSession, fid: float, recall: float) -> Claim:
    claimed = claim(session)
    train(session, claimed, [(fid, recall)])
    session.finish(claimed, Complete())
    return claimed


def test_all_values_of_the_best_epoch_are_stored(studies: Studies) -> None:
    store = studies.create(two())
    session = studies.join()
    claimed = claim(session)
    train(session, claimed, [(30.0, 0.9), (20.0, 0.5), (25.0, 0.7)])
    session.finish(claimed, Complete(), "trial-00000.safetensors")
    complete(session, 40.0, 0.95)
    complete(session, 45.0, 0.8)  # worse than the second trial in both
    found = studies.optuna_study()
    assert found.directions == [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    assert found.metric_names == ["FID", "recall"]
    assert [trial.values for trial in found.trials] == [[20.0, 0.5], [40.0, 0.95], [45.0, 0.8]]
    assert found.trials[0].intermediate_values == {1: 30.0, 2: 20.0, 3: 20.0}
    assert [trial.number for trial in store.front()] == [0, 1]
    assert {trial.number for trial in found.best_trials} == {0, 1}
    best = store.best()
    assert (best.number, best.value, best.objectives) == (0, 20.0, {"fid": 20.0, "recall": 0.5})
    assert store.summary().objective == "FID, recall"


def test_a_trial_that_is_taken_over_ends_with_all_values(studies: Studies) -> None:
    store = studies.create(two(), trials=1)
    lost = studies.join()
    first = claim(lost)
    train(lost, first, [(30.0, 0.9), (20.0, 0.5)])
    studies.rows(EXPIRE_LEASES)
    session = studies.join()
    second = claim(session)
    assert (second.number, second.token, len(second.history)) == (0, 2, 2)
    train(session, second, [(25.0, 0.7), (26.0, 0.8)])
    session.finish(second, Complete())
    assert store.trial(0).objectives == {"fid": 20.0, "recall": 0.5}
    assert store.remaining() == 0


def test_a_lost_answer_neither_loses_nor_repeats_values(studies: Studies) -> None:
    store = studies.create(two(), trials=60)
    session = studies.join()
    for lost in each_lost_commit(session):
        claimed = claim(session)
        train(session, claimed, [(20.0, 0.5)])
        with lost:
            session.finish(claimed, Complete())
        assert store.trial(claimed.number).objectives == {"fid": 20.0, "recall": 0.5}
    values = studies.rows("SELECT count(*) FROM trial_values")[0][0]
    assert values == 2 * len(store.trials())


def test_a_trial_without_one_of_its_values_is_not_complete(sqlite: Studies) -> None:
    store = sqlite.create(two())
    session = sqlite.join()
    claimed = claim(session)
    session.report(claimed, epoch(1, 20.0), [])  # no recall
    session.finish(claimed, Complete())
    pruned = claim(session)
    train(session, pruned, [(30.0, 0.9)])
    session.finish(pruned, Prune("bad"))
    states = [(t.state, t.value, t.objectives) for t in store.trials()]
    assert states == [("PRUNED", 20.0, {}), ("PRUNED", 30.0, {})]
    assert [trial.values for trial in sqlite.trials()] == [None, None]
    assert store.front() == []


def test_trials_are_sorted_by_a_first_objective_that_is_maximised(sqlite: Studies) -> None:
    toml = f"{RANGES}[metrics]\nobjectives = ['recall', 'fid']\n{NO_PRUNER}\n"
    store, session = sqlite.create(toml, trials=9), sqlite.join()
    for recall, end in ((0.5, Complete()), (0.3, Prune("bad")), (0.4, Prune("bad"))):
        train(session, claimed := claim(session), [(20.0, recall)])
        session.finish(claimed, end)
    train(session, failed := claim(session), [(20.0, 0.9)])
    session.finish(failed, Fail("a bug"))
    trials = store.trials()
    assert [trial.value for trial in trials] == [0.5, 0.3, 0.4, None]
    for key, expected in {"value": [0, 2, 1, 3], "-value": [1, 2, 0, 3]}.items():
        assert [t.number for t in sorted_trials(trials, key, "recall")] == expected


@pytest.mark.parametrize("first", ["fid", "recall"])
@pytest.mark.parametrize(
    "pruner",
    [
        "name = 'median'\nn_startup_trials = 2",
        "name = 'successive_halving'\nreduction_factor = 2",
        "name = 'hyperband'\nreduction_factor = 2",
        "name = 'patient'\npatience = 0\n[pruner.wrapped]\nname = 'median'\nn_startup_trials = 2",
    ],
)
def test_pruners_judge_by_the_first_objective(pruner: str, first: str, sqlite: Studies) -> None:
    other = {"fid": "recall", "recall": "fid"}[first]
    toml = RANGES + f"[metrics]\nobjectives = ['{first}', '{other}']\n[pruner]\n{pruner}\n"
    sqlite.create(toml + "[sampler]\nname = 'random'\n", trials=16, value="last")
    session = sqlite.join()
    pruned = dict[bool, int]()
    for number in range(16):
        good = number < 2 or number % 2 == 0
        start = {"fid": 10.0, "recall": 0.5} if good else {"fid": 50.0, "recall": 0.1}
        step = {"fid": 1.0, "recall": -0.01}  # each epoch is a little worse
        gain = {"fid": -1e-3, "recall": 1e-3}  # each trial is a little better
        claimed, history = claim(session), list[EpochReport]()
        ended = False
        for n in range(1, 5):
            values: dict[str, Any] = {k: start[k] + n * step[k] + number * gain[k] for k in start}
            history.append(epoch(n, **values))
            session.report(claimed, history[-1], history[:-1])
            decision = session.pruner_decision(claimed, n) if n < 4 else None
            if isinstance(decision, Prune):
                session.finish(claimed, decision)
                pruned[good] = pruned.get(good, 0) + 1
                ended = True
                break
        if not ended:
            session.finish(claimed, Complete())
    assert pruned.get(False, 0) >= 3
    assert pruned.get(False, 0) > pruned.get(True, 0)


def test_trials_pause_by_the_first_objective(sqlite: Studies) -> None:
    store = sqlite.create(two(more="[pruner]\nname = 'asha'\nreduction_factor = 2"), trials=2)
    session = sqlite.join()
    good = claim(session)
    train(session, good, [(10.0, 0.1)])
    assert isinstance(session.pruner_decision(good, 1), Pause)
    session.pause(good, 1000)
    bad = claim(session)
    train(session, bad, [(50.0, 0.9)])
    assert isinstance(session.pruner_decision(bad, 1), Pause)
    session.pause(bad, 1000)
    promoted = claim(session)
    assert promoted.number == good.number
    train(session, promoted, [(9.0, 0.1), (8.0, 0.2), (8.5, 0.3)])
    session.finish(promoted, Complete())
    assert store.trial(0).objectives == {"fid": 8.0, "recall": 0.2}
    paused, done = screened(store.study, store.spec).trials[::-1]
    assert (paused.state, done.state) == (TrialState.PRUNED, TrialState.COMPLETE)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "qmc"], ids=["tpe", "nsga2", "qmc"])
def test_samplers_search_with_pruned_trials_among_the_others(sampler: str, sqlite: Studies) -> None:
    options = {"tpe": "n_startup_trials = 4", "nsga2": "population_size = 4", "qmc": ""}[sampler]
    store = sqlite.create(two(sampler, f"{options}\n{NO_PRUNER}"), trials=16)
    session = sqlite.join()
    for number in range(16):
        claimed = claim(session)
        rate, beta = claimed.params["learning_rate"], claimed.params["beta1"]
        train(session, claimed, [(1e4 * rate, beta)])
        session.finish(claimed, Prune("bad") if number % 4 == 3 else Complete())
    points = {tuple(sorted(trial.params.items())) for trial in store.trials()}
    assert len(points) >= (12 if sampler == "nsga2" else 16)  # parents may return
    assert sqlite.messages == []
    if sampler == "nsga2":
        key = "NSGAIISampler:generation"
        generations = [trial.system_attrs[key] for trial in sqlite.trials()]
        assert generations[0] == 0
        assert max(generations) == 3  # after 12 complete trials


def test_tpe_ranks_pruned_trials_behind_complete_ones(sqlite: Studies) -> None:
    """As with one objective: by the epoch, then by the value; untrained ones come last."""
    store = sqlite.create(two("tpe"), trials=5)
    session = sqlite.join()
    for values in ([(50.0, 0.1)], [(10.0, 0.1)], [(90.0, 0.1), (80.0, 0.1)], []):
        claimed = claim(session)
        train(session, claimed, values)
        session.finish(claimed, Prune("bad"))
    complete(session, 99.0, 0.0)
    found = screened(store.study, store.spec).trials
    scores = {trial.number: sum(trial.constraints.values()) for trial in found}
    assert sorted(scores, key=lambda number: scores[number]) == [4, 2, 1, 0, 3]
    assert scores[4] == 0
    assert all(trial.intermediate_values == {} for trial in found if trial.number < 4)


def test_a_warm_start_takes_the_front_first(sqlite: Studies) -> None:
    sqlite.create(two(), trials=3)
    session = sqlite.join()
    params = [complete(session, *v).params for v in ((10.0, 0.1), (11.0, 0.05), (30.0, 0.9))]
    toml = f"{RANGES}[warm_start]\nstudy = 's'\ntop = 2\n"
    new = sqlite.create(toml, name="new")
    queued = [trial.system_attrs["fixed_params"] for trial in new.study.trials]
    assert queued == [params[0], params[2]]


def test_other_directions_are_a_damaged_study(sqlite: Studies) -> None:
    store = sqlite.create(two())
    assert StudyStore(store.database, "s").objectives == ("fid", "recall")
    sqlite.rows("UPDATE study_directions SET direction = 'MINIMIZE'")
    with pytest.raises(InputError, match="another program has changed study_directions"):
        sqlite.store()


def test_another_number_of_objectives_is_another_study(sqlite: Studies) -> None:
    store = sqlite.create(two())
    complete(sqlite.join(), 20.0, 0.5)
    other = study_databases.spec(RANGES)
    with pytest.raises(InputError, match=r"metrics\.objectives"):
        create_study(store.database, other)


def test_commands_show_the_front(
    sqlite: Studies,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # not the width of the terminal that runs the tests

    def output(*words: str) -> str:
        assert call(*words, "--storage", sqlite.url) == 0
        return capsys.readouterr().out

    store = sqlite.create(two(), trials=4)
    session = sqlite.join()
    for values in ((20.0, 0.5), (40.0, 0.9), (45.0, 0.8)):
        complete(session, *values)
    line = "Pareto front of FID and recall: 2 trials (0, 1)"
    status = output("status", "s")
    assert line in status
    assert "Best by FID: trial 0, FID 20, recall 0.5 (one seed)" in status
    front = json.loads(output("status", "s", "--json"))["front"]
    assert [trial["objectives"] for trial in front] == [
        {"fid": 20.0, "recall": 0.5},
        {"fid": 40.0, "recall": 0.9},
    ]
    assert json.loads(output("best", "s", "--all", "--json")) == front
    listed = [row.split()[:5] for row in output("best", "s", "--all").splitlines()]
    assert listed[0] == ["trial", "state", "epochs", "FID", "recall"]
    assert listed[1:] == [["0", "complete", "1", "20", "0.5"], ["1", "complete", "1", "40", "0.9"]]
    assert "complete, FID 40, recall 0.9 (the best of its epochs)" in output("show", "s", "1")
    frame = trials_frame(store.spec, store.trials())
    assert list(frame.columns[:3]) == ["state", "value", "recall"]
    assert list(frame["recall"]) == [0.5, 0.9, 0.8]
    page = tmp_path / "report.html"
    output("report", "s", "--out", str(page))
    text = page.read_text()
    assert line in text
    assert "<h3>Pareto front of FID and recall</h3>" in text
    assert call("confirm", "s", "--top", "2", "--storage", sqlite.url) == 2
    assert "finish the search first" in capsys.readouterr().err
    complete(session, 50.0, 0.7)
    assert call("confirm", "s", "--top", "2", "--storage", sqlite.url) == 2
    assert "no single winner to confirm" in capsys.readouterr().err


def test_optuna_opens_the_study_for_itself(sqlite: Studies) -> None:
    sqlite.create(two("nsga2", NO_PRUNER), trials=2)
    complete(sqlite.join(), 20.0, 0.5)
    found = sqlite.optuna_study()
    optuna.visualization.plot_pareto_front(found)
    assert [trial.number for trial in found.best_trials] == [0]
