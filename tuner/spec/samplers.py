"""The ``[sampler]`` section.

Options have Optuna's names and are passed to it unchanged. ``tuner.study.samplers`` builds Optuna's
samplers from them.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tuner.spec.parameters import Choices, Range, values_of
from tuner.spec.sections import Problem, Section, entry

MAX_GP_STEPS = 100_000


class Sampler(Section):
    """A sampler: what it can search, and what it learns from."""

    name: str
    learns: ClassVar[bool] = True  # from earlier trials
    learns_from_pruned: ClassVar[bool] = True
    conditional: ClassVar[bool] = False  # accepts trials with different sets of parameters
    ranges_only: ClassVar[bool] = False  # draws choices at random
    one_objective: ClassVar[bool] = False  # can't learn from several

    def problems(self, searched: Mapping[str, Choices | Range]) -> Iterator[Problem]:
        """Reasons why the sampler cannot search these settings, each at a key."""
        return iter(())


class RandomSampler(Sampler):
    name: Literal["random"] = "random"
    learns = False
    conditional = True


class GridSampler(Sampler):
    name: Literal["grid"] = "grid"
    learns = False

    def problems(self, searched: Mapping[str, Choices | Range]) -> Iterator[Problem]:
        for name, setting in searched.items():
            if values_of(setting) is None:
                text = "the grid sampler needs choices, or a range with a step"
                yield ("trial", name), text
        if not searched:
            yield ("sampler", "name"), "the grid sampler needs something to search in [trial]"


class QmcSampler(Sampler):
    name: Literal["qmc"] = "qmc"
    learns = False
    ranges_only = True
    qmc_type: Literal["sobol", "halton"] = entry("sobol", "low-discrepancy sequence")
    scramble: bool = entry(True, "scramble the sequence")


_RandomTrials = Annotated[
    int, Field(ge=0, description="random trials before the sampler's model is used")
]


class TpeSampler(Sampler):
    name: Literal["tpe"] = "tpe"
    conditional = True
    n_startup_trials: _RandomTrials = 10
    n_ei_candidates: int = entry(24, "candidates compared per trial", ge=1, le=10_000)
    multivariate: bool = entry(True, "model parameters jointly")
    group: bool = entry(False, "model groups of parameters separately")
    constant_liar: bool = entry(True, "avoid points near running trials")

    def problems(self, searched: Mapping[str, Choices | Range]) -> Iterator[Problem]:
        if self.group and not self.multivariate:
            yield ("sampler", "group"), "group = true needs multivariate = true"


class Nsga2Sampler(Sampler):
    name: Literal["nsga2"] = "nsga2"
    learns_from_pruned = False
    population_size: int = entry(
        50, "complete trials per generation; the first generation is random", ge=2, le=10_000
    )
    mutation_prob: float | None = entry(
        None,
        "probability of drawing a parameter at random; by default 1 / number of parameters",
        ge=0,
        le=1,
    )
    crossover_prob: float = entry(0.9, "probability that a trial has two parents", ge=0, le=1)
    swapping_prob: float = entry(
        0.5, "probability that a parameter comes from the second parent", ge=0, le=1
    )


class CmaEsSampler(Sampler):
    name: Literal["cmaes"] = "cmaes"
    one_objective = True
    ranges_only = True
    n_startup_trials: _RandomTrials = 1
    popsize: int | None = entry(None, "population size", ge=4, le=10_000)
    with_margin: bool = entry(False, "CMA-ES with margin, for whole numbers")
    lr_adapt: bool = entry(False, "adapt the learning rate (noisy objectives)")

    def problems(self, searched: Mapping[str, Choices | Range]) -> Iterator[Problem]:
        ranges = [name for name, setting in searched.items() if isinstance(setting, Range)]
        if len(ranges) < 2:
            found = ", ".join(ranges) or "none"
            yield ("sampler", "name"), f"cmaes needs at least two ranges, found: {found}"
        elif self.with_margin and self.lr_adapt:
            text = "lr_adapt and with_margin are both true; cmaes can use only one of them"
            yield ("sampler", "lr_adapt"), text


class GpSampler(Sampler):
    name: Literal["gp"] = "gp"
    one_objective = True
    learns_from_pruned = False
    n_startup_trials: _RandomTrials = 10
    deterministic_objective: bool = entry(False, "assume a noise-free objective")

    def problems(self, searched: Mapping[str, Choices | Range]) -> Iterator[Problem]:
        for name, setting in searched.items():
            steps = values_of(setting) if isinstance(setting, Range) else None
            if steps is not None and len(steps) > MAX_GP_STEPS:
                text = f"found {len(steps):,} steps, which the gp sampler would enumerate"
                yield ("trial", name), f"{text}; expected at most {MAX_GP_STEPS:,}, or no step"


SamplerSpec = Annotated[
    RandomSampler | GridSampler | QmcSampler | TpeSampler | Nsga2Sampler | CmaEsSampler | GpSampler,
    Field(discriminator="name"),
]
