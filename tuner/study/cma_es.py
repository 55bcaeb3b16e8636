"""CMA-ES whose state is computed from the recorded trials whenever it is needed.

Optuna's own sampler keeps its optimizer as a pickle in the attributes of trials, so anyone with
write access to the database can make every worker run code. Here a trial's attributes hold only
numbers, which are checked: its generation and, with margins, its point before rounding. They have
Optuna's names, so a study that Optuna's sampler began continues; its pickles are ignored.
"""

import collections
import datetime
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from cmaes import CMA, CMAwM
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from tuner.spec import samplers as sampler_sections
from tuner.study.records import FINISHED

_FARTHEST = 1e3  # largest coordinate of a point that the optimizer can have drawn
_NEVER = datetime.datetime.min


class CmaEsSampler(BaseSampler):
    """CMA-ES over the numeric parameters of ``space``; others are drawn at random. Minimises.

    A generation consists of its first ``popsize`` trials that ended with a result, in the order in
    which they ended, so a straggler does not change later generations. Pruned trials count with
    their last value, or as the worst if they have none; failed ones are replaced. A search that
    has converged restarts from another point.
    """

    def __init__(
        self, space: dict[str, BaseDistribution], options: sampler_sections.CmaEsSampler, seed: int
    ) -> None:
        """``seed`` is that of the only trial that this sampler is for."""
        numeric = (FloatDistribution, IntDistribution)
        self._space: dict[str, BaseDistribution] = {
            k: d for k, d in space.items() if isinstance(d, numeric) and not d.single()
        }
        self._cube = _SearchSpaceTransform(
            self._space or space, transform_step=not options.with_margin, transform_0_1=True
        )
        self._options, self._seed = options, seed
        self._random = RandomSampler(seed)
        prefix = "cmawm" if options.with_margin else "cma"
        self._generation_key, self._point_key = f"{prefix}:generation", "x_for_tell"

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        ended = [t for t in study._get_trials(deepcopy=False, use_cache=True) if self.counts(t)]
        if not self._space or len(ended) < self._options.n_startup_trials:
            return {}
        generation, optimizer = self.replay(ended)
        optimizer.reseed_rng(self._seed)
        point = optimizer.ask()
        if isinstance(point, tuple):
            point, before_rounding = point
            self._store(study, trial, self._point_key, before_rounding.tolist())
        self._store(study, trial, self._generation_key, generation)
        return self._cube.untransform(point)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, distribution: Any
    ) -> Any:
        return self._random.sample_independent(study, trial, param_name, distribution)

    def _store(self, study: optuna.Study, trial: FrozenTrial, key: str, value: Any) -> None:
        study._storage.set_trial_system_attr(trial._trial_id, key, value)

    def counts(self, trial: FrozenTrial) -> bool:
        """Whether the trial has ended within this space; other programs' trials may lie outside."""
        inside = (_lies_in(d, trial.params.get(name)) for name, d in self._space.items())
        return trial.state in FINISHED and all(inside)

    def replay(self, ended: Sequence[FrozenTrial]) -> tuple[int, CMA | CMAwM]:
        """The number of generations that the trials complete, and the optimizer after them."""
        generations = collections.defaultdict(list)
        for trial in sorted(ended, key=lambda t: (t.datetime_complete or _NEVER, t.number)):
            mark = trial.system_attrs.get(self._generation_key)
            if isinstance(mark, int):
                generations[mark].append(trial)
        generation, optimizer = 0, self._begin(0)
        while len(generations[generation]) >= optimizer.population_size:
            first = generations[generation][: optimizer.population_size]
            generation += 1
            if _tell(optimizer, [(self._point(t), _value(t)) for t in first]):
                optimizer = self._begin(generation)
        return generation, optimizer

    def _begin(self, generation: int) -> CMA | CMAwM:
        """A new optimizer: the first begins in the middle of the cube, later ones at random."""
        dims, popsize = len(self._space), self._options.popsize
        middle = np.full(dims, 0.5)
        if generation:
            middle = np.random.default_rng(generation).uniform(size=dims)
        bounds, resampling = np.array([[0.0, 1.0]] * dims), 10 * dims
        if self._options.with_margin:
            steps = np.array([_step(d) for d in self._space.values()])
            return CMAwM(middle, 1 / 6, bounds, steps, resampling, population_size=popsize)
        adapt = self._options.lr_adapt
        return CMA(middle, 1 / 6, bounds, resampling, population_size=popsize, lr_adapt=adapt)

    def _point(self, trial: FrozenTrial) -> np.ndarray:
        """Where the trial lies in the unit cube; with margins, before rounding."""
        stored = trial.system_attrs.get(self._point_key) if self._options.with_margin else None
        if isinstance(stored, list) and len(stored) == len(self._space):
            valid = [type(x) is float and abs(x) <= _FARTHEST for x in stored]
            if all(valid):
                return np.array(stored)
        point: np.ndarray = self._cube.transform(trial.params)
        return point


def _lies_in(distribution: Any, value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and distribution.low <= value <= distribution.high


def _value(trial: FrozenTrial) -> float:
    """The finite value that the trial is ranked by; a trial without a value ranks last."""
    if trial.state == TrialState.COMPLETE:
        value = trial.values[0] if trial.values else math.nan
    else:
        steps = trial.intermediate_values
        value = steps[max(steps)] if steps else math.nan
    return float(np.nan_to_num(value, nan=1e300, posinf=1e300, neginf=-1e300))


def _step(distribution: Any) -> float:
    """A parameter's step as a share of its range; 0 where it is continuous."""
    if distribution.step is None or distribution.log:
        return 0.0
    return float(distribution.step / (distribution.high - distribution.low))


def _tell(optimizer: CMA | CMAwM, solutions: list[tuple[np.ndarray, float]]) -> bool:
    """Tell the optimizer a generation; returns whether it has converged or degenerated."""
    try:
        with np.errstate(all="ignore"):
            optimizer.tell(solutions)
            return bool(optimizer.should_stop()) or not np.isfinite(optimizer.ask()).all()
    except np.linalg.LinAlgError:
        return True
