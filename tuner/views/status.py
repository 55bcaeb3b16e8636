"""The status of a running study: a live view, and its workers as a table."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from tuner.spec.metrics import OBJECTIVES
from tuner.spec.pruners import AshaPruner
from tuner.spec.study import StudySpec
from tuner.study.snapshot import StudySnapshot, seconds_left
from tuner.study.workers import WorkerRecord
from tuner.views.budgets import budget_line
from tuner.views.formatting import duration, number
from tuner.views.studies import STATES
from tuner.views.summaries import (
    best_text,
    hold_line,
    no_worker_line,
    phase_shares,
)
from tuner.views.tables import FittingTable

ESTIMATE = (
    "Time left: estimated from the workers' recent pace, assuming that running trials train all "
    "epochs and new ones as many as ended trials did on average."
)
ASHA_ESTIMATE = (
    "Time left: a lower bound from the workers' recent pace, assuming that 1 in {factor} trials "
    "passes each rung. More pass while few have reached it."
)


def worker_table(workers: Sequence[WorkerRecord]) -> FittingTable:
    """One row per worker that has not left: machine, trial, and when it was last seen.

    Also the id of its Slurm job, if any worker has one.
    """
    job = ["job"] * any(worker.job for worker in workers)
    table = FittingTable(
        ("worker", "machine", "process", *job, "device", "doing", "trial", "epoch", "last seen"),
        left=("worker", "machine", "job", "device", "doing"),
        spare=("device", "worker"),
    )
    for worker in workers:
        table.add_row(
            worker.worker,
            worker.host,
            worker.pid,
            *([worker.job or "-"] if job else []),
            worker.device,
            doing_text(worker),
            "" if worker.trial is None else worker.trial,
            "" if worker.epoch is None else worker.epoch,
            f"{duration(worker.seen)} ago" + ("" if worker.alive else ", lost"),
            style=None if worker.alive else "red",
        )
    return table


def doing_text(worker: WorkerRecord, age: float = 0.0) -> str:
    """What a worker is doing, from a row read ``age`` seconds ago: ``compiling 42 s``."""
    if not worker.alive:
        return "-"
    if worker.doing is None or worker.doing_seconds is None:
        return "-" if worker.trial is None else "training"
    return f"{worker.doing} {duration(max(0.0, worker.doing_seconds + age))}"


def status_view(
    snapshot: StudySnapshot,
    spec: StudySpec,
    age: float = 0.0,
    max_workers: int | None = None,
    where: Sequence[str] = (),
) -> Group:
    """A running study, read ``age`` seconds ago, with up to ``max_workers`` workers; in 80 columns.

    Totals, the best trial, and the current trial of each worker. ``where`` are options that name
    the database in suggested commands.
    """
    left = seconds_left(snapshot, spec.study.epochs)
    totals = FittingTable(("total", *STATES, "epochs done", "time left"))
    counts = (snapshot.total, *(snapshot.trials.get(state, 0) for state in STATES.values()))
    epochs = f"{sum(snapshot.epochs.values()):,}"
    totals.add_row(*counts, epochs, "-" if left is None else duration(left))
    best = [snapshot.best] if snapshot.best else []
    parts: list[RenderableType] = [totals, *map(Text, limit_lines(snapshot))]
    parts += [Text(hold_line(spec.study.name), style="bold")] if snapshot.on_hold else []
    parts += [best_text(best, spec.metrics.objective)]
    if snapshot.confirmed:
        parts += [Text(f"Confirming: {snapshot.confirmed} runs with fresh seeds have ended.")]
    if shares := phase_shares(snapshot.phase_seconds):
        parts += [Text(shares)]
    if snapshot.workers:
        parts += ["", _running_workers(snapshot, spec, age, max_workers)]
    if hidden := len(snapshot.workers[max_workers:]) if max_workers is not None else 0:
        parts += [Text(f"… and {hidden} more")]
    if not snapshot.ended and not any(worker.alive for worker in snapshot.workers):
        parts += [Text(no_worker_line(spec.study.name, where=where), style="bold")]
    if snapshot.left_behind:
        trials = ", ".join(map(str, snapshot.left_behind))
        parts += [Text(f"Without a live worker: trial {trials}")]
    if left:
        parts += ["", Text(_estimate(snapshot, spec), style="dim")]
    return Group(*parts)


def _estimate(snapshot: StudySnapshot, spec: StudySpec) -> str:
    """How the time left was estimated."""
    if snapshot.epochs_ahead is None or not isinstance(spec.pruner, AshaPruner):
        return ESTIMATE
    return ASHA_ESTIMATE.format(factor=spec.pruner.reduction_factor)


def limit_lines(snapshot: StudySnapshot) -> list[str]:
    """The study's budget, and why its search has ended early; empty without either."""
    left = snapshot.to_begin + len(snapshot.running) + snapshot.trials.get("PAUSED", 0)
    alive = sum(worker.alive for worker in snapshot.workers)
    ended = f"Ended early: {snapshot.ended_reason}." if snapshot.ended_reason else ""
    return [line for line in (budget_line(snapshot.budget, left, alive), ended) if line]


def _running_workers(
    snapshot: StudySnapshot, spec: StudySpec, age: float, max_workers: int | None
) -> FittingTable:
    """One row per worker. A narrow terminal cuts names, but never numbers."""
    job = ["job"] * any(worker.job for worker in snapshot.workers)
    names = ("worker", "machine", "device")
    measured = ("trial", "epoch", OBJECTIVES[spec.metrics.objective], "loss ratio", "images/s")
    spare = ("device", "machine", "images/s", "loss ratio")
    headings = (*names, *job, "doing", *measured, "seen")
    table = FittingTable(headings, names=names, left=(*job, "doing"), spare=spare)
    for worker in snapshot.workers[:max_workers]:
        cells = ["-"] * len(measured)
        if worker.trial is not None:
            cells[0] = str(worker.trial)
            if trial := snapshot.running.get(worker.trial):
                last = trial.reports[-1] if trial.reports else None
                cells[1:] = [
                    f"{len(trial.reports)}/{spec.study.epochs}",
                    number(trial.history.last_value(spec.metrics.objective)),
                    number(last.loss_ratio if last else None),
                    f"{last.images_per_second:,.0f}" if last and last.train_seconds else "-",
                ]
        seen = duration(worker.seen + age)
        table.add_row(
            worker.worker,
            worker.host,
            worker.device,
            *([worker.job or "-"] if job else []),
            doing_text(worker, age),
            *cells,
            seen if worker.alive else f"lost {seen}",
            style=None if worker.alive else "red",
        )
    return table
