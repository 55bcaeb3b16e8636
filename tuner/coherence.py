"""What must hold between the keys of a study file, and what is merely worth a warning."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from tuner import conditions, policies
from tuner.combinations import DECIDING_USE, idle, kind_of, senseless, values_of
from tuner.policies import ClassCoverageGuard
from tuner.settings import Choices, Range, Setting, Value, nearest
from tuner.spec import FEATURES, DataSpec, MetricsSection, StudySpec, TrialSection

Key = tuple[str | int, ...]
Problem = tuple[Key, str]

ENOUGH_FOR_INFINITY = 8  # samples per feature: see metrics.frechet.frechet_infinity

# The structural settings: each distinct combination is a compiled program of its own.
STRUCTURAL = (
    *("generator", "discriminator", "width", "latent_dim", "generator_norm", "discriminator_norm"),
    *("conditional", "precision", "loss", "augment", "flips", "batch_size", "d_steps"),
    *("optimizer", "generator_optimizer", "discriminator_optimizer", "schedule"),
)
SWITCHES = ("gradient_penalty", "r1", "r2", "instance_noise", "ema_decay")  # 0 is off
_HALVING = ("successive_halving", "hyperband")
_TABLES = ("parquet", "huggingface")
_BELONGS_TO_SOURCE = {
    "path": ("idx", "npz", "folder", *_TABLES),
    "fit": ("mnist5k", "digits", "idx", "npz", "folder", *_TABLES),
    "images": ("npz", *_TABLES),
    "labels": ("npz", *_TABLES),
    "split": _TABLES,
    "subset": ("huggingface",),
    "modes": ("gaussians",),
    "unreadable": ("folder", *_TABLES),
}


def incoherences(spec: StudySpec, wrong: Collection[Key] = ()) -> list[Problem]:
    """Every contradiction between keys, as the key and what is wrong there.

    ``wrong`` are keys known to be wrong in themselves, whose values in ``spec`` are mere defaults:
    what depends on them is not judged.
    """
    return [
        (key, text)
        for key, text, inputs in _contradictions(spec)
        if not any(_overlap(bad, good) for bad in wrong for good in (key, *inputs))
    ]


def _overlap(a: Key, b: Key) -> bool:
    length = min(len(a), len(b))
    return a[:length] == b[:length]


def _contradictions(spec: StudySpec) -> Iterator[tuple[Key, str, list[Key]]]:
    """Problems with the other keys that each follows from."""
    wrong = list(conditions.problems(spec.trial))
    if wrong:  # the rest is judged as if there were no conditions
        yield from ((key, text, [("trial", *key[2:3])]) for key, text in wrong)
        whole = spec.trial.model_copy(update={"when": {}})
        spec = spec.model_copy(update={"trial": whole, "baseline": ()})
    for setting, text, names in _of_branches(spec.trial):
        yield ("trial", setting), text, [("trial", name) for name in names]
    for (key, text), name in _baselines(spec):
        yield key, text, [("trial", name), ("sampler",)]
    space: list[Key] = [("sampler",), ("trial",)]
    yield from ((*problem, space) for problem in _sampler(spec))
    for key, text in _pruner(spec):
        needed = {"n_startup_trials": "trials", "name": "value", "upper": "name"}
        inputs: list[Key] = [("study", needed.get(str(key[-1]), "epochs")), ("metrics", "every")]
        yield key, text, [("pruner",), *inputs]
    for key, text in _metrics(spec):
        yield key, text, [("metrics",), ("study", "epochs"), ("pruner",)]
    for key, text in _data(spec):
        yield key, text, [("data", "source")]
    for name, limits in spec.guard:
        low, high = limits.low, limits.high
        if limits.enabled and None not in (low, high) and low >= high:
            text = f"found low = {low:g}, high = {high:g}, expected low below high"
            yield ("guard", name), text, []


def _of_branches(trial: TrialSection) -> Iterator[tuple[str, str, Sequence[str]]]:
    """What makes no sense in any part of the search, and what is idle in all parts of it that
    search it: the key, what is wrong, and between which keys."""
    branches = [branch.trial for branch in conditions.branches(trial)]
    found = {(key, tuple(names)): text for b in branches for key, text, names in senseless(b)}
    for (key, between), text in found.items():
        yield key, text, between
    idle_in = [idle(branch) for branch in branches]
    for name in dict.fromkeys(name for branch in branches for name in branch.searched()):
        words = [idle_in[i].get(name) for i, b in enumerate(branches) if name in b.searched()]
        if all(words):
            yield name, str(words[0]), DECIDING_USE


def warnings(spec: StudySpec) -> Iterator[str]:
    """What works but may surprise."""
    searched = spec.trial.searched()
    if not searched:
        yield "trial: nothing is searched, so trials differ by their seeds alone"
    metrics, width = spec.metrics, FEATURES[spec.metrics.features]
    wanted = metrics.objective == "fid_infinity" or metrics.fid_infinity != "off"
    if wanted and not can_extrapolate(spec):
        yield (
            f"metrics.samples: {metrics.samples:,} of {width:,} features each are few for "
            f"fid_infinity; from {ENOUGH_FOR_INFINITY * width:,} on its straight line holds"
        )
    if metrics.objective == "fid" and metrics.samples < 2 * width:
        yield (
            f"metrics.samples: FID of {metrics.samples:,} samples by {width:,} features is biased "
            "far upwards; objective = 'kid' is not"
        )
    if spec.sampler.name == "gp" and spec.pruner.name != "none":
        yield "sampler: gp does not learn from pruned trials; pruner = 'none' would let it"
    if spec.sampler.name in ("random", "grid", "qmc"):
        yield f"sampler: {spec.sampler.name} does not learn from earlier trials, pruned or not"
    choices = [name for name, setting in searched.items() if isinstance(setting, Choices)]
    if spec.sampler.name in ("cmaes", "qmc") and choices:
        names = ", ".join(choices)
        yield f"sampler: {spec.sampler.name} works on ranges; {names}: picked at random"
    if spec.sampler.name == "grid":
        size = math.prod(len(values_of(setting) or []) for setting in searched.values())
        if size < spec.study.trials:
            yield f"sampler: the grid has {size} points, fewer than the trials: some repeat"


def can_extrapolate(spec: StudySpec) -> bool:
    """Whether the study generates enough samples to extrapolate FID from."""
    return spec.metrics.samples >= ENOUGH_FOR_INFINITY * FEATURES[spec.metrics.features]


def largest_value(setting: Setting) -> Value:
    """The largest value the setting can take."""
    if isinstance(setting, Range):
        return setting.high
    return max(setting.values, key=float) if isinstance(setting, Choices) else setting


def _data(spec: StudySpec) -> Iterator[Problem]:
    """Keys that the source has no use for."""
    source = spec.data.source
    for name, sources in _BELONGS_TO_SOURCE.items():
        value = getattr(spec.data, name)
        if value != DataSpec.model_fields[name].default and source not in sources:
            found = "a path" if name == "path" else repr(value)
            text = f"found {found}, expected none with source = {source!r}"
            yield ("data", name), f"{text}, only with {', '.join(sources)}"


def _baselines(spec: StudySpec) -> Iterator[tuple[Problem, str]]:
    for i, baseline in enumerate(spec.baseline):
        for name, text in point_problems(spec, baseline):
            key: Key = ("baseline", i, name) if name in baseline else ("baseline", i)
            yield (key, text), name


def point_problems(spec: StudySpec, point: Mapping[str, Value]) -> Iterator[tuple[str, str]]:
    """Everything that is wrong with trying ``point``, a value for each of some settings."""
    open_ones = dict(conditions.undecided(spec.trial, point))
    branch = conditions.branch_at(spec.trial, point)
    searched = spec.trial.searched()
    if branch is not None:
        searched = {**conditions.deciders(spec.trial), **branch.trial.searched()}
    for name, value in point.items():
        if name in open_ones:
            yield name, f"found it without {open_ones[name]}, on which it depends; expected both"
            continue
        decider = conditions.decider_of(spec.trial, name)
        if branch is not None and decider is not None and name not in searched:
            text = f"found {value!r}, but trial.{name} is not searched with {decider} = "
            yield name, f"{text}{branch.given[decider]}, expected only what is"
            continue
        problem = point_problem(searched, name, value)
        if problem:
            yield name, problem
    missing = [name for name in searched if name not in point]
    if spec.sampler.name == "grid" and missing:
        text = f"found no {missing[0]}, but the grid sampler needs all that is searched"
        yield missing[0], text


def point_problem(searched: dict[str, Any], name: str, value: Value) -> str | None:
    """What is wrong with trying ``value`` for the setting ``name``, of those that are searched."""
    if name not in conditions.kinds():
        hint = nearest(name, conditions.kinds())
        return f"found an unknown key, expected a key of [trial]{hint}"
    if name not in searched:
        return f"found {value!r}, but trial.{name} is fixed, expected only what is searched"
    try:
        checked = kind_of(name).check(value)
    except ValueError as error:
        return str(error)
    setting, values = searched[name], values_of(searched[name])
    if isinstance(setting, Range) and not setting.low <= float(checked) <= setting.high:
        return f"found {value!r}, expected {setting.low:g} to {setting.high:g}"
    if values is None or checked in values:
        return None
    if isinstance(setting, Range):
        return f"found {value!r}, expected {setting.low:g} plus a multiple of {setting.step:g}"
    return f"found {value!r}, expected one of {', '.join(map(str, values))}"


def _sampler(spec: StudySpec) -> Iterator[Problem]:
    if spec.trial.when and spec.sampler.name not in ("tpe", "random"):
        text = f"found {spec.sampler.name!r} with trial.when, but it needs trials that all have"
        yield ("sampler", "name"), f"{text} the same parameters; expected tpe or random"
        return
    searched = spec.trial.searched()
    ranges = [name for name, setting in searched.items() if isinstance(setting, Range)]
    if spec.sampler.name == "grid":
        for name in ranges:
            if values_of(searched[name]) is None:
                text = "found a range, but the grid sampler needs choices, or a range with a step"
                yield ("trial", name), text
        if not searched:
            yield ("sampler", "name"), "found 'grid', expected something to search in [trial]"
    match spec.sampler:
        case policies.CmaEsSampler() if len(ranges) < 2:
            found = ", ".join(ranges) or "none"
            yield ("sampler", "name"), f"found 'cmaes' with ranges: {found}; expected at least two"
        case policies.CmaEsSampler(with_margin=True, lr_adapt=True):
            yield ("sampler", "lr_adapt"), "found true with with_margin = true, expected only one"
        case policies.TpeSampler(group=True, multivariate=False):
            yield ("sampler", "group"), "found true, expected it only with multivariate = true"


def _pruner(spec: StudySpec) -> Iterator[Problem]:
    if spec.pruner.name == "patient" and spec.study.value == "best":
        text = "found 'patient' with study.value = 'best', expected 'last': the best so far never"
        yield ("pruner", "name"), f"{text} gets worse, so it could never prune"
    remedy = ""
    if "pruner" not in spec.model_fields_set:
        remedy = f'; {spec.pruner.name} is the default: give more epochs, or [pruner] name = "none"'
    for key, problem in _never_prunes(spec.pruner, spec, spec.metrics.every):
        yield ("pruner", *key), problem + remedy


def first_rung(
    pruner: policies.SuccessiveHalvingPruner | policies.HyperbandPruner, every: int
) -> int:
    """A halving pruner's first rung in epochs, of which ``every`` so many end in an evaluation."""
    return pruner.min_resource or every


