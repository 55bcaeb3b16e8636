"""A grid sampler whose memory and time do not depend on the number of points."""

import collections
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from tuner.spec.parameters import Value
from tuner.study.space import derive_seed


class GridSampler(BaseSampler):
    """Visits every point of a grid once, in an order set by the study's seed; then starts over.

    A trial draws points from its own random numbers until it draws one that no other trial has, so
    nothing needs to be stored. The points that other workers are choosing for lower-numbered trials
    at the same time are derived in the same way, and avoided.
    """

    def __init__(
        self,
        space: dict[str, BaseDistribution],
        values: Mapping[str, Sequence[Value]],
        study_seed: int,
    ) -> None:
        self._space, self._values, self._seed = space, values, study_seed
        self._size = math.prod(len(some) for some in values.values())

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        visits: collections.Counter[int] = collections.Counter()
        undecided = []
        for other in study._get_trials(deepcopy=False, use_cache=True):
            index = self._index(other)
            if index is not None:
                visits[index] += 1
            elif other.state == TrialState.RUNNING and other.number < trial.number:
                undecided.append(other.number)
        for number in sorted(undecided):
            visits[self._choose(number, visits)] += 1
        return self._point(self._choose(trial.number, visits))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, distribution: Any
    ) -> Any:
        raise AssertionError(f"{param_name} is part of the grid")

    def _choose(self, number: int, visits: collections.Counter[int]) -> int:
        """Draw the index of a trial's point from those that were visited least."""
        least = min(visits.values()) if len(visits) == self._size else 0
        draw = random.Random(derive_seed(self._seed, number))
        while visits[index := draw.randrange(self._size)] > least:
            pass
        return index

    def _index(self, trial: FrozenTrial) -> int | None:
        """The index of a trial's point; None if it has none on the grid."""
        params = trial.params or trial.system_attrs.get("fixed_params")
        if not isinstance(params, dict):
            return None
        index = 0
        for name, values in self._values.items():
            if name not in params or params[name] not in values:
                return None
            index = index * len(values) + values.index(params[name])
        return index

    def _point(self, index: int) -> dict[str, Value]:
        point = {}
        for name in reversed(list(self._values)):
            index, position = divmod(index, len(self._values[name]))
            point[name] = self._values[name][position]
        return point
