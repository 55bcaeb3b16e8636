"""Everything known about one trial, for a terminal, with sparklines, and as JSON."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tuner.epoch_report import MEASUREMENTS, EpochReport
from tuner.spec.metrics import OBJECTIVES, objective_field
from tuner.spec.study import StudySpec
from tuner.study.records import Hang, Ownership, TrialRecord
from tuner.study.rows import finite
from tuner.study.space import derive_seed
from tuner.views.formatting import date_time, duration, evenly_spaced, number, value_text
from tuner.views.generator_warnings import WARNING, trial_warnings
from tuner.views.summaries import curve_fields, values_text
from tuner.views.tables import FittingTable
from tuner.views.trial_data import trial_values

EPOCH_ROWS = 20
LONGEST_LINE = 60  # characters of a sparkline
BLOCKS = "▁▂▃▄▅▆▇█"
GAP = " "  # in a sparkline, for a missing value
DECADE = 10.0  # a sparkline is logarithmic if largest / smallest value reaches this


def trial_view(
    spec: StudySpec,
    trial: TrialRecord,
    ownership_history: Sequence[Ownership],
    traceback: str | None,
    width: int,
    hang: Hang | None = None,
) -> Group:
    """The trial for a terminal ``width`` columns wide."""
    warnings = trial_warnings(trial, spec.metrics.objective)
    parts: list[RenderableType] = [
        Text(_outcome(spec, trial), style="bold"),
        *(Text(f"{WARNING}{text}", style="bold red") for text in warnings),
        _facts(spec, trial),
    ]
    if trial.reports:
        parts += ["", _sparklines(spec, trial, width), "", _epochs(spec, trial.reports)]
    if ownership_history:
        parts += ["", _owners(ownership_history)]
    if traceback:
        parts += ["", Text(traceback.rstrip())]
    if hang:
        parts += ["", Text(f"The last time it hung, {hang.what}:", style="bold")]
        parts += [Text(hang.stacks.rstrip())]
    return Group(*parts)


def trial_details(
    spec: StudySpec,
    trial: TrialRecord,
    ownership_history: Sequence[Ownership],
    traceback: str | None,
    picture: str | None,
    hang: Hang | None = None,
) -> dict[str, Any]:
    """The trial as JSON values; ``picture`` is the path or URL of its newest sample grid."""
    return trial_values(trial, spec.metrics.objective) | {
        "seed": _seed(spec, trial),
        "epochs": spec.study.epochs,
        "stints": [owner._asdict() for owner in ownership_history],
        "traceback": traceback,
        "hung": hang._asdict() if hang else None,
        "picture": picture,
    }


def _seed(spec: StudySpec, trial: TrialRecord) -> int:
    drawn = trial.number if trial.seed_of is None else trial.seed_of
    return derive_seed(spec.study.seed, drawn)


def _outcome(spec: StudySpec, trial: TrialRecord) -> str:
    value = ""
    if trial.value is not None:
        which = "the best of its epochs" if spec.study.value == "best" else "its last"
        first = f"{OBJECTIVES[spec.metrics.objective]} {number(trial.value)}"
        value = f", {values_text(trial.objectives) or first} ({which})"
    why = f": {trial.reason}" if trial.reason else ""
    return f"Trial {trial.number} of {spec.study.name}, {trial.state.lower()}{value}{why}"


def _facts(spec: StudySpec, trial: TrialRecord) -> Table:
    """Parameters, seed, epochs, time and machine, one per line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in trial.params.items():
        table.add_row(name.replace("_", " "), Text(value_text(value), style="bold"))
    table.add_row("seed", str(_seed(spec, trial)))
    if trial.warm_start:
        table.add_row("warm start", Text(f"from {trial.warm_start}"))
    table.add_row("epochs", f"{len(trial.reports)} of {spec.study.epochs}")
    if epochs := trial.history:
        images, training = epochs[-1].images, epochs.train_seconds
        speed = f"; {images:,} images, {images / training:,.0f}/s" if training else ""
        table.add_row(
            "time",
            f"{duration(training)} training, {duration(epochs.evaluate_seconds)} evaluating "
            f"({epochs.evaluation_share:.0%}){speed}",
        )
    if any(trial.phase_seconds.values()):
        spent = {phase: s for phase, s in trial.phase_seconds.items() if s >= 0.5}
        table.add_row("phases", ", ".join(f"{phase} {duration(s)}" for phase, s in spent.items()))
    if trial.machine:
        table.add_row("machine", Text(" ".join(f"{k}={v}" for k, v in trial.machine.items())))
    return table


