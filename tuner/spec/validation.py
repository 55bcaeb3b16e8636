"""Rules between the keys of a study file, and for points of its search space."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np

from tuner.spec import branches
from tuner.spec.compatibility import DECIDING_SETTINGS, conflicts, deliberate_settings, unused
from tuner.spec.data import DataSpec
from tuner.spec.guard import ClassCoverageGuard
from tuner.spec.kinds import did_you_mean, is_import_name, shown
from tuner.spec.metrics import ALL_OBJECTIVES, PRETRAINED, MetricsSection
from tuner.spec.parameters import Range, Value, values_of
from tuner.spec.pruners import NoPruner, RungPruner
from tuner.spec.samplers import GridSampler, SamplerSpec
from tuner.spec.sections import Key, Problem
from tuner.spec.study import StudySpec, WarmStartSection
from tuner.spec.traits import SOURCES
from tuner.spec.trial import TrialSection, kind_of, setting_names

# The keys that a problem at a pruner's key depends on, if not epochs and metrics.every.
_PRUNER_INPUTS: dict[str, list[Key]] = {
    "n_startup_trials": [("study", "trials")],
    "name": [("study", "value")],
    "upper": [],
}


def contradictions(spec: StudySpec, wrong: Collection[Key] = ()) -> list[Problem]:
    """Every contradiction between keys, as a key and a message.

    The keys in ``wrong`` are invalid by themselves and have their defaults in ``spec``, so
    contradictions that depend on them are left out.
    """
    return [
        (key, text)
        for key, text, inputs in _all_contradictions(spec)
        if not any(_overlap(bad, good) for bad in wrong for good in (key, *inputs))
    ]


def _overlap(one: Key, other: Key) -> bool:
    return all(a == b for a, b in zip(one, other, strict=False))


def _all_contradictions(spec: StudySpec) -> Iterator[tuple[Key, str, list[Key]]]:
    """Every contradiction, with the other keys that it depends on."""
    wrong = branches.problems(spec.trial)
    if wrong:  # check the rest as if there were no conditions
        yield from ((key, text, [("trial", *key[2:3])]) for key, text in wrong)
        whole = spec.trial.model_copy(update={"when": {}})
        spec = spec.model_copy(update={"trial": whole, "baseline": ()})
    for setting, text, names in _branch_problems(spec.trial):
        yield ("trial", setting), text, [("trial", name) for name in names]
    for i, baseline in enumerate(spec.baseline):
        for name, text in point_problems(spec, baseline):
            at: Key = ("baseline", i, name) if name in baseline else ("baseline", i)
            yield at, text, [("trial", name), ("sampler",)]
    space: list[Key] = [("sampler",), ("trial",)]
    yield from ((*problem, space) for problem in _sampler(spec))
    if "pruner" in spec.model_fields_set:  # the default may do nothing: see warnings
        for key, text in pruner_problems(spec):
            inputs = _PRUNER_INPUTS.get(str(key[-1]), [("study", "epochs"), ("metrics", "every")])
            yield ("pruner", *key), text, [("pruner",), *inputs]
    for key, text in _metrics(spec):
        yield key, text, [("metrics",), ("study", "epochs"), ("pruner",), ("data", "holdout")]
    for key, text in _objectives(spec):
        inputs = [("sampler",), ("pruner",), ("confirm",), ("stop",)]
        yield key, text, [("metrics",), *inputs]
    for key, text in _warm_start(spec):
        yield key, text, [("warm_start",), ("study", "name")]
    for key, text in _data(spec):
        yield key, text, [("data", "source")]
    for name, limits in spec.guard:
        low, high = limits.low, limits.high
        if limits.enabled and None not in (low, high) and low >= high:
            text = f"found low = {low:g}, high = {high:g}, expected low below high"
            yield ("guard", name), text, []


def _branch_problems(trial: TrialSection) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Conflicts in any branch, and settings without effect in all branches that have them.

    Yields the setting, the message, and all settings involved.
    """
    parts = [branch.trial for branch in branches.branches(trial)]
    for names, text in {names: text for part in parts for names, text in conflicts(part)}.items():
        yield names[0], text, names
    checked = [(deliberate_settings(part), unused(part)) for part in parts]
    for name in dict.fromkeys(name for given, _ in checked for name in given):
        reasons = [ignored.get(name) for given, ignored in checked if name in given]
        if all(reasons):
            yield name, str(reasons[0]), DECIDING_SETTINGS


