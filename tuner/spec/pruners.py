"""The ``[pruner]`` section.

Options have Optuna's names and are passed to it unchanged. ``tuner.study.samplers`` builds Optuna's
pruners from them. ``asha`` is our own: see ``tuner.study.rungs``.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from tuner.spec.sections import Problem, Section, entry


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
