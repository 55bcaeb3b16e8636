"""Tables of studies, of trials, and of a search space."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from tuner.errors import InputError
from tuner.spec.metrics import ALL_OBJECTIVES, OBJECTIVES
from tuner.spec.parameters import Choices, Range, to_toml, values_of
from tuner.spec.study import StudySpec
from tuner.study.records import StudySummary, TrialRecord
from tuner.views.formatting import duration, number, params_text, setting_text, value_text
from tuner.views.generator_warnings import trial_warnings
from tuner.views.tables import FittingTable

STATES = {
    "complete": "COMPLETE",
    "pruned": "PRUNED",
    "paused": "PAUSED",
    "running": "RUNNING",
    "failed": "FAIL",
}


def trial_table(
    trials: Sequence[TrialRecord], objective: str, best: Collection[int] = ()
) -> FittingTable:
    """One row per trial: its outcome, parameters, device time and reason; the ``best`` are marked.

    With several objectives, complete trials also show the others' values. A ``best`` trial is red
    if there are warnings about it. The warnings about a complete trial follow its reason.
    """
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    others = list(dict.fromkeys(name for trial in trials for name in trial.objectives))[1:]
    values = (OBJECTIVES[name] for name in (objective, *others))
    columns = ("trial", "state", "epochs", *values, "loss ratio", *names)
    headings = [*(column.replace("_", " ") for column in columns), "time", "reason"]
    table = FittingTable(headings, prose=["reason"], notes=["reason"], spare=["time", "loss ratio"])
    for trial in trials:
        epochs = trial.history
        value = trial.value if trial.has_ended else epochs.last_value(objective)
        loss_ratio = epochs[-1].loss_ratio if epochs else None
        origin = trial.warm_start and f"warm start from {trial.warm_start}"
        warnings = trial_warnings(trial, objective) if trial.state == "COMPLETE" else []
        table.add_row(
            trial.number,
            trial.state.lower(),
            len(epochs),
            number(value),
            *(number(trial.objectives.get(name)) for name in others),
            number(loss_ratio),
            *(value_text(trial.params.get(name)) for name in names),
            duration(epochs.seconds),
            "; ".join(filter(None, (trial.reason, origin, *warnings))),
            style=None if trial.number not in best else "bold red" if warnings else "bold green",
        )
    return table


SORT_KEYS: dict[str, Callable[[TrialRecord], Any]] = {
    "trial": lambda trial: trial.number,
    "value": lambda trial: trial.value,
    "epochs": lambda trial: len(trial.reports),
    "loss_ratio": lambda trial: trial.reports[-1].loss_ratio if trial.reports else None,
    "time": lambda trial: trial.history.seconds,
}


def sorted_trials(trials: Sequence[TrialRecord], key: str, objective: str) -> list[TrialRecord]:
    """The trials sorted by one of ``SORT_KEYS`` or a parameter; ``-key``: in reverse order.

    By their values of the ``objective``, the best come first. Those without the value come last.
    InputError if no trial has such a parameter.
    """
    name = key.removeprefix("-")
    params = dict.fromkeys(name for trial in trials for name in trial.params)
    if name not in SORT_KEYS and name not in params:
        expected = ", ".join([*SORT_KEYS, *params])
        raise InputError(f"--sort: found {name!r}, expected one of: {expected}")
    of: Callable[[TrialRecord], Any] = SORT_KEYS.get(name) or (lambda trial: trial.params.get(name))
    known = [(of(trial), trial) for trial in trials if of(trial) is not None]
    falls = name == "value" and ALL_OBJECTIVES[objective].higher
    # Other programs mix types in one parameter.
    known.sort(key=lambda pair: (isinstance(pair[0], str), pair[0]), reverse=falls != (key != name))
    return [trial for _, trial in known] + [trial for trial in trials if of(trial) is None]


def study_table(studies: Sequence[StudySummary]) -> FittingTable:
    """One row per study: its trials by state, and its best value."""
    headings = ("study", "total", *STATES, "best", "objective", "fingerprint")
    spare = ("fingerprint", "objective", "paused")
    table = FittingTable(headings, left=("study", "objective", "fingerprint"), spare=spare)
    for study in studies:
        counts = (study.total, *(study.states.get(state, 0) for state in STATES.values()))
        best = number(study.best)
        name = f"{study.name} (on hold)" if study.on_hold else study.name
        table.add_row(name, *counts, best, study.objective, study.fingerprint or "-")
    return table


def comparison_table(bests: Sequence[tuple[str, TrialRecord]], objective: str) -> FittingTable:
    """One row per study's best trial, in the order given."""
    headings = ("study", "trial", OBJECTIVES[objective], "epochs", "images", "time", "settings")
    table = FittingTable(headings, prose=["settings"], left=["study"])
    for name, trial in bests:
        epochs = trial.history
        trained = (epochs[-1].epoch, f"{epochs[-1].images:,}") if epochs else ("-", "-")
        spent, params = duration(epochs.seconds), params_text(trial.params)
        table.add_row(name, trial.number, number(trial.value), *trained, spent, params)
    return table


def space_table(spec: StudySpec) -> FittingTable:
    """Every setting of a trial, the searched ones first."""
    table = FittingTable(("setting", "value", ""), prose=["value"], left=("setting", ""))
    searched = spec.trial.searched()
    for name, setting in searched.items():
        table.add_row(name, _with_values(setting), "searched", style="bold")
    for decider, tables in spec.trial.when.items():
        for choice, there in tables.items():
            for name, raw in there.items():
                table.add_row(name, setting_text(raw), f"where {decider} = {choice}")
    for name, fixed in spec.trial.settings():
        if name not in searched and fixed is not None:
            table.add_row(name, fixed, "fixed")
    return table


def _with_values(setting: Choices | Range) -> str:
    """A searched setting as text; a range with a step also lists its values."""
    values, text = values_of(setting), setting_text(to_toml(setting))
    if isinstance(setting, Choices) or values is None or setting.step is None:
        return text
    listed = values if len(values) <= 4 else [*values[:2], "...", values[-1]]
    return f"{text}: {', '.join(str(value) for value in listed)}"
