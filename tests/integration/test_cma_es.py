"""CMA-ES by replay: the same search as Optuna's CMA-ES, without its pickle."""

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from tuner.spec import samplers
from tuner.study.cma_es import CmaEsSampler
from tuner.study.samplers import TrialSeededSampler

Space = dict[str, BaseDistribution]
CUBE: Space = {f"x{i}": FloatDistribution(-5, 5) for i in range(3)}
UNEVEN: Space = {
    "x0": FloatDistribution(1e-4, 1.0, log=True),
    "x1": IntDistribution(-5, 5),
    "x2": FloatDistribution(-5, 5, step=0.5),
    "name": CategoricalDistribution(["a", "b"]),
}


def replay_study(space: Space, seed: int, **options: Any) -> optuna.Study:
    chosen = samplers.CmaEsSampler(**options)
    sampler = TrialSeededSampler(lambda trial: CmaEsSampler(space, chosen, trial), seed)
    return optuna.create_study(sampler=sampler)


def optuna_study(seed: int, **options: Any) -> optuna.Study:
    def build(trial_seed: int) -> optuna.samplers.BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.CmaEsSampler(
                seed=trial_seed, warn_independent_sampling=False, **options
            )

    return optuna.create_study(sampler=TrialSeededSampler(build, seed))


def numeric_values(params: dict[str, Any]) -> np.ndarray:
    return np.array([value for value in params.values() if not isinstance(value, str)])


def sphere(x: np.ndarray) -> float:
    return float(((x - 1.3) ** 2).sum())


def rosenbrock(x: np.ndarray) -> float:
    return float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


def rastrigin(x: np.ndarray) -> float:
    away = x - 1.3
    return float((away**2 - 10 * np.cos(2 * np.pi * away) + 10).sum())


def optimise(study: optuna.Study, space: Space, trials: int, function: Any = rosenbrock) -> float:
    """Run trials and return the best value."""
    for _ in range(trials):
        trial = study.ask(fixed_distributions=space)
        study.tell(trial, function(numeric_values(trial.params)))
    return study.best_value


def replayed(study: optuna.Study, space: Space, **options: Any) -> tuple[int, np.ndarray]:
    """The generation and the mean that a new sampler finds in a study's trials."""
    sampler = CmaEsSampler(space, samplers.CmaEsSampler(**options), 0)
    generation, optimizer = sampler.replay(list(filter(sampler.counts, study.trials)))
    return generation, optimizer.mean


@pytest.mark.parametrize(
    "options", [{}, {"lr_adapt": True}, {"with_margin": True}, {"popsize": 5}], ids=str
)
def test_a_study_of_optunas_sampler_is_resumed(options: dict[str, Any]) -> None:
    """Replaying its trials restores the optimizer in its pickle."""
    study = optuna_study(3, **options)
    optimise(study, UNEVEN, 60)
    sampler: Any = study.sampler
    pickled = sampler._sampler._restore_optimizer(study.trials)
    generation, mean = replayed(study, UNEVEN, **options)
    assert generation == pickled.generation >= 7
    np.testing.assert_allclose(mean, pickled.mean, rtol=1e-12)


@pytest.mark.parametrize(
    ("function", "bound"), [(sphere, 0.05), (rosenbrock, 8.0), (rastrigin, 12.0)]
)
def test_the_search_is_as_good_as_optunas(function: Callable[..., float], bound: float) -> None:
    """Medians over seeds; 150 random trials reach 0.6, 90 and 12."""
    found = {
        study: np.median([optimise(study(seed), CUBE, 105, function) for seed in range(5)])
        for study in (lambda seed: replay_study(CUBE, seed), optuna_study)
    }
    ours_median, optunas_median = found.values()
    assert ours_median < bound
    assert ours_median < 5 * optunas_median