def _never_prunes(pruner: Any, spec: StudySpec, every: int) -> Iterator[Problem]:
    """Settings under which no trial can end before its last epoch, or not when it is meant to."""
    epochs, trials = spec.study.epochs, spec.study.trials
    match pruner:
        case policies.SuccessiveHalvingPruner():
            factor = pruner.reduction_factor
            first = first_rung(pruner, every) * factor**pruner.min_early_stopping_rate
            yield from _between_evaluations(first, factor, epochs, every)
            if first >= epochs:
                why = "" if pruner.min_resource else f", from metrics.every = {every}"
                yield ("min_resource",), _too_late(f"a first rung at epoch {first}{why}", epochs)
        case policies.HyperbandPruner():
            first, factor = first_rung(pruner, every), pruner.reduction_factor
            yield from _between_evaluations(first, factor, epochs, every)
            if first * factor > epochs:
                text = f"found {first} with reduction_factor = {factor}"
                text += f", expected room for two rungs in {epochs} epochs"
                yield ("min_resource",), f"{text}: it takes {first * factor}, or another pruner"
        case policies.PatientPruner():
            until = (pruner.patience + 2) * every
            if until >= epochs:
                yield ("patience",), _too_late(f"patience until epoch {until}", epochs)
            for key, problem in _never_prunes(pruner.wrapped, spec, every):
                yield ("wrapped", *key), problem
        case policies.ThresholdPruner() if pruner.lower is None and pruner.upper is None:
            yield ("upper",), "found neither lower nor upper, expected at least one"
        case policies.ThresholdPruner(lower=float(low), upper=float(high)) if low >= high:
            yield ("upper",), f"found {high:g} with lower = {low:g}, expected upper above lower"
    last_chance = (epochs - 1) // every * every
    if getattr(pruner, "n_warmup_steps", 0) > last_chance:
        found = f"a warm-up until epoch {pruner.n_warmup_steps}"
        yield ("n_warmup_steps",), _too_late(found, epochs)
    if getattr(pruner, "n_startup_trials", 0) >= trials:
        text = f"found {pruner.n_startup_trials}, expected fewer than the study's {trials} trials"
        yield ("n_startup_trials",), text