def _sparklines(spec: StudySpec, trial: TrialRecord, width: int) -> Text:
    """Sparklines of the objective and the loss ratio, with their ranges."""
    shown = curve_fields(spec)[:2]
    longest = max(len(field.label) for field in shown)
    lines = []
    for field in shown:
        values = [report.value(field.name) for report in trial.reports]
        blocks = sparkline(values, max(10, min(LONGEST_LINE, width - 48)))
        lines.append(f"{field.label:<{longest}}  {blocks}  {span(values)}")
    return Text("\n".join(lines))


def sparkline(values: Sequence[float | None], width: int) -> str:
    """Values over epochs as at most ``width`` blocks, the lowest block for the lowest value.

    With more values than ``width``, each block is the mean of several. Missing and non-finite
    values are gaps.
    """
    points = [finite(value) for value in values]
    scale = math.log if _is_logarithmic(_known(points)) else float
    if len(points) > width:
        ends = [round(i * len(points) / width) for i in range(width + 1)]
        points = [_mean(points[a:b]) for a, b in pairwise(ends)]
    heights = [None if point is None else scale(point) for point in points]
    low, high = min(_known(heights), default=0.0), max(_known(heights), default=0.0)
    return "".join(GAP if height is None else _block(height, low, high) for height in heights)


def span(values: Sequence[float | None]) -> str:
    """The range of a sparkline: ``1.2 to 34, logarithmic``."""
    known = _known(values)
    if not known:
        return "not measured"
    scale = ", logarithmic" if _is_logarithmic(known) else ""
    return f"{number(min(known))} to {number(max(known))}{scale}"


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in map(finite, values) if value is not None]


def _is_logarithmic(known: Sequence[float]) -> bool:
    """Whether all values are positive and span a decade or more."""
    return bool(known) and min(known) > 0 and max(known) >= DECADE * min(known)


def _mean(points: Sequence[float | None]) -> float | None:
    known = _known(points)
    return sum(known) / len(known) if known else None


def _block(value: float, low: float, high: float) -> str:
    """The block for a value; the middle one if all values are equal."""
    height = (value - low) / (high - low) if high > low else 0.5
    return BLOCKS[min(int(height * len(BLOCKS)), len(BLOCKS) - 1)]


def _epochs(spec: StudySpec, reports: Sequence[EpochReport]) -> FittingTable:
    """Up to ``EPOCH_ROWS`` epochs, evenly spaced, with every measurement that some epoch has."""
    objective = objective_field(spec.metrics.objective)
    others = [
        field
        for field in (*MEASUREMENTS, *map(objective_field, spec.metrics.own))
        if field != objective and any(report.value(field.name) is not None for report in reports)
    ]
    labels = [field.label for field in others]
    table = FittingTable(("epoch", objective.label, *labels, "time"), spare=labels[::-1])
    for report in (reports[i] for i in evenly_spaced(len(reports), EPOCH_ROWS)):
        values = [number(report.value(field.name)) for field in (objective, *others)]
        table.add_row(report.epoch, *values, duration(report.seconds))
    return table


def _owners(ownership_history: Sequence[Ownership]) -> FittingTable:
    """The workers and the epochs that each trained: one row, and another for each takeover."""
    headings = ("epochs", "worker", "machine", "device", "first reported", "last")
    table = FittingTable(headings, left=headings)
    for owner in ownership_history:
        first, last = owner.first_epoch, owner.last_epoch
        table.add_row(
            first if first == last else f"{first} to {last}",
            owner.worker or "-",
            owner.host or "-",
            owner.device or "-",
            date_time(owner.first_reported_at),
            f"{duration(owner.last_reported_at - owner.first_reported_at)} later",
        )
    return table
