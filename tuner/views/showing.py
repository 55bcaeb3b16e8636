"""All that is known of one trial."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tuner.spec import OBJECTIVES, StudySpec
from tuner.study.history import Stint
from tuner.study.space import derive_seed
from tuner.study.store import TrialRecord
from tuner.trial import EpochReport
from tuner.views.numbers import duration, moment, number, spread
from tuner.views.progress import share
from tuner.views.sparklines import span, sparkline
from tuner.views.studies import trial_values

ROWS = 20  # of epochs
LONGEST_LINE = 60  # characters of a sparkline


def trial_view(
    spec: StudySpec,
    trial: TrialRecord,
    stints: Sequence[Stint],
    traceback: str | None,
    width: int,
) -> Group:
    """The trial for a terminal of so many columns."""
    parts: list[RenderableType] = [
        Text(_outcome(spec, trial), style="bold"),
        _facts(spec, trial),
    ]
    if trial.reports:
        parts += ["", _lines(spec, trial, width), "", _epochs(spec, trial.reports)]
    if stints:
        parts += ["", _stints(stints)]
    if traceback:
        parts += ["", Text(traceback.rstrip())]
    return Group(*parts)


def shown_values(
    spec: StudySpec,
    trial: TrialRecord,
    stints: Sequence[Stint],
    traceback: str | None,
    picture: str | None,
) -> dict[str, Any]:
    """The same as JSON values; ``picture`` is the place of the newest one."""
    return trial_values(trial) | {
        "seed": _seed(spec, trial),
        "epochs": spec.study.epochs,
        "stints": [stint._asdict() for stint in stints],
        "traceback": traceback,
        "picture": picture,
    }


def _seed(spec: StudySpec, trial: TrialRecord) -> int:
    drawn = trial.number if trial.seed_of is None else trial.seed_of
    return derive_seed(spec.study.seed, drawn)


def _outcome(spec: StudySpec, trial: TrialRecord) -> str:
    value = ""
    if trial.value is not None:
        which = "the best of its epochs" if spec.study.value == "best" else "its last"
        value = f", {OBJECTIVES[spec.metrics.objective]} {number(trial.value)} ({which})"
    why = f": {trial.reason}" if trial.reason else ""
    return f"Trial {trial.number} of {spec.study.name}, {trial.state.lower()}{value}{why}"


def _facts(spec: StudySpec, trial: TrialRecord) -> Table:
    """A line each for its parameters, and for what it was trained by and how long."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in trial.params.items():
        text = number(value) if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), Text(text, style="bold"))
    table.add_row("seed", str(_seed(spec, trial)))
    table.add_row("epochs", f"{len(trial.reports)} of {spec.study.epochs}")
    if trial.reports:
        table.add_row("time", _time(trial.reports))
    if trial.machine:
        table.add_row("machine", Text(" ".join(f"{k}={v}" for k, v in trial.machine.items())))
    return table


def _time(reports: Sequence[EpochReport]) -> str:
    training = sum(report.train_seconds for report in reports)
    evaluating = sum(report.evaluate_seconds for report in reports)
    images = reports[-1].images
    speed = f"; {images:,} images, {images / training:,.0f}/s" if training else ""
    return (
        f"{duration(training)} training, {duration(evaluating)} evaluating "
        f"({share(reports):.0%}){speed}"
    )


def _lines(spec: StudySpec, trial: TrialRecord, width: int) -> Table:
    """The objective and the loss ratio over the epochs, as blocks, and from where to where."""
    objective = spec.metrics.objective
    lines: list[tuple[str, Callable[[EpochReport], float | None]]] = [
        (OBJECTIVES[objective], lambda report: report.value(objective)),
        ("loss ratio", lambda report: report.loss_ratio),
    ]
    table = Table.grid(padding=(0, 2))
    for name, measured in lines:
        values = [measured(report) for report in trial.reports]
        blocks = sparkline(values, max(10, min(LONGEST_LINE, width - 48)))
        table.add_row(name, Text(blocks, no_wrap=True), span(values))
    return table


def _epochs(spec: StudySpec, reports: Sequence[EpochReport]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    objective = spec.metrics.objective
    names = ("D loss", "G loss", "loss ratio", "D AUC", "variance", "time")
    for heading in ("epoch", OBJECTIVES[objective], *names):
        table.add_column(heading, justify="right")
    for report in (reports[i] for i in spread(len(reports), ROWS)):
        table.add_row(
            str(report.epoch),
            *(number(report.value(objective)), number(report.d_loss), number(report.g_loss)),
            *(number(report.loss_ratio), number(report.d_auc), number(report.variance_ratio)),
            duration(report.train_seconds + report.evaluate_seconds),
        )
    return table


def _stints(stints: Sequence[Stint]) -> Table:
    """Who trained which epochs: a row more each time that it was taken over."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("epochs", "worker", "machine", "device", "first reported", "last"):
        table.add_column(heading, overflow="fold")
    for stint in stints:
        first, last = stint.first_epoch, stint.last_epoch
        table.add_row(
            str(first) if first == last else f"{first} to {last}",
            *(Text(name or "-") for name in (stint.worker, stint.host, stint.device)),
            moment(stint.first_reported_at),
            f"{duration(stint.last_reported_at - stint.first_reported_at)} later",
        )
    return table
