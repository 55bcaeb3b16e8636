"""How much of the spread between a study's trials is due to their seeds, from what is recorded."""

import math
from collections.abc import Sequence
from typing import Any

from tuner.spec.parameters import Choices, Range
from tuner.spec.study import StudySpec
from tuner.study.racing import Noise, noise
from tuner.study.records import TrialRecord


def seed_noise(spec: StudySpec, trials: Sequence[TrialRecord]) -> Noise:
    """Seed noise of the values of complete trials, runs of a confirmation included.

    Trials with the same parameters differ by their seeds alone: see ``racing.noise``. The spread
    that is to be explained is that of the search's trials.
    """
    complete = [t for t in trials if t.state == "COMPLETE" and t.value is not None]
    groups: dict[tuple[Any, ...], list[float]] = {}
    for trial in complete:
        assert trial.value is not None
        groups.setdefault(tuple(sorted(trial.params.items())), []).append(trial.value)
    search = [trial for trial in complete if not trial.confirms]
    values = [trial.value for trial in search if trial.value is not None]
    places = [_coordinates(spec, trial) for trial in search]
    known = [place for place in places if place is not None]
    return noise(groups.values(), values, known if known and len(known) == len(places) else None)


def _coordinates(spec: StudySpec, trial: TrialRecord) -> list[float] | None:
    """The trial's parameters on a scale from 0 to 1; None if it lacks some or has others.

    Choices are so far apart that neighbours agree in them wherever possible.
    """
    searched = spec.trial.searched()
    if spec.trial.when or trial.params.keys() != searched.keys():
        return None
    found: list[float] = []
    for name, setting in searched.items():
        value = trial.params[name]
        if isinstance(setting, Choices):
            found += [10.0 * (value == choice) for choice in setting.values]
        else:
            found.append(_position(setting, value))
    return found


def _position(setting: Range, value: Any) -> float:
    low, high, at = setting.low, setting.high, float(value)
    if setting.log:
        low, high, at = math.log(low), math.log(high), math.log(max(at, 1e-300))
    return (at - low) / (high - low) if high > low else 0.0
