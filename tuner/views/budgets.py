"""A study's budget as text and as JSON values: what is spent, what is left, how to continue."""

import math
from typing import Any

from tuner import hints
from tuner.spec.study import StudySpec
from tuner.study.budget import HOUR, Budget, Unfinished

_SPENT = {
    "device_hours": "{spent:.3g} of {limit:g} device hours spent",
    "epochs": "{spent:,} of {limit:,} epochs trained",
    "wall_hours": "{spent:.3g} of {limit:g} hours passed",
}


def budget_line(budget: Budget, left: int, workers: int) -> str:
    """What is spent and how many trials the rest pays for, with ``left`` trials to train and
    ``workers`` running; empty without a budget."""
    parts = [
        _SPENT[key].format(spent=getattr(budget.spent, key), limit=limit)
        for key, limit in budget.section.limits.items()
    ]
    if not parts:
        return ""
    found = budget.trials_left(workers)
    if left and found is not None and budget.reason is None:
        enough = found >= left
        parts += ["enough for the trials left" if enough else f"about {_trials(int(found))}"]
    return f"Budget: {', '.join(parts)}."


def budget_plan(spec: StudySpec, epoch_seconds: float | None) -> list[str]:
    """How many trials a study that has not begun will train, if every epoch of every trial takes
    ``epoch_seconds``; a line for each limit."""
    epochs, lines = spec.study.epochs, []
    for key, limit in spec.budget.limits.items():
        text = f"budget: {key} = {limit:g}"
        if key == "epochs":
            count = limit / epochs
        elif epoch_seconds is None:
            lines.append(f"{text}; the trials in it are unknown (timing takes too long)")
            continue
        else:
            count = limit * HOUR / (epoch_seconds * epochs)
        if count < 1:
            lines.append(f"{text} ends before one trial of {epochs} epochs is complete")
            continue
        enough = count >= spec.study.trials
        trials = f"all {spec.study.trials}" if enough else f"about {int(count)}"
        largest = "" if key == "epochs" else " of the largest program"
        per = " on one worker" if key == "wall_hours" else ""
        lines.append(f"{text} allows {trials} trials of {epochs} epochs{largest}{per}")
    return lines


def _trials(count: int) -> str:
    return f"{count:,} more trial{'s' * (count != 1)}"


def end_line(name: str, budget: Budget, unfinished: Unfinished) -> str:
    """Why the study has ended, what it would have trained next, and how to continue."""
    states = {name.replace("_", " "): count for name, count in unfinished._asdict().items()}
    counts = ", ".join(f"{count} {state}" for state, count in states.items() if count)
    edit = hints.command("edit", name, *raised_limits(budget, sum(unfinished)))
    return f"{budget.reason}. Unfinished trials: {counts}; to continue: {edit}"


def raised_limits(budget: Budget, trials: int) -> list[str]:
    """Assignments of higher limits, with which this number of further trials can probably end."""
    found = []
    for key, limit in budget.section.limits.items():
        spent = getattr(budget.spent, key)
        if spent < limit:
            continue
        whole = budget.spent if key == "wall_hours" else budget.by_stopped
        each = getattr(whole, key) / budget.stopped if budget.stopped else limit
        wanted = _rounded_up(spent + trials * each)
        found.append(f"budget.{key}={wanted:.0f}" if wanted >= 10 else f"budget.{key}={wanted:g}")
    return found


def _rounded_up(amount: float) -> float:
    """To two significant digits."""
    unit = 10.0 ** (math.floor(math.log10(amount)) - 1)
    return math.ceil(round(amount / unit, 6)) * unit


def budget_values(budget: Budget, workers: int) -> dict[str, Any]:
    """The budget as JSON values."""
    limits = budget.section.limits
    return {
        "limits": limits,
        "spent": budget.spent._asdict(),
        "exhausted": budget.reason,
        "trials_left": budget.trials_left(workers),
    }