def _data(spec: StudySpec) -> Iterator[Problem]:
    """Keys that are set although the source ignores them."""
    source = spec.data.source
    for name, field in DataSpec.model_fields.items():
        readers = [other for other, traits in SOURCES.items() if name in traits.uses]
        value = getattr(spec.data, name)
        if value != field.default and readers and source not in readers:
            text = f'{name} is set, but source = "{source}" ignores it'
            yield ("data", name), f"{text}; it applies to {', '.join(readers)}"


def _sampler(spec: StudySpec) -> Iterator[Problem]:
    if spec.trial.when and not spec.sampler.conditional:
        samplers = get_args(get_args(SamplerSpec)[0])
        names = " or ".join(s.model_fields["name"].default for s in samplers if s.conditional)
        text = f"{spec.sampler.name} cannot search conditionally (trial.when)"
        yield ("sampler", "name"), f"{text}; use {names}"
    else:
        yield from spec.sampler.problems(spec.trial.searched())


def pruner_problems(spec: StudySpec) -> Iterator[Problem]:
    """Reasons why the pruner would never prune, each at a key of its section."""
    study, every = spec.study, spec.metrics.every
    return spec.pruner.problems(study.epochs, study.trials, every, study.value)


# The features that read a key of [metrics].
_READERS = {"weights": PRETRAINED, "weights_sha256": PRETRAINED, "input": ("inception",)}


def _metrics(spec: StudySpec) -> Iterator[Problem]:
    metrics = spec.metrics
    for key, readers in _READERS.items():
        is_set = getattr(metrics, key) != MetricsSection.model_fields[key].default
        if is_set and metrics.features not in readers:
            text = f'{key} is set, but features = "{metrics.features}" ignores it'
            names = " or ".join(f'"{name}"' for name in readers)
            yield ("metrics", key), f"{text}; it applies to features = {names}"
    at = "metrics", "objectives" if metrics.several else "objective"
    if "cmmd" in metrics.names and metrics.features != "clip":
        text = f'found "cmmd" with features = "{metrics.features}"'
        yield at, f'{text}; it applies to features = "clip"'
    for name in metrics.names:
        if is_import_name(name) and name not in metrics.own:
            yield at, f"found {name!r}, which is not in own"
    for name, other in metrics.same_labels():
        text = f"{name!r} would have the same label as {other}; rename the function"
        yield ("metrics", "own"), text
    if not spec.data.holdout and metrics.heldout != MetricsSection.model_fields["heldout"].default:
        text = "heldout is set, but without data.holdout no images are held out"
        yield ("metrics", "heldout"), text
    guard = spec.guard.class_coverage
    if metrics.features != "classifier" and guard.enabled and guard != ClassCoverageGuard():
        text = f'class_coverage is set, but features = "{metrics.features}" ignores it'
        yield ("guard", "class_coverage"), f'{text}; it applies to features = "classifier"'
    if metrics.every >= spec.study.epochs > 1 and not isinstance(
        spec.pruner, NoPruner | RungPruner
    ):
        text = f"found {metrics.every} with {spec.study.epochs} epochs"
        yield ("metrics", "every"), f"{text}; the pruner needs an evaluation before the last epoch"


def _objectives(spec: StudySpec) -> Iterator[Problem]:
    """Problems with the objectives, and with settings that support one objective only."""
    metrics, at = spec.metrics, ("metrics", "objectives")
    first = ALL_OBJECTIVES[metrics.objective]
    if not metrics.several:
        if not first.alone:
            alone = ", ".join(name for name, one in ALL_OBJECTIVES.items() if one.alone)
            text = f"found {metrics.objective!r}, which can't be the only objective"
            yield ("metrics", "objective"), f"{text}; expected {alone}, or several in objectives"
        return
    names = ", ".join(metrics.objectives)
    if len(set(metrics.objectives)) < max(2, len(metrics.objectives)):
        yield at, f"found {names}, expected at least two different objectives, each once"
    if metrics.objective != metrics.objectives[0]:
        yield (
            ("metrics", "objective"),
            f"found {metrics.objective!r} next to objectives; leave it out",
        )
    elif not first.measured:
        yield at, f"found {metrics.objective} first, expected a metric of images"
    if spec.sampler.one_objective:
        samplers = [s for s in get_args(get_args(SamplerSpec)[0]) if not s.one_objective]
        known = ", ".join(s.model_fields["name"].default for s in samplers)
        text = f"{spec.sampler.name} supports only one objective"
        yield ("sampler", "name"), f"{text}; use one of {known}, or metrics.objective"
    if spec.confirm.top:
        text = "several objectives have no single winner to confirm"
        yield ("confirm", "top"), f"{text}; leave it at 0"
    if spec.stop.patience is not None:
        text = "with several objectives, a trial may improve the Pareto front but not the first"
        yield ("stop", "patience"), f"{text}; leave it out"


