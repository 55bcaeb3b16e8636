"""The sampler and pruner of a study file as Optuna objects."""

import functools
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna import pruners, samplers
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from tuner import hints
from tuner.errors import InputError
from tuner.spec import pruners as pruner_sections
from tuner.spec import samplers as sampler_sections
from tuner.spec.parameters import values_of
from tuner.spec.study import StudySpec
from tuner.study.grid import GridSampler
from tuner.study.space import derive_seed, distributions


class TrialSeededSampler(samplers.BaseSampler):
    """A sampler built again for every trial, seeded by the study's seed and the trial's number.

    A long-lived Optuna sampler draws from one random stream: two workers with the same seed would
    suggest the same points, and a restarted worker would repeat its first ones. Samplers keep their
    state in the storage, so rebuilding them loses nothing.
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

    # after_trial is not forwarded: it does nothing in these samplers.


def make_sampler(spec: StudySpec) -> samplers.BaseSampler:
    """Build the study's sampler; InputError if it needs a package that is not installed."""
    if spec.sampler.name == "gp" and importlib.util.find_spec("torch") is None:
        how = hints.install("gp")
        raise InputError(f"sampler.name: 'gp' needs PyTorch; install it with {how}")
    return TrialSeededSampler(functools.partial(_build_sampler, spec), spec.study.seed)


def _build_sampler(spec: StudySpec, trial_seed: int) -> Any:
    """Build Optuna's sampler for one trial. Grids and quasi-random sequences are seeded by the
    study, since all workers must share the same one."""
    options, study_seed = spec.sampler, spec.study.seed
    extra = options.model_dump(exclude={"name"})
    quiet = {"warn_independent_sampling": False}  # spec/warnings.py says it once
    match options:
        case sampler_sections.RandomSampler():
            return samplers.RandomSampler(trial_seed)
        case sampler_sections.GridSampler():
            points = {name: values_of(s) or [] for name, s in spec.trial.searched().items()}
            return GridSampler(distributions(spec), points, study_seed)
        case sampler_sections.CmaEsSampler():
            # cmaes imports scipy.stats, which takes as long as the rest of the command line.
            from tuner.study.cma_es import CmaEsSampler

            return CmaEsSampler(distributions(spec), options, trial_seed)
        case sampler_sections.TpeSampler():
            # Without groups, TPE would draw at random the parameters that only some trials have.
            extra["group"] |= bool(spec.trial.when) and options.multivariate
            return quietly(samplers.TPESampler, seed=trial_seed, **extra)
        case sampler_sections.Nsga2Sampler():
            return quietly(samplers.NSGAIISampler, seed=trial_seed, **extra)
        case sampler_sections.QmcSampler():
            extra["independent_sampler"] = samplers.RandomSampler(trial_seed)
            extra |= quiet | {"warn_asynchronous_seeding": False}
            return quietly(samplers.QMCSampler, seed=study_seed, **extra)
        case sampler_sections.GpSampler():
            return quietly(samplers.GPSampler, seed=trial_seed, **extra, **quiet)


def make_pruner(spec: StudySpec, section: Any = None) -> Any:
    """Build the pruner of a ``[pruner]`` section, by default the study's own."""
    options = section or spec.pruner
    extra = options.model_dump(exclude={"name", "wrapped"})
    if isinstance(options, pruner_sections.RungPruner):
        extra["min_resource"] = options.first_rung(spec.metrics.every)
    match options:
        case pruner_sections.NoPruner() | pruner_sections.AshaPruner():  # asha decides in rungs.py
            return pruners.NopPruner()
        case pruner_sections.HyperbandPruner():
            extra["max_resource"] = spec.study.epochs
        case pruner_sections.PatientPruner():
            extra["wrapped_pruner"] = options.wrapped and make_pruner(spec, options.wrapped)
    kind = getattr(pruners, type(options).__name__)  # the sections are named after Optuna's classes
    return quietly(kind, **extra)


def quietly(kind: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call without Optuna's ExperimentalWarning: the user chose the feature."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return kind(*args, **options)
