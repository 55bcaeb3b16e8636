"""Samplers and pruners of a study file, used as the store uses them."""

import itertools
import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from builders import RANGES, new_database, spec_of

from tuner.spec.parameters import Choices, Range
from tuner.spec.study import StudySpec
from tuner.study.samplers import make_pruner, make_sampler
from tuner.study.space import distributions

MIXED = RANGES + "batch_size = { low = 16, high = 64, step = 16 }\noptimizer = ['adam', 'sgd']\n"
SAMPLERS = {
    "random": "name = 'random'",
    "qmc": "name = 'qmc'",
    "halton": "name = 'qmc'\nqmc_type = 'halton'\nscramble = false",
    "tpe": "name = 'tpe'\nn_startup_trials = 3",
    "tpe group": "name = 'tpe'\nn_startup_trials = 3\ngroup = true",
    "nsga2": "name = 'nsga2'\npopulation_size = 4",
    "cmaes": "name = 'cmaes'\nn_startup_trials = 2\npopsize = 4",
    "cmaes margin": "name = 'cmaes'\nwith_margin = true",
}


def study_of(toml: str, sampler: str, **study: Any) -> StudySpec:
    lines = "\n".join(f"{name} = {value!r}" for name, value in study.items())
    return spec_of(f"[study]\n{lines}\n{toml}\n[sampler]\n{sampler}")


def fid(params: dict[str, Any]) -> float:
    """An objective with its minimum inside the ranges."""
    rate = math.log10(params.get("learning_rate", 1e-3))
    return float(10 + (rate + 3) ** 2 + abs(params.get("beta1", 0.5) - 0.5))


def drive(
    spec: StudySpec, path: Path, trials: int, *, restart: bool = False
) -> list[dict[str, Any]]:
    """The points of ``trials`` trials; with ``restart``, each has a new sampler."""
    rdb = optuna.storages.RDBStorage(new_database(path))
    optuna.create_study(storage=rdb, study_name="s")
    study: optuna.Study | None = None
    points = []
    for _ in range(trials):
        if study is None or restart:
            study = optuna.load_study(storage=rdb, study_name="s", sampler=make_sampler(spec))
        trial = study.ask(fixed_distributions=distributions(spec))
        points.append(trial.params)
        study.tell(trial, fid(trial.params))
    rdb.engine.dispose()
    return points


def assert_valid(spec: StudySpec, point: dict[str, Any]) -> None:
    searched = spec.trial.searched()
    assert set(point) == set(searched)
    for name, value in point.items():
        setting = searched[name]
        if isinstance(setting, Choices):
            assert value in setting.values
        else:
            assert isinstance(setting, Range)
            assert setting.low <= value <= setting.high
            assert type(value) is type(setting.low)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_restarted_sampler_continues_the_same_sequence(sampler: str, tmp_path: Path) -> None:
    spec = study_of(MIXED, sampler, seed=5)
    whole = drive(spec, tmp_path / "whole.db", 7)
    parts = drive(spec, tmp_path / "parts.db", 7, restart=True)
    assert whole == parts
    for point in whole:
        assert_valid(spec, point)
    fewest = 4 if "nsga2" in sampler else 7  # children inherit their parents' values
    assert len({point["learning_rate"] for point in whole}) >= fewest


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "cmaes"])
def test_another_seed_gives_other_points(sampler: str) -> None:
    specs = [study_of(RANGES, SAMPLERS[sampler], seed=seed) for seed in (1, 2)]
    studies = [optuna.create_study(sampler=make_sampler(spec)) for spec in specs]
    for _ in range(5):
        trials = [study.ask(fixed_distributions=distributions(specs[0])) for study in studies]
        assert trials[0].params != trials[1].params
        for study, trial in zip(studies, trials, strict=True):
            study.tell(trial, fid(trial.params))


def test_qmc_points_form_one_sequence() -> None:
    """After the first, random trial, each eighth of a range gets one of the next eight points."""
    spec = study_of(RANGES, "name = 'qmc'\nscramble = true")
    study = optuna.create_study(sampler=make_sampler(spec))
    eighths = []
    for _ in range(9):
        trial = study.ask(fixed_distributions=distributions(spec))
        eighths.append(int(trial.params["beta1"] / 0.9 * 8))
        study.tell(trial, fid(trial.params))
    assert sorted(eighths[1:]) == list(range(8))


