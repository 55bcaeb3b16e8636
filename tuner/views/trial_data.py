"""Trials as data: JSON values, and CSV with a row per epoch."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

from tuner.epoch_report import FIELDS
from tuner.spec.metrics import ALL_OBJECTIVES
from tuner.study.records import TrialRecord
from tuner.views.generator_warnings import trial_warnings
from tuner.views.summaries import own_names


def trial_values(trial: TrialRecord, objective: str) -> dict[str, Any]:
    """A trial as JSON values, with the warnings about its generator."""
    found = trial._asdict() | {"reports": [_finite(r._asdict()) for r in trial.reports]}
    return found | {"params": _finite(trial.params), "warnings": trial_warnings(trial, objective)}


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Replace infinity and NaN, which JSON lacks, with None."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def epochs_csv(trials: Sequence[TrialRecord]) -> str:
    """One row per epoch of each trial, with the trial's state, parameters and reason, and those of
    its objectives that no epoch reports."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    own, objectives = own_names(trials), [name for trial in trials for name in trial.objectives]
    others = [name for name in dict.fromkeys(objectives) if not ALL_OBJECTIVES[name].measured]
    writer.writerow(["trial", "state", "reason", *names, *FIELDS, *own, *others])
    for trial in trials:
        params = [trial.params.get(name) for name in names]
        for report in trial.reports or [None]:
            numbers = [getattr(report, field, None) for field in FIELDS]
            numbers += [report and report.own.get(name) for name in own]
            numbers += [trial.objectives.get(name) for name in others]
            writer.writerow([trial.number, trial.state, trial.reason, *params, *numbers])
    return text.getvalue()
