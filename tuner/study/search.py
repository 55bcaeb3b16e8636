"""The sampler and the pruner that a study file names, as Optuna's objects."""

import functools
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna import pruners, samplers
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from tuner import policies
from tuner.coherence import first_rung
from tuner.combinations import values_of
from tuner.errors import InputError
from tuner.spec import StudySpec
from tuner.study.space import derive_seed


class TrialSeededSampler(samplers.BaseSampler):
    """A sampler built anew for every trial, seeded by the study's seed and the trial's number.

    An Optuna sampler that lives on draws from one random stream, so two workers with one seed
    suggest the same points, and a restarted worker suggests its first ones again. Samplers keep
    what they know in the storage, so building them anew loses nothing.
    """

    def __init__(self, build: Callable[[int], samplers.BaseSampler], study_seed: int) -> None:
        self._build, self._study_seed = build, study_seed
        self._sampler = build(study_seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler = self._build(derive_seed(self._study_seed, trial.number))
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        distribution: BaseDistribution,
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, distribution)

    # after_trial is not passed on: all it does in the samplers here is stop Study.optimize, which
    # we do not use, when a grid is exhausted.


def make_sampler(spec: StudySpec) -> samplers.BaseSampler:
    """The study's sampler; InputError where it needs a package that is not installed."""
    if spec.sampler.name == "gp" and importlib.util.find_spec("torch") is None:
        raise InputError("sampler.name: 'gp' needs PyTorch; install tuner with its extra 'gp'")
    return TrialSeededSampler(functools.partial(_build_sampler, spec), spec.study.seed)


def _build_sampler(spec: StudySpec, trial_seed: int) -> Any:
    """Random, TPE, CMA-ES and GP are seeded trial by trial; grid and quasi-random sequences need
    the study's seed everywhere, or they would not be one grid, one sequence."""
    options, study_seed = spec.sampler, spec.study.seed
    extra = options.model_dump(exclude={"name"})
    match options:
        case policies.RandomSampler():
            return samplers.RandomSampler(trial_seed)
        case policies.GridSampler():
            points = {name: list(values_of(s) or []) for name, s in spec.trial.searched().items()}
            return samplers.GridSampler(points, seed=study_seed)
        case policies.TpeSampler():
            # Without groups, TPE would draw at random what not every trial has.
            extra["group"] |= bool(spec.trial.when) and options.multivariate
            return quietly(samplers.TPESampler, seed=trial_seed, **extra)
    extra["warn_independent_sampling"] = False  # the study's check says it once
    match options:
        case policies.QmcSampler():
            extra["warn_asynchronous_seeding"] = False
            extra["independent_sampler"] = samplers.RandomSampler(trial_seed)
            return quietly(samplers.QMCSampler, seed=study_seed, **extra)
        case policies.CmaEsSampler():
            extra["consider_pruned_trials"] = True
            return quietly(samplers.CmaEsSampler, seed=trial_seed, **extra)
        case policies.GpSampler():
            return quietly(samplers.GPSampler, seed=trial_seed, **extra)


def make_pruner(spec: StudySpec) -> pruners.BasePruner:
    """The study's pruner."""
    pruner: pruners.BasePruner = build_pruner(spec.pruner, spec.study.epochs, spec.metrics.every)
    return pruner


def build_pruner(options: Any, epochs: int, every: int) -> Any:
    """The pruner of a ``[pruner]`` section, for trials of ``epochs`` epochs that are evaluated
    ``every`` so many."""
    extra = options.model_dump(exclude={"name", "wrapped"})
    if "min_resource" in extra:
        extra["min_resource"] = first_rung(options, every)
    match options:
        case policies.NoPruner():
            return pruners.NopPruner()
        case policies.HyperbandPruner():
            return pruners.HyperbandPruner(max_resource=epochs, **extra)
        case policies.PatientPruner():
            wrapped = options.wrapped and build_pruner(options.wrapped, epochs, every)
            return quietly(pruners.PatientPruner, wrapped, **extra)
    kinds = {
        "median": pruners.MedianPruner,
        "percentile": pruners.PercentilePruner,
        "successive_halving": pruners.SuccessiveHalvingPruner,
        "threshold": pruners.ThresholdPruner,
    }
    return kinds[options.name](**extra)


def quietly(kind: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call without Optuna's note that the feature is experimental: it was chosen knowingly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return kind(*args, **options)