@pytest.mark.parametrize(
    "options",
    [
        "name = 'tpe'\nmultivariate = false\nconstant_liar = false\nn_ei_candidates = 3",
        "name = 'cmaes'\nlr_adapt = true",
        "name = 'cmaes'\nwith_margin = true\npopsize = 9",
    ],
)
def test_a_sampler_accepts_its_options(options: str) -> None:
    spec = study_of(MIXED, options)
    study = optuna.create_study(sampler=make_sampler(spec))
    for _ in range(12):
        trial = study.ask(fixed_distributions=distributions(spec))
        assert_valid(spec, trial.params)
        study.tell(trial, fid(trial.params))


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_later_trials_are_better(sampler: str) -> None:
    spec = study_of(RANGES, SAMPLERS[sampler])
    study = optuna.create_study(sampler=make_sampler(spec))
    for _ in range(40):
        trial = study.ask(fixed_distributions=distributions(spec))
        study.tell(trial, fid(trial.params))
    values = [trial.value or 0.0 for trial in study.trials]
    assert sum(values[30:]) < sum(values[:10])


def test_gp_draws_distinct_valid_points(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    spec = study_of(MIXED, "name = 'gp'\nn_startup_trials = 1")
    points = drive(spec, tmp_path / "gp.db", 3, restart=True)
    for point in points:
        assert_valid(spec, point)
    assert len({point["learning_rate"] for point in points}) == 3


GRID = """
[trial]
beta1 = { low = 0.0, high = 0.5, step = 0.25 }
width = { low = 8, high = 9 }
optimizer = ["adam"]
"""
GRID_POINTS = [
    {"beta1": beta1, "width": width, "optimizer": "adam"}
    for beta1 in (0.0, 0.25, 0.5)
    for width in (8, 9)
]


def keys(points: list[dict[str, Any]]) -> list[str]:
    return sorted(repr(sorted(point.items())) for point in points)


def test_grid_visits_every_point_once(tmp_path: Path) -> None:
    spec = study_of(GRID, "name = 'grid'", seed=3)
    points = drive(spec, tmp_path / "grid.db", 6, restart=True)
    assert keys(points) == keys(GRID_POINTS)


def test_grid_visits_failed_points_when_queued_again() -> None:
    spec = study_of(GRID, "name = 'grid'")
    study = optuna.create_study(sampler=make_sampler(spec))
    points = []
    for number in range(7):
        trial = study.ask(fixed_distributions=distributions(spec))
        if number == 2:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)
        else:
            points.append(trial.params)
            study.tell(trial, fid(trial.params))
    assert keys(points) == keys(GRID_POINTS)


def pruned_at(study: optuna.Study, values: list[float]) -> int | None:
    """The epoch at which a trial with these values is pruned, or None."""
    trial = study.ask()
    for epoch, value in enumerate(values, 1):
        trial.report(value, epoch)
        if trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return epoch
    study.tell(trial, values[-1])
    return None


def pruned_after(
    pruner: str, values: list[float], *, before: list[float], epochs: int = 8
) -> int | None:
    """Like ``pruned_at``, after one complete trial with each constant value of ``before``."""
    spec = spec_of(f"[study]\nvalue = 'last'\nepochs = {epochs}\ntrials = 50\n[pruner]\n{pruner}")
    study = optuna.create_study(pruner=make_pruner(spec))
    for value in before:
        trial = study.ask()
        for epoch in range(1, epochs + 1):
            trial.report(value, epoch)
            trial.should_prune()  # makes successive halving record the rungs
        study.tell(trial, value)
    return pruned_at(study, values)


BAD, GOOD = [100.0] * 8, [1.0] * 8
RISING = [10.0, 20, 30, 40, 50, 60, 70, 80]
PEERS = [10.0, 20.0, 30.0, 40.0, 50.0]


