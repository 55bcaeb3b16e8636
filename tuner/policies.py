"""The parts of a study file that decide what is tried next and what is given up: samplers, pruners,
guard. Options bear Optuna's names and are handed to it as they are.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A table of the study file: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class RandomSampler(Section):
    name: Literal["random"] = "random"


class GridSampler(Section):
    name: Literal["grid"] = "grid"


class QmcSampler(Section):
    name: Literal["qmc"] = "qmc"
    qmc_type: Annotated[Literal["sobol", "halton"], Field(description="the sequence")] = "sobol"
    scramble: Annotated[bool, Field(description="scramble the sequence")] = True


class TpeSampler(Section):
    name: Literal["tpe"] = "tpe"
    n_startup_trials: Annotated[int, Field(ge=0, description="random trials first")] = 10
    n_ei_candidates: Annotated[int, Field(ge=1, description="candidates compared per trial")] = 24
    multivariate: Annotated[bool, Field(description="model parameters jointly")] = True
    group: Annotated[bool, Field(description="model groups of parameters apart")] = False
    constant_liar: Annotated[
        bool, Field(description="keep away from trials that are still running")
    ] = True


class CmaEsSampler(Section):
    name: Literal["cmaes"] = "cmaes"
    n_startup_trials: Annotated[int, Field(ge=0, description="random trials first")] = 1
    popsize: Annotated[int | None, Field(ge=4, description="population of a generation")] = None
    with_margin: Annotated[bool, Field(description="keep whole numbers from freezing")] = False
    lr_adapt: Annotated[bool, Field(description="adapt the learning rate (noisy objectives)")] = (
        False
    )


class GpSampler(Section):
    name: Literal["gp"] = "gp"
    n_startup_trials: Annotated[int, Field(ge=0, description="random trials first")] = 10
    deterministic_objective: Annotated[bool, Field(description="assume there is no noise")] = False


SamplerSpec = Annotated[
    RandomSampler | GridSampler | QmcSampler | TpeSampler | CmaEsSampler | GpSampler,
    Field(discriminator="name"),
]


class NoPruner(Section):
    name: Literal["none"] = "none"


class PercentilePruner(Section):
    name: Literal["percentile"] = "percentile"
    percentile: Annotated[
        float, Field(gt=0, lt=100, description="keep this share of trials, in %")
    ] = 25.0
    n_startup_trials: Annotated[int, Field(ge=0, description="trials that must end first")] = 5
    n_warmup_steps: Annotated[int, Field(ge=0, description="never before this epoch")] = 0
    interval_steps: Annotated[int, Field(ge=1, description="epochs between checks")] = 1
    n_min_trials: Annotated[int, Field(ge=1, description="trials to compare with at least")] = 1


class MedianPruner(Section):
    name: Literal["median"] = "median"
    n_startup_trials: Annotated[int, Field(ge=0, description="trials that must end first")] = 5
    n_warmup_steps: Annotated[int, Field(ge=0, description="never before this epoch")] = 0
    interval_steps: Annotated[int, Field(ge=1, description="epochs between checks")] = 1
    n_min_trials: Annotated[int, Field(ge=1, description="trials to compare with at least")] = 1


class SuccessiveHalvingPruner(Section):
    name: Literal["successive_halving"] = "successive_halving"
    min_resource: Annotated[
        int | None,
        Field(ge=1, description="epochs before the first rung; by default until an evaluation"),
    ] = None
    reduction_factor: Annotated[int, Field(ge=2, description="one in so many is promoted")] = 3
    min_early_stopping_rate: Annotated[int, Field(ge=0, description="rungs to skip")] = 0
    bootstrap_count: Annotated[
        int, Field(ge=0, description="trials at a rung before any is promoted")
    ] = 0


class HyperbandPruner(Section):
    name: Literal["hyperband"] = "hyperband"
    min_resource: Annotated[
        int | None,
        Field(ge=1, description="epochs before the first rung; by default until an evaluation"),
    ] = None
    reduction_factor: Annotated[int, Field(ge=2, description="one in so many is promoted")] = 3
    bootstrap_count: Annotated[
        int, Field(ge=0, description="trials at a rung before any is promoted")
    ] = 0


class ThresholdPruner(Section):
    name: Literal["threshold"] = "threshold"
    lower: Annotated[float | None, Field(description="prune below this value")] = None
    upper: Annotated[float | None, Field(description="prune above this value")] = None
    n_warmup_steps: Annotated[int, Field(ge=0, description="never before this epoch")] = 0
    interval_steps: Annotated[int, Field(ge=1, description="epochs between checks")] = 1


class PatientPruner(Section):
    name: Literal["patient"] = "patient"
    patience: Annotated[int, Field(ge=0, description="evaluations without progress to bear")] = 3
    min_delta: Annotated[
        float, Field(ge=0, description="change of the value that counts as progress")
    ] = 0.0
    wrapped: Annotated[
        Annotated[
            MedianPruner | PercentilePruner | SuccessiveHalvingPruner | ThresholdPruner,
            Field(discriminator="name"),
        ]
        | None,
        Field(description="a pruner asked once patience has run out; none: prune at once"),
    ] = None


PrunerSpec = Annotated[
    NoPruner
    | MedianPruner
    | PercentilePruner
    | SuccessiveHalvingPruner
    | HyperbandPruner
    | ThresholdPruner
    | PatientPruner,
    Field(discriminator="name"),
]

_Enabled = Annotated[bool, Field(description="whether it can end a trial")]
_Low = Annotated[float | None, Field(ge=0, description="below it is out of bounds")]
_High = Annotated[float | None, Field(ge=0, description="above it is out of bounds")]
_Patience = Annotated[
    int, Field(ge=1, description="evaluations in a row out of bounds that end it")
]
_Grace = Annotated[int, Field(ge=0, description="generator updates before it is looked at")]


class LossRatioGuard(Section):
    enabled: _Enabled = True
    low: _Low = 0.001
    high: _High = 100.0
    patience: _Patience = 2
    grace_steps: _Grace = 100


class VarianceRatioGuard(Section):
    enabled: _Enabled = True
    low: _Low = 0.05
    high: _High = None
    patience: _Patience = 2
    grace_steps: _Grace = 500


class DiscriminatorAucGuard(Section):
    enabled: _Enabled = False
    low: _Low = None
    high: _High = 0.9999
    patience: _Patience = 2
    grace_steps: _Grace = 500


class ClassCoverageGuard(Section):
    enabled: _Enabled = True
    low: Annotated[float | None, Field(ge=0, le=1, description="below it is out of bounds")] = 0.25
    high: _High = None
    patience: _Patience = 2
    grace_steps: _Grace = 500


GuardLimits = LossRatioGuard | VarianceRatioGuard | DiscriminatorAucGuard | ClassCoverageGuard


class GuardSection(Section):
    """When a trial is beyond help. Numbers that are not finite always end it at once."""

    loss_ratio: Annotated[
        LossRatioGuard, Field(description="bounds of D's loss over G's, each in its own units")
    ] = LossRatioGuard()
    variance_ratio: Annotated[
        VarianceRatioGuard, Field(description="bounds of generated over real feature variance")
    ] = VarianceRatioGuard()
    d_auc: Annotated[
        DiscriminatorAucGuard, Field(description="bounds of the discriminator's AUC")
    ] = DiscriminatorAucGuard()
    class_coverage: Annotated[
        ClassCoverageGuard, Field(description="bounds of the share of classes that are generated")
    ] = ClassCoverageGuard()