def _between_evaluations(first: int, factor: int, epochs: int, every: int) -> Iterator[Problem]:
    """A rung that no evaluation falls on: it would be decided later than it says."""
    rung = first
    while rung < epochs:
        if rung % every:
            text = f"found a rung at epoch {rung}, expected all where the study evaluates"
            yield ("min_resource",), f"{text}: every {every} epochs (metrics.every)"
            return
        rung *= factor


def _metrics(spec: StudySpec) -> Iterator[Problem]:
    metrics = spec.metrics
    if metrics.features != "inception":
        for key in ("weights", "weights_sha256", "input"):
            if key in metrics.model_fields_set and getattr(metrics, key) != _default(key):
                text = f"found a value that features = {metrics.features!r} leaves idle"
                yield ("metrics", key), f"{text}, expected it with 'inception' only"
    guard = spec.guard.class_coverage
    if metrics.features != "classifier" and guard.enabled and guard != ClassCoverageGuard():
        text = f"found a guard that features = {metrics.features!r} leaves idle"
        yield ("guard", "class_coverage"), f"{text}, expected it with 'classifier' only"
    if metrics.every >= spec.study.epochs > 1 and spec.pruner.name not in ("none", *_HALVING):
        found = f"found {metrics.every} with {spec.study.epochs} epochs"
        yield ("metrics", "every"), f"{found}, expected evaluations before the last for the pruner"


