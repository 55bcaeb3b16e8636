"""Several objectives: which are allowed, their values, and the Pareto front."""

import itertools
import random
from typing import Any

import optuna
import pytest
from builders import RANGES, assert_problem, epoch, problems, spec_of
from trials import record

from tuner.epoch_report import History
from tuner.spec.constraint import Size
from tuner.spec.metrics import ALL_OBJECTIVES
from tuner.spec.study import StudySpec, file_table
from tuner.spec.warnings import warnings
from tuner.study.objectives import dominates, objective_values, pareto_front
from tuner.study.study_row import directions_of
from tuner.study.warm_start import ranked_for_start
from tuner.views import summaries
from tuner.views.pareto import front_plot
from tuner.views.study_toml import spec_toml

FID_AND_SECONDS = "[metrics]\nobjectives = ['fid', 'seconds']\n"


def test_the_first_objective_stands_where_one_number_is_needed() -> None:
    metrics = spec_of("[metrics]\nobjectives = ['recall', 'fid']\n").metrics
    assert (metrics.objective, metrics.names) == ("recall", ("recall", "fid"))
    assert metrics.extras(1, 9) == {"neighbours"}  # at every evaluation, not only at the last
    single = spec_of("[metrics]\nobjective = 'kid'\n").metrics
    assert (single.several, single.names, single.extras(1, 9)) == (False, ("kid",), {"kid"})


@pytest.mark.parametrize(
    ("metrics", "key", "part"),
    [
        ("objectives = ['fid']", "metrics.objectives", "at least two different objectives"),
        ("objectives = ['fid', 'fid']", "metrics.objectives", "at least two different objectives"),
        ("objectives = ['fid', 'kid', 'fid']", "metrics.objectives", "each once"),
        ("objectives = ['seconds', 'fid']", "metrics.objectives", "expected a metric of images"),
        ("objectives = ['fid', 'loss']", "metrics.objectives.2", "found 'loss'"),
        ("objectives = ['loss', 'fid']", "metrics.objectives.1", "found 'loss'"),
        ("objectives = ['fid', 3]", "metrics.objectives.2", "found 3"),
        ("objectives = 'fid'", "metrics.objectives", "found 'fid'"),
        ("objectives = ['fid', 'kid']\nobjective = 'kid'", "metrics.objective", "leave it out"),
        ("objective = 'recall'", "metrics.objective", "or several in objectives"),
    ],
)
def test_wrong_objectives_are_refused(metrics: str, key: str, part: str) -> None:
    assert_problem(f"[metrics]\n{metrics}\n", key, part)


@pytest.mark.parametrize(
    ("toml", "key", "part"),
    [
        ("[sampler]\nname = 'cmaes'\n", "sampler.name", "use one of random, grid, qmc, tpe, nsga2"),
        ("[sampler]\nname = 'gp'\n", "sampler.name", "gp supports only one objective"),
        ("[confirm]\ntop = 3\n", "confirm.top", "no single winner to confirm"),
        ("[stop]\npatience = 3\n", "stop.patience", "the Pareto front but not the first"),
    ],
)
def test_what_needs_one_objective_is_refused(toml: str, key: str, part: str) -> None:
    assert_problem(FID_AND_SECONDS + RANGES + toml, key, part)
    assert problems(RANGES + toml) == []


@pytest.mark.parametrize("first", ["fid", "recall"])
@pytest.mark.parametrize("pruner", ["asha", "median", "successive_halving"])
def test_pruners_work_with_several_objectives(first: str, pruner: str) -> None:
    toml = f"[metrics]\nobjectives = ['{first}', 'kid']\n[pruner]\nname = '{pruner}'\n"
    assert problems(toml) == []


def test_a_generation_as_large_as_the_study_is_announced() -> None:
    sampler = "[sampler]\nname = 'nsga2'\n"
    [line] = [line for line in warnings(spec_of(RANGES + sampler)) if "population" in line]
    assert "the first 50 complete trials are random, and the study has 20" in line
    assert not any(
        "population" in line for line in warnings(spec_of(RANGES + sampler + "population_size = 5"))
    )


def test_a_study_file_names_its_objectives_once() -> None:
    spec = spec_of("[metrics]\nobjectives = ['recall', 'fid']\n")
    assert file_table(spec)["metrics"] == {"objectives": ["recall", "fid"]}
    assert spec_of(spec_toml(spec)) == spec
    assert StudySpec.model_validate_json(spec.model_dump_json()) == spec


def test_the_best_of_a_metric_that_is_maximised_is_the_highest() -> None:
    history = History(epoch(n, recall=value) for n, value in enumerate([0.2, 0.6, None, 0.4], 1))
    assert history.best_so_far("recall") == {1: 0.2, 2: 0.6, 4: 0.6}
    assert history.best_value("recall") == 0.6
    assert history.scored_epoch("recall", "best") == 2
    assert history.scored_epoch("recall", "last") == 4
    assert History().best_value("recall") is None


