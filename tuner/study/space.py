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

from tuner.coherence import values_of
from tuner.settings import Choices, Range
from tuner.spec import StudySpec
from tuner.trial import Hyperparameters, Program, TrialConfig


def distributions(spec: StudySpec) -> dict[str, BaseDistribution]:
    """Optuna's distribution for every setting that is searched."""
    return {name: _distribution(setting) for name, setting in spec.trial.searched().items()}


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
    spec: StudySpec, params: Mapping[str, Any], number: int, image_shape: tuple[int, int, int]
) -> TrialConfig:
    """The trial ``number`` of a study, at the point ``params`` of its space."""
    values = {name: params.get(name, value) for name, value in spec.trial}
    rate = values["learning_rate"]
    return TrialConfig(
        program=Program(
            generator=values["generator"],
            discriminator=values["discriminator"],
            width=values["width"],
            latent_dim=values["latent_dim"],
            image_shape=image_shape,
            batch_size=values["batch_size"],
            loss=values["loss"],
            optimizer=values["optimizer"],
            d_steps=values["d_steps"],
            ema=values["ema_decay"] > 0,
        ),
        hyperparameters=Hyperparameters(
            generator_learning_rate=_or(values["generator_learning_rate"], rate),
            discriminator_learning_rate=_or(values["discriminator_learning_rate"], rate),
            beta1=values["beta1"],
            beta2=values["beta2"],
            momentum=values["momentum"],
            rms_decay=values["rms_decay"],
            dropout=values["dropout"],
            clip_norm=values["clip_norm"],
            ema_decay=values["ema_decay"],
        ),
        seed=derive_seed(spec.study.seed, number),
        epochs=spec.study.epochs,
    )


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def derive_seed(study_seed: int, number: int) -> int:
    """A 32-bit seed for trial ``number``: the same on every worker, unlike its neighbours'."""
    return int(np.random.SeedSequence((study_seed, number)).generate_state(1)[0])
