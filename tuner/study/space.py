"""The search space as Optuna distributions, and a point of it as a ``TrialConfig``."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tuner.spec.branches import branch_at, branches, deciders, structures
from tuner.spec.parameters import Choices, Range, values_of
from tuner.spec.study import StudySpec
from tuner.spec.traits import (
    ADA_IMAGES,
    DEFAULT_PENALTY,
    LOSSES,
    NETWORKS,
    OPTIMIZERS,
    PENALTIES,
    SCHEDULED,
)
from tuner.trial import DatasetInfo, Hyperparameters, Program, TrialConfig


def distributions(
    spec: StudySpec, params: Mapping[str, Any] | None = None
) -> dict[str, BaseDistribution]:
    """Optuna's distribution for every setting that is searched, given the ``params`` chosen so
    far. Settings that decide which others are searched come first, and alone until chosen."""
    deciding: dict[str, Choices | Range] = {**deciders(spec.trial)}
    branch = branch_at(spec.trial, params or {})
    rest = {} if branch is None else branch.searched()
    return {name: _distribution(setting) for name, setting in (deciding | rest).items()}


def _distribution(setting: Choices | Range) -> BaseDistribution:
    if isinstance(setting, Choices):
        return CategoricalDistribution(setting.values)
    low, high, log, step = setting
    values = values_of(setting)
    if values is not None:
        high = float(values[-1])  # Optuna expects the highest value that steps from low can reach
    if isinstance(low, int):
        return IntDistribution(low, int(high), log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def why_outside_space(spec: StudySpec, params: Mapping[str, Any]) -> str | None:
    """Why ``params``, under Optuna's names, lie outside the space; None if they fit."""
    wanted = distributions(spec, params)
    if not params.keys() >= deciders(spec.trial).keys():  # the sampler will choose the branch
        wanted = _in_every_branch(spec) | wanted
    for name in sorted(params, key=lambda name: name not in wanted):
        shown = f"{name} = {str(params[name])[:80]!r}"
        if name not in wanted:
            return f"{shown} is not searched by this study"
        if not contains(wanted[name], params[name]):
            return f"{shown} is outside the search space: {_described(wanted[name])}"
    return None


def _in_every_branch(spec: StudySpec) -> dict[str, BaseDistribution]:
    """The settings whose search is the same in every branch."""
    first, *others = (distributions(spec, branch.given) for branch in branches(spec.trial))
    return {k: d for k, d in first.items() if all(other.get(k) == d for other in others)}


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether the distribution contains the value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _described(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(str, distribution.choices))}"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    step = f" in steps of {distribution.step:g}" if (distribution.step or 1) != 1 else ""
    return f"{distribution.low:g} to {distribution.high:g}{step}"


def trial_config(
    spec: StudySpec, params: Mapping[str, Any], number: int, dataset: DatasetInfo
) -> TrialConfig:
    """Configure a trial at the point ``params`` of a study's space, seeded by its ``number``."""
    branch = branch_at(spec.trial, params)
    assert branch is not None, params
    settings = branch.trial.settings()
    values = {name: params.get(branch.names.get(name, name), value) for name, value in settings}
    defaults = _defaults(values)
    values |= {name: default for name, default in defaults.items() if values[name] is None}
    program = _program(values, dataset)
    total = spec.study.epochs * program.images_per_epoch(dataset.images)
    return TrialConfig(
        program=program,
        hyperparameters=_hyperparameters(values, program, total),
        seed=derive_seed(spec.study.seed, number),
        epochs=spec.study.epochs,
    )


def programs(
    spec: StudySpec, known: Mapping[str, Any], dataset: DatasetInfo, limit: int
) -> list[Program]:
    """The programs of all trials that agree with what is ``known`` of their parameters.

    Empty if there are more than ``limit``.
    """
    points = list(itertools.islice(structures(spec.trial, known), limit + 1))
    found = {trial_config(spec, point, 0, dataset).program for point in points}
    return list(found) if len(points) <= limit else []