def _default(key: str) -> Any:
    return MetricsSection.model_fields[key].default


def _too_late(found: str, epochs: int) -> str:
    return f"found {found}, expected one before the last epoch, {epochs}: it could never prune"


MOST_DRIFT = 0.1


def data_problems(spec: StudySpec, images: int) -> list[str]:
    """What makes the study impossible on ``images`` images: the first problem of each kind."""
    problems: dict[str, str] = {}
    for branch in conditions.branches(spec.trial):
        for d_steps in values_of(branch.trial.d_steps) or []:
            for batch_size in values_of(branch.trial.batch_size) or []:
                for kind, text in _epoch_problems(int(batch_size), int(d_steps), images):
                    problems.setdefault(kind, f"trial.batch_size: {text}")
    return list(problems.values())


def _epoch_problems(batch_size: int, d_steps: int, images: int) -> Iterator[tuple[str, str]]:
    per_iteration = batch_size * d_steps
    per_epoch = max(1, round(images / per_iteration)) * per_iteration
    if batch_size > images:
        yield "large", f"found {batch_size}, expected at most {images}, the number of images"
    elif abs(per_epoch / images - 1) > MOST_DRIFT:
        found = f"found {batch_size} with d_steps = {d_steps}: an epoch would see {per_epoch}"
        yield "drift", f"{found} images, expected within {MOST_DRIFT:.0%} of {images}"


def program_count(spec: StudySpec) -> int:
    """How many distinct compiled training programs the study can need."""
    return sum(_programs(branch.trial) for branch in conditions.branches(spec.trial))


def _programs(trial: TrialSection) -> int:
    settings = [getattr(trial, name) for name in STRUCTURAL]
    switches = [_positions(getattr(trial, name)) for name in SWITCHES]
    return math.prod(len(values_of(setting) or []) for setting in settings) * math.prod(switches)


def _positions(switch: Setting) -> int:
    """1, or 2 where a search goes over zero and other numbers."""
    values = values_of(switch)
    if values is None:
        assert isinstance(switch, Range)
        return 2 if switch.low == 0 else 1
    return len({bool(value) for value in values})
