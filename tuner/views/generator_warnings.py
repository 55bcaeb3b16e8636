"""Warnings about a generator that its value does not show: collapse, missing classes, copies."""

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from tuner.study.records import TrialRecord
from tuner.study.verdict import collapse_signs, copying_sign, missing_sign

WARNING = "Warning: "
COPIES = "the generator copies training images"


def in_red(text: str, *parts: str) -> Text:
    """The text for a terminal, with these parts of it in red."""
    found = Text(text)
    if parts:  # an empty pattern would match everywhere
        found.highlight_words(parts, "bold red")
    return found


def trial_warnings(trial: TrialRecord, objective: str) -> list[str]:
    """Warnings that a trial's value does not show: its generator had collapsed or missed classes in
    the best epoch, or copied training images when that was last measured."""
    epoch = trial.best_epoch(objective)
    measured = [report._asdict() for report in trial.reports if report.epoch == epoch][:1]
    copied = [{"copied": report.copied} for report in trial.reports if report.copied is not None]
    return measured_warnings({**dict(*measured), **dict(*copied[-1:])})


def measured_warnings(measured: Mapping[str, Any], classes: int | None = None) -> list[str]:
    """Warnings that the FID of a generator with these measurements does not show; ``classes`` is
    the number of classes in the data, None if unknown."""
    missing, copied = missing_sign(measured, classes or 0), copying_sign(measured)
    if signs := collapse_signs(measured, classes or 0):
        found = [f"the generator has collapsed: {', '.join(signs)}"]
    else:
        found = [f"the generator misses {missing}"] if missing else []
    return found + ([f"{COPIES}: {copied}"] if copied else [])


def advice(warning: str, metric: str) -> str:
    """Advice for one of ``measured_warnings``."""
    where = "them next to their neighbours" if warning.startswith(COPIES) else "the samples"
    return f"{metric} does not show that; look at {where}."
