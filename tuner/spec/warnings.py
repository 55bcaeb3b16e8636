"""Warnings about valid study files that may not do what the user expects."""

import math
from collections.abc import Iterator

from tuner.spec.branches import branches, setting_name
from tuner.spec.metrics import FEATURES
from tuner.spec.parameters import Choices, Range, values_of
from tuner.spec.pruners import NoPruner
from tuner.spec.samplers import GridSampler
from tuner.spec.study import StudySpec
from tuner.spec.trial import TrialSection
from tuner.spec.validation import pruner_problems

ENOUGH_FOR_INFINITY = 8  # samples per feature: see metrics.fid.fid_infinity


def warnings(spec: StudySpec) -> Iterator[str]:
    """All warnings about a study file, one line each."""
    searched = spec.trial.searched()
    yield from _never_reached(spec.trial)
    if not searched:
        yield "trial: nothing is searched; trials differ only in their seeds"
    metrics, width = spec.metrics, FEATURES[spec.metrics.features]
    wanted = "fid_infinity" in metrics.names or metrics.fid_infinity != "off"
    if wanted and not can_extrapolate(spec):
        text = f"metrics.samples: {metrics.samples:,} samples are too few to extrapolate FID over"
        yield f"{text} {width:,} features; use at least {ENOUGH_FOR_INFINITY * width:,}"
    if metrics.objective == "fid" and metrics.samples < 2 * width:
        text = f"metrics.samples: FID of {metrics.samples:,} samples over {width:,} features is"
        yield f'{text} strongly biased upwards; objective = "kid" is unbiased'
    if "pruner" not in spec.model_fields_set and [*pruner_problems(spec)]:
        text = f"the default, never prunes with epochs = {spec.study.epochs}"
        yield f"pruner: {spec.pruner.name}, {text}"
    if not (spec.sampler.learns_from_pruned or isinstance(spec.pruner, NoPruner)):
        text = f"sampler: {spec.sampler.name} does not learn from pruned trials"
        yield f'{text}; with pruner.name = "none" it learns from all'
    if not spec.sampler.learns:
        yield f"sampler: {spec.sampler.name} does not learn from earlier trials, pruned or not"
    generation = getattr(spec.sampler, "population_size", 0)  # of nsga2
    if generation >= spec.study.trials:
        text = f"the first {generation} complete trials are random"
        yield f"sampler.population_size: {text}, and the study has {spec.study.trials}"
    if spec.constraint.limits and spec.sampler.learns and spec.sampler.name != "tpe":
        yield f"sampler: {spec.sampler.name} does not learn which trials violate [constraint]"
    choices = [name for name, setting in searched.items() if isinstance(setting, Choices)]
    if spec.sampler.ranges_only and choices:
        names = ", ".join(choices)
        yield f"sampler: {spec.sampler.name} searches ranges only; {names}: drawn at random"
    if isinstance(spec.sampler, GridSampler):
        size = math.prod(len(values_of(setting) or []) for setting in searched.values())
        if size < spec.study.trials:
            yield f"sampler: the grid has {size} points, fewer than the trials; some points repeat"


def _never_reached(trial: TrialSection) -> Iterator[str]:
    """Ranges whose steps from ``low`` miss ``high``."""
    found = {
        setting_name(name): setting
        for branch in branches(trial)
        for name, setting in branch.searched().items()
        if isinstance(setting, Range)
    }
    for name, setting in found.items():
        values = values_of(setting)
        if values is not None and float(values[-1]) < setting.high:
            text = f"trial.{name}: {setting.high:g} is never tried; steps of {setting.step:g}"
            yield f"{text} from {setting.low:g} end at {values[-1]:g}"


def can_extrapolate(spec: StudySpec) -> bool:
    """Whether the study generates enough samples to extrapolate FID from."""
    return spec.metrics.samples >= ENOUGH_FOR_INFINITY * FEATURES[spec.metrics.features]
