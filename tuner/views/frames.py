"""A study's trials and epochs as pandas' data frames. pandas is imported when one is asked for."""

from collections.abc import Sequence
from typing import Any, get_type_hints

from tuner.combinations import kind_of
from tuner.conditions import kinds
from tuner.errors import InputError
from tuner.settings import Name
from tuner.spec import StudySpec
from tuner.study.store import TrialRecord
from tuner.trial import EpochReport
from tuner.views.scales import scales

Frame = Any  # pandas' data frame, which has no types here
REAL, WHOLE, TEXT = "float64", "Int64", "string"  # where missing: NaN, NA, NA
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
    """A row per trial, its number as the index ``trial``.

    Columns: ``state``, ``value`` (NaN where Optuna has none), a column for each searched parameter
    under its plain name, missing where a trial's branch does not have it; ``epochs`` that were
    trained, device-seconds of training and of evaluating, ``device``, ``host`` and ``reason``.
    What a column holds, and which there are, follows from the study file alone.
    """
    pandas = _pandas()
    known = [*scales(spec), *(name for trial in trials for name in trial.params)]
    names = list(dict.fromkeys(known))
    rows = [
        [
            *(trial.state, trial.value, *(trial.params.get(name) for name in names)),
            len(trial.reports),
            sum(report.train_seconds for report in trial.reports),
            sum(report.evaluate_seconds for report in trial.reports),
            *(trial.machine.get("device"), trial.machine.get("host"), trial.reason),
        ]
        for trial in trials
    ]
    index = pandas.Index([trial.number for trial in trials], dtype="int64", name="trial")
    types = BEFORE | {name: _type(name) for name in names} | AFTER
    return pandas.DataFrame(rows, index=index, columns=list(types), dtype="object").astype(types)


def _type(name: str) -> str:
    """Of a parameter's column; of one that is none of ours, whatever it may be."""
    if name not in kinds():
        return "object"
    kind = kind_of(name)
    if isinstance(kind, Name):
        return TEXT
    return WHOLE if kind.whole else REAL


def epochs_frame(trials: Sequence[TrialRecord]) -> Frame:
    """A row per trial and epoch: ``trial``, its ``state``, and the fields of EpochReport, NaN
    where a number was not measured."""
    hints = get_type_hints(EpochReport)
    exact = {int: "int64", bool: "bool"}
    types = {"trial": "int64", "state": TEXT}
    types |= {name: exact.get(hints[name], REAL) for name in EpochReport._fields}
    rows = [(trial.number, trial.state, *report) for trial in trials for report in trial.reports]
    frame = _pandas().DataFrame(rows, columns=list(types), dtype="object")
    return frame.astype(types)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise InputError(
            "data frames: found no pandas, expected the extra notebook: "
            "pip install 'tuner[notebook]'"
        ) from None
    return pandas
