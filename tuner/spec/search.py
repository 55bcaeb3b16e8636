"""The ``[sampler]`` and ``[pruner]`` sections.

Options have Optuna's names and are passed to it unchanged. ``tuner.study.samplers`` builds Optuna's
objects from them. ``asha`` is our own: see ``tuner.study.rungs``.
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


class Pruner(Section):
    """A pruner, and the checks that several of them share."""

    name: str

    def compares_at(self, epoch: int, every: int) -> bool:
        """Whether this epoch may be a rung, with an evaluation every ``every`` epochs."""
        return False

    def problems(self, epochs: int, trials: int, every: int, value: str) -> Iterator[Problem]:
        """Reasons why the pruner would never prune, or too late, each at a key of its section.

        The study has ``trials`` trials of ``epochs`` epochs. A trial is evaluated every ``every``
        epochs and judged by its best or its last value, as ``value`` says.
        """
        warmup = getattr(self, "n_warmup_steps", 0)
        if warmup > (epochs - 1) // every * every:
            yield ("n_warmup_steps",), _too_late(f"the warm-up lasts until epoch {warmup}", epochs)
        startup = getattr(self, "n_startup_trials", 0)
        if startup >= trials:
            text = f"found {startup}, expected fewer than the study's {trials} trials"
            yield ("n_startup_trials",), text


def _too_late(what: str, epochs: int) -> str:
    return f"{what}, but trials end at epoch {epochs}, so none could be pruned; lower it"


class NoPruner(Pruner):
    name: Literal["none"] = "none"


_Warmup = Annotated[int, Field(ge=0, description="epochs before a trial can be pruned")]
_Interval = Annotated[int, Field(ge=1, description="epochs between checks")]


class ComparingPruner(Pruner):
    """A pruner that compares a trial with the others at the same epoch."""

    n_startup_trials: int = entry(5, "trials that must have ended before any is pruned", ge=0)
    n_warmup_steps: _Warmup = 0
    interval_steps: _Interval = 1
    n_min_trials: int = entry(1, "minimum number of trials to compare with", ge=1)


class MedianPruner(ComparingPruner):
    name: Literal["median"] = "median"


class PercentilePruner(ComparingPruner):
    name: Literal["percentile"] = "percentile"
    percentile: float = entry(25.0, "percentage of trials to keep", gt=0, lt=100)


class RungPruner(Pruner):
    """A pruner that compares trials at rungs, where most of them end or pause.

    Each rung comes ``reduction_factor`` times as late as the previous one.
    """

    min_resource: int | None = entry(
        None, "epochs before the first rung; by default metrics.every", ge=1
    )
    reduction_factor: int = entry(3, "one in this many trials is promoted at each rung", ge=2)

    def first_rung(self, every: int) -> int:
        """The epoch of the first rung, with an evaluation every ``every`` epochs."""
        return self.min_resource or every

    def compares_at(self, epoch: int, every: int) -> bool:
        rung = self.first_rung(every)
        while rung < epoch:
            rung *= self.reduction_factor
        return rung == epoch

    def _unevaluated_rung(self, first: int, epochs: int, every: int) -> Iterator[Problem]:
        """The first rung without an evaluation, at which trials would be pruned too late."""
        rung = first
        while rung < epochs:
            if rung % every:
                text = f"the rung at epoch {rung} falls between evaluations"
                yield ("min_resource",), f"{text}; use a multiple of metrics.every = {every}"
                return
            rung *= self.reduction_factor


class AshaPruner(RungPruner):
    """Pauses trials at rungs, and promotes the paused trials that turn out to be good enough."""

    name: Literal["asha"] = "asha"
    brackets: int = entry(
        1, "groups of trials; each skips one more rung than the previous (Hyperband)", ge=1
    )

    def rungs(self, epochs: int, every: int) -> tuple[int, ...]:
        """The epochs of the rungs, all before the last of ``epochs``."""
        found = [self.first_rung(every)]
        while found[-1] * self.reduction_factor < epochs:
            found.append(found[-1] * self.reduction_factor)
        return tuple(rung for rung in found if rung < epochs)

    def problems(self, epochs: int, trials: int, every: int, value: str) -> Iterator[Problem]:
        first, rungs = self.first_rung(every), self.rungs(epochs, every)
        yield from self._unevaluated_rung(first, epochs, every)
        if not rungs:
            why = "" if self.min_resource else f" (metrics.every = {every})"
            yield ("min_resource",), _too_late(f"the first rung is at epoch {first}{why}", epochs)
        elif self.brackets > len(rungs) + 1:
            limit = len(rungs) + 1
            text = f"found {self.brackets}, expected at most {limit}: there are {len(rungs)} rungs"
            yield ("brackets",), f"{text}, and the last bracket skips them all"


class HalvingPruner(RungPruner):
    """A pruner that ends trials at rungs, as soon as they are not among the best so far."""

    bootstrap_count: int = entry(0, "trials needed at a rung before any is promoted", ge=0)


class SuccessiveHalvingPruner(HalvingPruner):
    name: Literal["successive_halving"] = "successive_halving"
    min_early_stopping_rate: int = entry(0, "rungs to skip", ge=0)

    def problems(self, epochs: int, trials: int, every: int, value: str) -> Iterator[Problem]:
        first = self.first_rung(every) * self.reduction_factor**self.min_early_stopping_rate
        yield from self._unevaluated_rung(first, epochs, every)
        if first >= epochs:
            why = "" if self.min_resource else f" (metrics.every = {every})"
            yield ("min_resource",), _too_late(f"the first rung is at epoch {first}{why}", epochs)


class HyperbandPruner(HalvingPruner):
    name: Literal["hyperband"] = "hyperband"

    def problems(self, epochs: int, trials: int, every: int, value: str) -> Iterator[Problem]:
        first, factor = self.first_rung(every), self.reduction_factor
        yield from self._unevaluated_rung(first, epochs, every)
        if first * factor > epochs:
            text = f"two rungs take {first * factor} epochs with min_resource = {first} and "
            text += f"reduction_factor = {factor}, but trials have {epochs}"
            yield ("min_resource",), f"{text}; lower one of the two keys, or choose another pruner"


class ThresholdPruner(Pruner):
    name: Literal["threshold"] = "threshold"
    lower: float | None = entry(None, "prune below this value")
    upper: float | None = entry(None, "prune above this value")
    n_warmup_steps: _Warmup = 0
    interval_steps: _Interval = 1

    def problems(self, epochs: int, trials: int, every: int, value: str) -> Iterator[Problem]:
        low, high = self.lower, self.upper
        if low is None and high is None:
            yield ("upper",), "neither lower nor upper is set; set at least one"
        elif low is not None and high is not None and low >= high:
            yield ("upper",), f"found {high:g}, expected a number above lower = {low:g}"
        yield from super().problems(epochs, trials, every, value)


_Wrapped = MedianPruner | PercentilePruner | SuccessiveHalvingPruner | ThresholdPruner


class PatientPruner(Pruner):
    name: Literal["patient"] = "patient"
    patience: int = entry(3, "evaluations without progress before a trial can be pruned", ge=0)
    min_delta: float = entry(0.0, "smallest improvement that counts as progress", ge=0)
    wrapped: Annotated[_Wrapped, Field(discriminator="name")] | None = entry(
        None, "pruner that decides once patience has run out; without one, the trial is pruned"
    )

    def compares_at(self, epoch: int, every: int) -> bool:
        return self.wrapped is not None and self.wrapped.compares_at(epoch, every)

    def problems(self, epochs: int, trials: int, every: int, value: str) -> Iterator[Problem]:
        if value == "best":
            text = "the best value so far never gets worse, so patient would never prune"
            yield ("name",), f'{text}; set study.value = "last"'
        until = (self.patience + 2) * every
        if until >= epochs:
            yield ("patience",), _too_late(f"patience lasts until epoch {until}", epochs)
        if self.wrapped is not None:
            for key, text in self.wrapped.problems(epochs, trials, every, value):
                yield ("wrapped", *key), text


PrunerSpec = Annotated[
    NoPruner | AshaPruner | _Wrapped | HyperbandPruner | PatientPruner,
    Field(discriminator="name"),
]
