"""Limit what samplers and pruners see to trials comparable with the study's own."""

import copy
import functools
import json
import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tuner.spec.branches import branches
from tuner.spec.constraint import Size
from tuner.spec.study import StudySpec
from tuner.study import rows
from tuner.study.objectives import cost
from tuner.study.optuna_internals import CachedStorage
from tuner.study.records import CONFIRMS, FINISHED, PAUSED, size_of
from tuner.study.space import contains, distributions

_RUNG, _CONSTRAINT = "completed_rung_", "constraints"
_GENERATION = ":generation"  # of genetic samplers
_RELATIVE = ":relative_params:"  # a point chosen by TPE or GP, stored before the parameters


class ScreenedStorage(CachedStorage):
    """Optuna's cached storage without the trials that would break a study's sampler or pruner."""

    def __init__(
        self,
        cache: Any,
        screen: Callable[[FrozenTrial], FrozenTrial | None],
        directions: Sequence[StudyDirection],
    ) -> None:
        """``screen`` returns a trial as samplers and pruners see it, or None to hide it;
        ``directions`` are those of the study that they see."""
        super().__init__(cache._backend)
        self._cache, self._screen, self._directions = cache, screen, list(directions)
        self._finished: dict[int, FrozenTrial | None] = {}  # as screened, by trial id

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        trials = map(self._screened, self._cache.get_all_trials(study_id, deepcopy=False))
        found = [t for t in trials if t is not None and (states is None or t.state in states)]
        return copy.deepcopy(found) if deepcopy else found

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._directions

    def _screened(self, trial: FrozenTrial) -> FrozenTrial | None:
        if not trial.state.is_finished():
            return self._screen(trial)
        if trial._trial_id not in self._finished:
            self._finished[trial._trial_id] = self._screen(trial)
        return self._finished[trial._trial_id]

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        # Optuna's cache would refuse a distribution that differs from another trial's.
        self._backend._set_trial_param(
            trial_id, param_name, param_value_internal, distribution, distribution
        )


def screened(study: optuna.Study, spec: StudySpec) -> optuna.Study:
    """Return the study as its samplers see it, and with one objective also its pruners."""
    screen = _for_samplers if spec.metrics.several else comparable
    return _seen_through(study, functools.partial(screen, spec), study.directions)


def by_first_objective(study: optuna.Study, spec: StudySpec) -> optuna.Study:
    """Return the study with several objectives as its pruners see it: with the first one only."""
    return _seen_through(study, functools.partial(comparable, spec), study.directions[:1])


def _seen_through(
    study: optuna.Study,
    screen: Callable[[FrozenTrial], FrozenTrial | None],
    directions: Sequence[StudyDirection],
) -> optuna.Study:
    found = copy.copy(study)
    found._directions = list(directions)
    found._storage = ScreenedStorage(study._storage, screen, directions)
    return found


def _for_samplers(spec: StudySpec, trial: FrozenTrial) -> FrozenTrial | None:
    """A trial of several objectives as samplers see it.

    Pruned trials have no values of their own. TPE would rank them by their last report, but Optuna
    refuses to with several objectives. So they appear to violate a constraint: by less the
    later they were pruned, then the better their first objective was, and by less than trials
    that violate the study's own constraint.
    """
    found = comparable(spec, trial)
    if found is None or found.state != TrialState.PRUNED:
        return found
    found = copy.copy(found)
    last, missed = found.last_step, float(spec.study.epochs + 1)
    if last is not None:
        value = cost(spec.metrics.objective, found.intermediate_values[last])
        missed = max(0, spec.study.epochs - last) + 0.5 + 0.5 * value / (1 + abs(value))
    found.system_attrs = found.system_attrs | {f"{_CONSTRAINT}:pruned": missed}
    found.intermediate_values = {}
    return found


def comparable(spec: StudySpec, trial: FrozenTrial) -> FrozenTrial | None:
    """Reduce a trial to the parameters and attributes that the study's own trials have.

    None if it has ended with a missing or unusable result or parameter, or if it confirms another
    trial. A paused trial looks pruned, with its value at the rung. The study's other own trials are
    returned unchanged.
    """
    if CONFIRMS in trial.user_attrs:
        return None
    if (value := _paused_with(trial)) is not None:
        trial = copy.copy(trial)
        trial.state, trial.datetime_complete = TrialState.PRUNED, trial.datetime_start
        trial.values = None if spec.metrics.several else [value]
    wanted = distributions(spec, trial.params)
    if trial.state in FINISHED:
        values, count = trial.values or [], len(spec.metrics.names)
        if len(values) != count if trial.state == TrialState.COMPLETE else len(values) > count:
            return None
        if not all(math.isfinite(value) for value in values):
            return None
    fits = {
        name: value
        for name, value in trial.params.items()
        if name in wanted and contains(wanted[name], value)
    }
    if trial.state in FINISHED and len(fits) < len(wanted):
        return None
    found = {name: wanted[name] for name in fits}
    attributes = _attributes(spec, trial.system_attrs) | _constraints(spec, trial)
    if found == trial.distributions and attributes == trial.system_attrs:
        return trial
    screened = copy.copy(trial)
    screened.params, screened.distributions, screened.system_attrs = fits, found, attributes
    return screened


def _constraints(spec: StudySpec, trial: FrozenTrial) -> dict[str, float]:
    """Optuna's attributes of constraints, by the study's present limits: above 0 if violated."""
    size = size_of(trial.user_attrs)
    return {} if size is None else constraint_attributes(spec, size)


def constraint_attributes(spec: StudySpec, size: Size) -> dict[str, float]:
    """What ``Trial.set_constraint`` would store on a trial with networks of this size."""
    return {f"{_CONSTRAINT}:{key}": excess for key, excess in spec.constraint.excess(size).items()}


def _paused_with(trial: FrozenTrial) -> float | None:
    """The last value of a trial that was paused after its last report; None for other trials."""
    last = trial.last_step
    if trial.state != TrialState.RUNNING or last is None or trial.user_attrs.get(PAUSED) != last:
        return None
    return trial.intermediate_values[last]


def _attributes(spec: StudySpec, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes that samplers and pruners can use: of the right type, within the space."""
    found = {
        key: value
        for key, value in attributes.items()
        if _RELATIVE not in key
        and not key.startswith(_CONSTRAINT)
        and (not key.startswith(_RUNG) or rows.real(value) is not None)
        and (not key.endswith(_GENERATION) or rows.whole(value) is not None)
    }
    relative = {key: value for key, value in attributes.items() if _RELATIVE in key}
    return found | (relative if _is_point(spec, relative) else {})


def _is_point(spec: StudySpec, relative: Mapping[str, str]) -> bool:
    """Whether the JSON fragments under these keys form a point of this study's space."""
    if not relative:
        return False
    parts = (distributions(spec, branch.given) for branch in branches(spec.trial))
    known = {name: distribution for part in parts for name, distribution in part.items()}
    try:
        pieces = sorted(relative, key=lambda key: int(key.rpartition(":")[2]))
        point = json.loads("".join(relative[key] for key in pieces))
        return all(contains(known[name], value) for name, value in point.items() if name in known)
    except (AttributeError, RecursionError, TypeError, ValueError):
        return False