def _defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of settings that, unless given, follow from other settings."""
    defaults = {}
    for side, network in enumerate(("generator", "discriminator")):
        for name in ("optimizer", "learning_rate", "beta1", "beta2"):
            defaults[f"{network}_{name}"] = values[name]
        traits = NETWORKS.get(values[network])  # custom networks choose their norms themselves
        defaults[f"{network}_norm"] = "none" if traits is None else traits.norms[side]
    weight = DEFAULT_PENALTY if LOSSES[values["loss"]].penalised else 0.0
    return defaults | {"gradient_penalty": weight}


def _hyperparameters(values: Mapping[str, Any], program: Program, total: int) -> Hyperparameters:
    """The numbers of a trial of ``total`` images; optional ones only if the program uses them."""
    derived: dict[str, Any] = {"total_images": total}
    if values["decay_images"] is None:
        end = total if values["burn_in"] is None else values["burn_in"] * total
        derived["decay_images"] = max(1, end - values["warmup_images"])
    if values["ema_half_life"] > 0 and "ema_half_life" not in program.scheduled:
        per_update = program.batch_size * program.d_steps
        derived["ema_decay"] = 0.5 ** (per_update / values["ema_half_life"])
    if values["augment_probability"] is None:
        derived["augment_probability"] = 1.0
    optional = {*program.scheduled, *(f"{name}_final" for name in program.scheduled)}
    if program.augment_adapts:
        optional |= {"augment_target", "augment_images"}
        if values["augment_images"] is None:
            derived["augment_images"] = ADA_IMAGES
    elif program.augment_some:
        optional.add("augment_probability")
    idle = set(Hyperparameters._field_defaults) - optional
    used = [name for name in Hyperparameters._fields if name not in idle]
    return Hyperparameters(**{name: float({**values, **derived}[name]) for name in used})


def _scheduled(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that move to a final value, and have an effect at all."""
    kinds = (values["generator_optimizer"], values["discriminator_optimizer"])
    effective = {
        "r1": values["r1"] > 0,
        "r2": values["r2"] > 0,
        "beta2": any("beta2" in OPTIMIZERS[kind].uses for kind in kinds),
        "ema_half_life": True,
        "augment_probability": values["augment"] != "none",
    }
    if values["schedule"] == "constant":
        return ()
    return tuple(n for n in SCHEDULED if effective[n] and values[f"{n}_final"] is not None)


def _program(values: Mapping[str, Any], dataset: DatasetInfo) -> Program:
    scheduled = _scheduled(values)
    adapts = (
        *(values["augment"] != "none", values["augment_target"] is not None),
        "augment_target" in LOSSES[values["loss"]].uses,
    )
    sources = dict(dataset.sources)
    networks = values["generator"], values["discriminator"]
    derived = {
        "image_shape": dataset.image_shape,
        "ema": max(values["ema_decay"], values["ema_half_life"]) > 0
        or "ema_half_life" in scheduled,
        "classes": dataset.classes if values["conditional"] == "on" else 0,
        "penalties": tuple(name for name in PENALTIES if values[name] > 0),
        "augment": () if values["augment"] == "none" else tuple(values["augment"].split("+")),
        "flips": values["flips"] == "on",
        "instance_noise": values["instance_noise"] > 0,
        "clips": values["clip_norm"] > 0,
        "scheduled": scheduled,
        "augment_adapts": all(adapts),
        "augment_some": "augment_probability" in scheduled
        or all(adapts)
        or (values["augment"] != "none" and values["augment_probability"] is not None),
        "sources": "+".join(sources[name] for name in networks if name in sources),
    }
    return Program(**{name: values[name] for name in Program._fields if name in values} | derived)


def derive_seed(study_seed: int, number: int) -> int:
    """A 32-bit seed for trial ``number``: the same on every worker, independent across trials."""
    return int(np.random.SeedSequence((study_seed, number)).generate_state(1)[0])
