"""The search space as Optuna's distributions, and a point of it as a ``TrialConfig``."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tuner.combinations import values_of
from tuner.conditions import branch_at, deciders
from tuner.settings import Choices, Range
from tuner.spec import DEFAULT_PENALTY, OWN_NORMS, PENALISED, PENALTIES, StudySpec
from tuner.trial import Hyperparameters, Premises, Program, TrialConfig

_NO_NORMS = ("none", "none")  # networks that are not tuner's own decide for themselves


def distributions(
    spec: StudySpec, params: Mapping[str, Any] | None = None
) -> dict[str, BaseDistribution]:
    """Optuna's distribution for every setting that is searched, given the ``params`` chosen so
    far. Where the choice of one decides on others, those come first, and alone until they are
    known."""
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
        high = float(values[-1])  # Optuna wants the highest value that steps from low can reach
    if isinstance(low, int):
        return IntDistribution(low, int(high), log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def trial_config(
    spec: StudySpec, params: Mapping[str, Any], number: int, premises: Premises
) -> TrialConfig:
    """The trial ``number`` of a study, at the point ``params`` of its space."""
    branch = branch_at(spec.trial, params)
    assert branch is not None, params
    settings = branch.trial.settings()
    found = {name: params.get(branch.names.get(name, name), value) for name, value in settings}
    values = _completed(found)
    program = _program(values, premises)
    total = spec.study.epochs * program.images_per_epoch(premises.images)
    values["total_images"] = total
    if values["decay_images"] is None:
        values["decay_images"] = max(1, total - values["warmup_images"])
    numbers = {name: float(values[name]) for name in Hyperparameters._fields}
    return TrialConfig(
        program=program,
        hyperparameters=Hyperparameters(**numbers),
        seed=derive_seed(spec.study.seed, number),
        epochs=spec.study.epochs,
    )


def _completed(values: dict[str, Any]) -> dict[str, Any]:
    """The settings with those filled in that follow from others where they are not given."""
    networks = zip(("generator", "discriminator"), (0, 1), strict=True)
    for network, side in networks:
        for name in ("optimizer", "learning_rate", "beta1", "beta2"):
            values[f"{network}_{name}"] = _or(values[f"{network}_{name}"], values[name])
        own = OWN_NORMS.get(values[network], _NO_NORMS)[side]
        values[f"{network}_norm"] = _or(values[f"{network}_norm"], own)
    weight = DEFAULT_PENALTY if values["loss"] in PENALISED else 0.0
    values["gradient_penalty"] = _or(values["gradient_penalty"], weight)
    return values


def _program(values: Mapping[str, Any], premises: Premises) -> Program:
    sources = dict(premises.sources)
    own = [
        sources[name] for name in (values["generator"], values["discriminator"]) if name in sources
    ]
    return Program(
        generator=values["generator"],
        discriminator=values["discriminator"],
        width=values["width"],
        latent_dim=values["latent_dim"],
        image_shape=premises.image_shape,
        batch_size=values["batch_size"],
        loss=values["loss"],
        generator_optimizer=values["generator_optimizer"],
        discriminator_optimizer=values["discriminator_optimizer"],
        d_steps=values["d_steps"],
        ema=values["ema_decay"] > 0,
        generator_norm=values["generator_norm"],
        discriminator_norm=values["discriminator_norm"],
        classes=premises.classes if values["conditional"] == "on" else 0,
        penalties=tuple(name for name in PENALTIES if values[name] > 0),
        augment=() if values["augment"] == "none" else tuple(values["augment"].split("+")),
        flips=values["flips"] == "on",
        instance_noise=values["instance_noise"] > 0,
        schedule=values["schedule"],
        precision=values["precision"],
        sources="+".join(own),
    )


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def derive_seed(study_seed: int, number: int) -> int:
    """A 32-bit seed for trial ``number``: the same on every worker, unlike its neighbours'."""
    return int(np.random.SeedSequence((study_seed, number)).generate_state(1)[0])
