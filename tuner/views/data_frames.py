"""A study's trials and epochs as pandas data frames; pandas is imported on first use."""

from collections.abc import Sequence
from typing import Any

from tuner.epoch_report import FIELDS
from tuner.hints import require
from tuner.spec.kinds import Name
from tuner.spec.study import StudySpec
from tuner.spec.trial import kind_of, setting_names
from tuner.study.records import TrialRecord
from tuner.views.axes import parameter_axes
from tuner.views.summaries import own_names

Frame = Any  # pandas.DataFrame, which has no types here
REAL, WHOLE, TEXT = "float64", "Int64", "string"  # missing values: NaN, NA, NA
# Columns before and after the parameters, with their types.
BEFORE = {"state": TEXT, "value": REAL}
AFTER = {
    "epochs": "int64",
    "train_seconds": REAL,
    "evaluate_seconds": REAL,
    "device": TEXT,
    "host": TEXT,
    "reason": TEXT,
}


def trials_frame(spec: StudySpec, trials: Sequence[TrialRecord]) -> Frame:
    """One row per trial; the index ``trial`` is the trial number.

    Columns: ``state``; ``value``, NaN if Optuna has none; with several objectives, those after the
    first, NaN unless the trial is complete; each searched parameter by its name in the study
    file, missing if the trial's branch lacks it; ``epochs`` trained; ``train_seconds`` and
    ``evaluate_seconds`` of device time; ``device``, ``host`` and ``reason``. The columns and their
    types follow from the study file alone.
    """
    pandas = _pandas()
    known = [*parameter_axes(spec), *(name for trial in trials for name in trial.params)]
    names = list(dict.fromkeys(known))
    others = spec.metrics.names[1:]
    types = BEFORE | dict.fromkeys(others, REAL) | {n: _type(n) for n in names} | AFTER
    rows = []
    for trial in trials:
        params = [_of_type(trial.params.get(name), types[name]) for name in names]
        epochs, machine = trial.history, trial.machine
        spent = (len(epochs), epochs.train_seconds, epochs.evaluate_seconds)
        where = (machine.get("device"), machine.get("host"))
        values = (trial.value, *(trial.objectives.get(name) for name in others))
        rows.append([trial.state, *values, *params, *spent, *where, trial.reason])
    index = pandas.Index([trial.number for trial in trials], dtype="int64", name="trial")
    return pandas.DataFrame(rows, index=index, columns=list(types), dtype="object").astype(types)


def _of_type(value: Any, kind: str) -> Any:
    """The value; None if another program wrote one that the column can't hold."""
    held = {TEXT: (str,), WHOLE: (int,), REAL: (int, float)}
    return value if kind not in held or type(value) in held[kind] else None


def _type(name: str) -> str:
    """The type of a parameter's column; ``object`` for parameters of other programs."""
    if name not in setting_names():
        return "object"
    kind = kind_of(name)
    if isinstance(kind, Name):
        return TEXT
    return WHOLE if kind.whole else REAL


def epochs_frame(trials: Sequence[TrialRecord]) -> Frame:
    """One row per trial and epoch: ``trial``, ``state``, the fields of EpochReport, custom metrics.

    Numbers that were not measured are NaN.
    """
    dtypes = {int: "int64", bool: "bool", float: REAL}
    types = {"trial": "int64", "state": TEXT}
    types |= {name: dtypes[field.kind] for name, field in FIELDS.items()}
    own = own_names(trials)
    types |= dict.fromkeys(own, REAL)
    rows = [
        (trial.number, trial.state, *map(report.value, (*FIELDS, *own)))
        for trial in trials
        for report in trial.reports
    ]
    frame = _pandas().DataFrame(rows, columns=list(types), dtype="object")
    return frame.astype(types)


def _pandas() -> Any:
    return require("pandas", "notebook", "a data frame")