@pytest.mark.parametrize(
    ("pruner", "values", "before", "expected"),
    [
        ("name = 'none'", BAD, PEERS, None),
        ("name = 'median'", BAD, PEERS, 1),
        ("name = 'median'", BAD, PEERS[:4], None),
        ("name = 'median'", GOOD, PEERS, None),
        ("name = 'median'\nn_startup_trials = 6", BAD, PEERS, None),
        ("name = 'median'\nn_startup_trials = 2", BAD, PEERS[:2], 1),
        ("name = 'median'\nn_warmup_steps = 4", BAD, PEERS, 4),
        ("name = 'median'\nn_min_trials = 6", BAD, PEERS, None),
        ("name = 'median'", [25.0] * 8, PEERS, None),
        ("name = 'median'", [35.0] * 8, PEERS, 1),
        # Checked at epochs 1 and 4: a bad value from epoch 2 on prunes at epoch 4.
        (
            "name = 'threshold'\nupper = 9\nn_warmup_steps = 1\ninterval_steps = 3",
            RISING,
            [],
            1,
        ),
        (
            "name = 'threshold'\nupper = 15\nn_warmup_steps = 1\ninterval_steps = 3",
            RISING,
            [],
            4,
        ),
        ("name = 'percentile'\npercentile = 10", [25.0] * 8, PEERS, 1),
        ("name = 'percentile'\npercentile = 90", [25.0] * 8, PEERS, None),
        ("name = 'percentile'\nn_warmup_steps = 3", BAD, PEERS, 3),
        ("name = 'successive_halving'", BAD, PEERS, 1),
        ("name = 'successive_halving'\nmin_resource = 2", BAD, PEERS, 2),
        ("name = 'successive_halving'\nmin_resource = 2", GOOD, PEERS, None),
        (
            "name = 'successive_halving'\nmin_resource = 2\nreduction_factor = 2\n"
            "min_early_stopping_rate = 1",
            BAD,
            PEERS,
            4,
        ),
        ("name = 'successive_halving'\nbootstrap_count = 1", GOOD, [], 1),
        ("name = 'successive_halving'", GOOD, [], None),
        ("name = 'threshold'\nupper = 45", RISING, [], 5),
        ("name = 'threshold'\nupper = 45\nn_warmup_steps = 6", RISING, [], 6),
        ("name = 'threshold'\nlower = 45", RISING, [], 1),
        ("name = 'threshold'\nlower = 5\nupper = 500", RISING, [], None),
        ("name = 'patient'\npatience = 2", RISING, [], 4),
        ("name = 'patient'\npatience = 3", RISING, [], 5),
        ("name = 'patient'\npatience = 2\nmin_delta = 25", RISING, [], 6),
        ("name = 'patient'\npatience = 2", RISING[::-1], [], None),
        (
            "name = 'patient'\npatience = 2\nwrapped = { name = 'threshold', upper = 65 }",
            RISING,
            [],
            7,
        ),
        (
            "name = 'patient'\npatience = 2\nwrapped = { name = 'median', n_startup_trials = 6 }",
            RISING,
            PEERS,
            None,
        ),
    ],
)
def test_a_pruner_prunes_at_the_expected_epoch(
    pruner: str, values: list[float], before: list[float], expected: int | None
) -> None:
    assert pruned_after(pruner, values, before=before) == expected


@pytest.mark.parametrize(
    ("epochs", "rungs"), [(8, {1, 3, None}), (9, {1, 3, None}), (27, {1, 3, 9, None})]
)
def test_hyperband_spreads_its_brackets_over_the_epochs(
    epochs: int, rungs: set[int | None]
) -> None:
    spec = spec_of(f"[study]\nepochs = {epochs}\ntrials = 99\n[pruner]\nname = 'hyperband'")
    pruner = make_pruner(spec)
    assert vars(pruner)["_max_resource"] == epochs
    study = optuna.create_study(pruner=pruner, study_name="hyperband")
    for _ in range(20):
        pruned_at(study, [1.0] * epochs)
    ends = {pruned_at(study, [100.0 + n] * (epochs - 1)) for n in range(40)}
    assert ends <= rungs
    assert rungs - {None} <= ends


def test_a_grid_larger_than_memory_is_sampled() -> None:
    """Of 10**35 points, it gives five distinct ones, the same for the same seed."""
    names = ("r1", "r2", "gradient_penalty", "instance_noise", "clip_norm")
    steps = "{ low = 0.0, high = 1.0, step = 1e-7 }"
    toml = "[trial]\n" + "\n".join(f"{name} = {steps}" for name in names)
    specs = [study_of(toml, "name = 'grid'", seed=seed) for seed in (1, 1, 2)]
    found = []
    for spec in specs:
        study = optuna.create_study(sampler=make_sampler(spec))
        asked = [study.ask(fixed_distributions=distributions(spec)).params for _ in range(5)]
        assert len(set(keys(asked))) == 5
        found.append(keys(asked))
    assert found[0] == found[1] != found[2]


def test_concurrent_workers_visit_each_grid_point_once() -> None:
    """Whatever the order in which they store their points."""
    spec = study_of(GRID, "name = 'grid'", seed=3)
    for order in itertools.permutations(range(3)):
        study = optuna.create_study(sampler=make_sampler(spec))
        ids = [study._storage.create_new_trial(study._study_id) for _ in range(6)]
        for number in [*order, 3, 4, 5]:
            trial = optuna.Trial(study, ids[number])
            for name, distribution in distributions(spec).items():
                trial._suggest(name, distribution)
        assert keys([trial.params for trial in study.trials]) == keys(GRID_POINTS)


def test_grid_skips_queued_points_and_repeats_evenly() -> None:
    spec = study_of(GRID, "name = 'grid'")
    study = optuna.create_study(sampler=make_sampler(spec))
    study.enqueue_trial(GRID_POINTS[4])
    points = []
    for _ in range(12):
        trial = study.ask(fixed_distributions=distributions(spec))
        points.append(trial.params)
        study.tell(trial, fid(trial.params))
    assert points[0] == GRID_POINTS[4]
    assert keys(points[:6]) == keys(points[6:]) == keys(GRID_POINTS)
