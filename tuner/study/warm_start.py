"""Warm starts: the best configurations of an earlier study, queued in a new one."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tuner.errors import InputError
from tuner.spec.branches import (
    branch_at,
    branches,
    deciders,
    optuna_params,
    setting_name,
)
from tuner.spec.parameters import Value
from tuner.spec.study import StudySpec
from tuner.spec.trial import kind_of
from tuner.spec.validation import point_problems
from tuner.study.database import Database
from tuner.study.objectives import pareto_front
from tuner.study.records import TrialRecord, ranked
from tuner.study.store import StudyStore


class Queued(NamedTuple):
    """A trial to queue, and where its parameters come from."""

    params: dict[str, Value]  # under Optuna's names
    origin: dict[str, Any]


class WarmStart(NamedTuple):
    """The trials to queue, and a line about them; both empty without a warm start."""

    queued: list[Queued]
    message: str = ""


class _Fitted(NamedTuple):
    """A configuration as far as it fits another search space."""

    point: dict[str, Value]
    left_out: list[str]  # settings


def warm_start(database: Database, spec: StudySpec) -> WarmStart:
    """The best distinct configurations of the study that ``[warm_start]`` names, without those of
    baselines. InputError if there is no such study."""
    section = spec.warm_start
    if section.study is None:
        return WarmStart([])
    old, trials = _read(database, section.storage, section.study)
    known = [dict(baseline) for baseline in spec.baseline]
    queued, left_out = list[Queued](), dict[str, list[int]]()
    for trial in trials:
        fitted = _fitted(spec, _configuration(old, trial), trial.params)
        if len(queued) == section.top:
            break
        if not fitted.point or fitted.point in known:
            continue
        known.append(fitted.point)
        origin = {"study": section.study, "trial": trial.number}
        queued.append(Queued(optuna_params(spec.trial, fitted.point), origin))
        for name in fitted.left_out:
            left_out.setdefault(name, []).append(trial.number)
    return WarmStart(queued, _message(section.study, len(trials), queued, left_out))


def _read(
    database: Database, storage: str | None, name: str
) -> tuple[StudySpec, list[TrialRecord]]:
    """The earlier study's file, and its complete trials, the best first."""
    try:
        source = database if storage is None else Database(storage)
        try:
            store = StudyStore(source, name)
            old, trials = store.spec, store.trials()
        finally:
            if source is not database:
                source.rdb.engine.dispose()
    except InputError as error:
        text = str(error)
        key = "" if text.startswith("storage: ") else "study: "
        raise InputError(f"warm_start.{key}{text}") from None
    return old, ranked_for_start(trials)


def ranked_for_start(trials: list[TrialRecord]) -> list[TrialRecord]:
    """The complete trials with a value: the Pareto front first, then the others by value."""
    front = pareto_front(trials)
    return [*front, *(trial for trial in ranked(trials) if trial not in front)]


def _configuration(spec: StudySpec, trial: TrialRecord) -> dict[str, Value]:
    """All settings of a trial, those that its study fixes included."""
    branch = branch_at(spec.trial, trial.params)
    settings = spec.trial.settings() if branch is None else branch.trial.settings()
    fixed = {name: value for name, value in settings if isinstance(value, int | float | str)}
    return fixed | trial.params


def _fitted(spec: StudySpec, values: Mapping[str, Value], params: Mapping[str, Value]) -> _Fitted:
    """The part of a configuration that lies in this study's search space.

    ``params`` are the settings that the earlier study searched: those that this study fixes to
    another value count as left out.
    """
    searched = {setting_name(name) for branch in branches(spec.trial) for name in branch.searched()}
    searched |= deciders(spec.trial).keys()
    fixed = dict(spec.trial.settings())
    left_out = [k for k, v in params.items() if k not in searched and fixed.get(k) != v]
    point = {name: value for name, value in values.items() if name in searched}
    while True:
        point = _in_branch(spec, point)
        wrong = dict(point_problems(spec, point)).keys()
        if not wrong <= point.keys():  # a grid needs complete points
            return _Fitted({}, [])
        if not wrong:
            checked = {name: kind_of(name).check(value) for name, value in point.items()}
            return _Fitted(checked, left_out)
        left_out += wrong
        point = {name: value for name, value in point.items() if name not in wrong}


def _in_branch(spec: StudySpec, point: dict[str, Value]) -> dict[str, Value]:
    """The point without settings that are not searched in its branch."""
    branch = branch_at(spec.trial, point)
    if branch is None:
        return point
    here = {*map(setting_name, branch.searched()), *branch.given}
    return {name: value for name, value in point.items() if name in here}


def _message(
    study: str, complete: int, queued: list[Queued], left_out: Mapping[str, list[int]]
) -> str:
    if not queued:
        why = "none fits this study" if complete else "no trial of it is complete"
        return f"warm start: no configuration of study {study!r} was queued: {why}"
    numbers = [queued.origin["trial"] for queued in queued]
    text = f"warm start: queued the configurations of {_trials(numbers)} of study {study!r}"
    if left_out:
        gone = ", ".join(_left_out(left_out, len(queued)))
        text += f", without what this study does not search or its ranges exclude: {gone}"
    return text


def _left_out(left_out: Mapping[str, list[int]], total: int) -> Iterator[str]:
    for name, numbers in left_out.items():
        yield name if len(numbers) == total else f"{name} of {_trials(numbers)}"


def _trials(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:20])) + (", ..." if len(numbers) > 20 else "")
    return f"trial{'s' * (len(numbers) > 1)} {shown}"