def test_all_values_belong_to_one_epoch() -> None:
    toml = "[metrics]\nobjectives = ['fid', 'recall', 'seconds', 'parameters']\n"
    history = History(
        epoch(n, fid, recall=recall)
        for n, (fid, recall) in enumerate([(30.0, 0.9), (20.0, 0.5), (25.0, 0.7)], 1)
    )
    size = Size(30, 12)
    best = {"fid": 20.0, "recall": 0.5, "seconds": 8.0, "parameters": 42}
    last = {"fid": 25.0, "recall": 0.7, "seconds": 12.0, "parameters": 42}
    assert objective_values(spec_of(toml), history, size) == best
    assert objective_values(spec_of(f"[study]\nvalue = 'last'\n{toml}"), history, size) == last
    assert objective_values(spec_of(toml), history) is None
    assert objective_values(spec_of(toml), History(), size) is None
    assert objective_values(spec_of(toml), History([epoch(1, 30.0)]), size) is None  # no recall


def trial(number: int, state: str = "COMPLETE", **objectives: float) -> Any:
    values = objectives if state == "COMPLETE" else {}
    first = next(iter(objectives.values()))
    return record(number, state, value=first, objectives=values)


@pytest.mark.parametrize("names", [("fid", "seconds"), ("recall", "fid"), ("fid", "recall", "kid")])
def test_the_front_is_the_one_that_optuna_finds(names: tuple[str, ...]) -> None:
    draw = random.Random(0)
    study = optuna.create_study(directions=directions_of(names))
    trials = []
    for number in range(60):
        values = {name: float(draw.randrange(40)) for name in names}  # with ties
        trials.append(record(number, value=values[names[0]], objectives=values))
        study.add_trial(optuna.trial.create_trial(values=list(values.values())))
    expected = {found.number for found in study.best_trials}
    front = pareto_front(trials)
    assert {found.number for found in front} == expected
    assert 1 < len(front) < 60
    costs = [found.cost or 0.0 for found in front]
    assert costs == sorted(costs)
    for one, other in itertools.permutations(front, 2):
        assert not dominates(one.objectives, other.objectives)


def test_only_complete_trials_are_on_the_front() -> None:
    worse, pruned = trial(0, fid=9.0, seconds=9.0), trial(1, "PRUNED", fid=1.0, seconds=1.0)
    assert pareto_front([worse, pruned]) == [worse]
    assert pareto_front([pruned]) == []
    one, other = record(3, value=30.0), record(4, value=20.0)
    assert pareto_front([one, other]) == [other]  # of one objective


def test_a_warm_start_begins_with_the_front() -> None:
    trials = [trial(0, fid=1.0, kid=9.0), trial(1, fid=2.0, kid=9.5), trial(2, fid=3.0, kid=1.0)]
    assert [found.number for found in ranked_for_start(trials)] == [0, 2, 1]


def test_the_front_is_named_in_one_line() -> None:
    trials = [trial(n, fid=float(n), seconds=float(-n)) for n in range(30)]
    line = summaries.front_line("s", trials[:2])
    assert line.startswith("Pareto front of FID and seconds: 2 trials (0, 1); to list them: ")
    assert line.endswith("best s --all")
    assert "30 trials (0, 1, " in summaries.front_line("s", trials)
    assert summaries.front_line("s", [record(0)]) == ""
    best = summaries.best_line(trials[3:], "fid")
    assert best.startswith("Best by FID: trial 3, FID 3, seconds -3 (one seed), ")


def test_the_front_is_drawn() -> None:
    spec = spec_of(FID_AND_SECONDS)
    trials = [trial(0, fid=3.0, seconds=1.0), trial(1, fid=1.0, seconds=3.0)]
    trials += [trial(2, fid=4.0, seconds=4.0), trial(3, "PRUNED", fid=0.0, seconds=0.0)]
    points, front = front_plot(spec, trials).data
    assert (list(points.x), list(points.y)) == ([3.0, 1.0, 4.0], [1.0, 3.0, 4.0])
    assert (list(front.x), list(front.y)) == ([1.0, 3.0], [3.0, 1.0])
    assert front.text[0].startswith("trial 1<br>FID 1, seconds 3<br>learning_rate=")
    [message] = front_plot(spec_of(""), trials).layout.annotations
    assert message.text == "The study has one objective, FID."


def test_every_objective_has_a_direction() -> None:
    higher = [name for name, objective in ALL_OBJECTIVES.items() if objective.higher]
    assert higher == ["precision", "recall", "density", "coverage"]
