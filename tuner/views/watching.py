"""A study while it runs: its totals, its best trial, and what each of its workers is at."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tuner.spec import OBJECTIVES, StudySpec
from tuner.study.present import Latest, Present, seconds_left
from tuner.study.store import WorkerRecord
from tuner.views import report
from tuner.views.numbers import duration, number

ESTIMATE = (
    "Time left: at the pace of the workers' recent epochs, if running trials go on to their last "
    "one and those to come take as many as those that ended did on average."
)


def present_view(
    present: Present, spec: StudySpec, age: float = 0.0, most: int | None = None
) -> Group:
    """What is known of the study, read ``age`` seconds ago, with ``most`` so many workers. Fits
    into 80 columns."""
    left = seconds_left(present, spec.study.epochs)
    objective = spec.metrics.objective
    parts: list[RenderableType] = [
        _totals(present, left),
        Text(report.best_line([present.best] if present.best else [], objective)),
    ]
    if present.workers:
        parts += ["", _workers(present.workers[:most], present, spec, age)]
    if hidden := len(present.workers[most:]) if most is not None else 0:
        parts += [Text(f"… and {hidden} more")]
    if present.left_behind:
        trials = ", ".join(map(str, present.left_behind))
        parts += [Text(f"Without a living worker: trial {trials}")]
    if left:
        parts += ["", Text(ESTIMATE, style="dim")]
    return Group(*parts)


def _totals(present: Present, left: float | None) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    counts = ("asked for", "complete", "pruned", "running", "failed", "epochs done", "time left")
    for heading in counts:
        table.add_column(heading, justify="right")
    states = [present.trials.get(s, 0) for s in ("COMPLETE", "PRUNED", "RUNNING", "FAIL")]
    epochs = sum(present.epochs.values())
    ends = "-" if left is None else duration(left)
    table.add_row(str(present.total), *map(str, states), f"{epochs:,}", ends)
    return table


def _workers(shown: Sequence[WorkerRecord], present: Present, spec: StudySpec, age: float) -> Table:
    """A row per worker. Where the terminal is narrow, names are cut and numbers are not."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("worker", "machine", "device"):
        table.add_column(heading, min_width=6)
    name = OBJECTIVES[spec.metrics.objective]
    for heading in ("trial", "epoch", name, "loss\nratio", "images/s", "seen"):
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    for worker in shown:
        latest = None if worker.trial is None else present.running.get(worker.trial)
        style = None if worker.alive else "red"
        table.add_row(*_row(worker, latest, spec.study.epochs, age), style=style)
    return table


def _row(
    worker: WorkerRecord, latest: Latest | None, epochs: int, age: float
) -> list[RenderableType]:
    names = (worker.worker, worker.host, worker.device)
    seen = duration(worker.seen + age)
    return [
        *(Text(name, no_wrap=True, overflow="ellipsis") for name in names),
        "-" if worker.trial is None else str(worker.trial),
        *(_measured(latest, epochs) if latest else "-" * 4),
        seen if worker.alive else f"lost {seen}",
    ]


def _measured(latest: Latest, epochs: int) -> list[str]:
    speed = latest.images_per_second
    return [
        f"{latest.epoch}/{epochs}",
        number(latest.value),
        number(latest.loss_ratio),
        "-" if speed is None else f"{speed:,.0f}",
    ]