def test_the_search_continues_after_failed_pruned_and_queued_trials() -> None:
    """Only trials with a result fill a generation; one pruned without a value ranks last."""
    study = replay_study(CUBE, 1, popsize=4, n_startup_trials=0)
    study.enqueue_trial({"x0": 1.0, "x1": 1.0, "x2": 1.0})
    for number in range(40):
        trial = study.ask(fixed_distributions=CUBE)
        value = rosenbrock(numeric_values(trial.params))
        if number % 5 == 4:
            study.tell(trial, state=TrialState.FAIL)
        elif value > 1000:
            study.tell(trial, state=TrialState.PRUNED)
        elif number % 5 == 2:
            trial.report(value, 1)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, value)
    ended = [trial for trial in study.trials[1:] if trial.state != TrialState.FAIL]
    assert len(ended) == 31
    marks = [trial.system_attrs["cma:generation"] for trial in ended]
    assert marks == [number // 4 for number in range(31)]
    generation, mean = replayed(study, CUBE, popsize=4)
    assert generation == 7
    assert np.isfinite(mean).all()


def test_a_late_trial_does_not_change_later_points() -> None:
    study = replay_study(CUBE, 1, popsize=4, n_startup_trials=0)
    late = study.ask(fixed_distributions=CUBE)
    optimise(study, CUBE, 10)
    before = replayed(study, CUBE, popsize=4)
    study.tell(late, -1e9)
    after = replayed(study, CUBE, popsize=4)
    assert before[0] == after[0] == 2
    np.testing.assert_array_equal(before[1], after[1])


HOSTILE: list[Any] = [
    *("80049523", "0", 1e9, -1, 10**9, True, None, [], {}, ["0"], [0.1], [math.nan] * 3),
    *([1e308] * 3, [[0.5]] * 3, "x" * 100_000),
]


@pytest.mark.parametrize("with_margin", [False, True])
def test_foreign_marks_are_read_as_data(with_margin: bool) -> None:
    """Whatever the marks, values and parameters, new points lie in the space."""
    study = replay_study(CUBE, 1, popsize=4, n_startup_trials=0, with_margin=with_margin)
    prefix = "cmawm" if with_margin else "cma"
    for number, mark in enumerate(HOSTILE * 2):
        attributes = {f"{prefix}:generation": number // 5, "x_for_tell": mark}
        if number % 2:
            attributes = {f"{prefix}:generation": mark, f"{prefix}:optimizer:0": mark}
        study.add_trial(
            optuna.trial.create_trial(
                params=dict.fromkeys(CUBE, 0.0),
                distributions=CUBE,
                value=(-1) ** number * math.inf,
                system_attrs=attributes,
            )
        )
    foreign: Space = {name: CategoricalDistribution(["here", 99.0]) for name in CUBE}
    for value in ("here", 99.0):
        study.add_trial(
            optuna.trial.create_trial(
                params=dict.fromkeys(CUBE, value),
                distributions=foreign,
                value=0.0,
                system_attrs={f"{prefix}:generation": 0},
            )
        )
    optimise(study, CUBE, 8)
    for trial in study.trials[-8:]:
        assert all(-5 <= value <= 5 for value in trial.params.values())


@pytest.mark.parametrize("options", [{}, {"lr_adapt": True}, {"with_margin": True}], ids=str)
def test_a_stalled_search_restarts_elsewhere(options: dict[str, Any]) -> None:
    """Constant values and identical points make the optimizer degenerate."""
    study = replay_study(CUBE, 1, popsize=4, n_startup_trials=0, **options)
    prefix = "cmawm" if "with_margin" in options else "cma"
    for number in range(240):
        study.add_trial(
            optuna.trial.create_trial(
                params=dict.fromkeys(CUBE, 0.0),
                distributions=CUBE,
                value=1.0,
                system_attrs={f"{prefix}:generation": number // 4},
            )
        )
    trials = study.trials
    sampler = CmaEsSampler(CUBE, samplers.CmaEsSampler(popsize=4, **options), 0)
    means = [sampler.replay(trials[: 4 * n])[1].mean for n in range(60)]
    assert max(np.abs(mean - 0.5).max() for mean in means) > 0.1
    optimise(study, CUBE, 20)
    found = {tuple(trial.params.values()) for trial in study.trials[-20:]}
    assert len(found) == 20


def test_replaying_1000_trials_is_quick() -> None:
    study = replay_study(CUBE, 1, n_startup_trials=0)
    for number in range(1000):
        study.add_trial(
            optuna.trial.create_trial(
                params=dict.fromkeys(CUBE, number % 97 / 20),
                distributions=CUBE,
                value=float(number),
                system_attrs={"cma:generation": number // 7},
            )
        )
    began = time.process_time()
    generation, _ = replayed(study, CUBE)
    assert generation == 142
    assert time.process_time() - began < 2  # 0.15 s on a quiet core