def _warm_start(spec: StudySpec) -> Iterator[Problem]:
    section, at = spec.warm_start, ("warm_start", "study")
    if section.study is None and section != WarmStartSection():
        yield at, "the key is missing; it names the earlier study"
    if section.study == spec.study.name and section.storage is None:
        yield at, f"found {section.study!r}, the study itself; name an earlier one"


MAX_DRIFT = 0.1  # relative difference between images per epoch and images


def data_problems(spec: StudySpec, images: int) -> list[str]:
    """Reasons why ``images`` images do not suit the study: the first of each kind."""
    problems: dict[str, str] = {}
    parts = [branch.trial for branch in branches.branches(spec.trial)]
    for batch_sizes, d_steps in dict.fromkeys((part.batch_size, part.d_steps) for part in parts):
        sizes = np.array(values_of(batch_sizes) or [], dtype=np.int64)
        for steps in values_of(d_steps) or []:
            per_update = sizes * int(steps)
            seen = np.maximum(1, np.round(images / per_update)).astype(int) * per_update
            large = sizes > images
            drifts = ~large & (np.abs(seen / images - 1) > MAX_DRIFT)
            for at in sorted(int(wrong.argmax()) for wrong in (large, drifts) if wrong.any()):
                text = f"trial.batch_size: found {sizes[at]}"
                if large[at]:
                    text += f", expected at most {images}, the number of images"
                else:
                    text += f" with d_steps = {steps}: an epoch would see {seen[at]} images, "
                    text += f"expected within {MAX_DRIFT:.0%} of {images}"
                problems.setdefault("large" if large[at] else "drift", text)
    return list(problems.values())


def point_problems(spec: StudySpec, point: Mapping[str, Value]) -> Iterator[tuple[str, str]]:
    """Everything that is wrong with a point (values for some settings): names and texts."""
    branch = branches.branch_at(spec.trial, point)
    searched = spec.trial.searched()
    if branch is not None:
        searched = {**branches.deciders(spec.trial), **branch.trial.searched()}
    for name, value in point.items():
        decider = branches.decider_of(spec.trial, name)
        if decider is not None and decider not in point:
            yield name, f"it depends on {decider}; give a value for {decider} too"
        elif branch is not None and decider is not None and name not in searched:
            text = f"trial.{name} is not searched with {decider} = {branch.given[decider]}"
            yield name, f"{text}; leave it out"
        elif branch is not None or decider is None:  # otherwise the value of the decider is wrong
            problem = _point_problem(searched, name, value)
            if problem is not None:
                yield name, problem
    missing = [name for name in searched if name not in point]
    if isinstance(spec.sampler, GridSampler) and missing:
        text = f"{missing[0]} is missing; the grid sampler needs every setting that is searched"
        yield missing[0], text


def _point_problem(searched: dict[str, Any], name: str, value: Value) -> str | None:
    """What is wrong with ``value`` for the setting ``name``; None if nothing is."""
    if name not in setting_names():
        hint = did_you_mean(name, setting_names())
        return f"unknown key, expected a key of [trial]{hint}"
    if name not in searched:
        return f"trial.{name} is fixed, not searched; leave it out"
    try:
        checked = kind_of(name).check(value)
    except ValueError as error:
        return str(error)
    setting, values = searched[name], values_of(searched[name])
    if isinstance(setting, Range) and not setting.low <= float(checked) <= setting.high:
        return f"found {shown(value)}, expected {setting.low:g} to {setting.high:g}"
    if values is None or checked in values:
        return None
    if isinstance(setting, Range):
        return f"found {shown(value)}, expected {setting.low:g} plus a multiple of {setting.step:g}"
    return f"found {shown(value)}, expected one of {', '.join(map(str, values))}"
