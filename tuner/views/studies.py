"""Studies, trials and workers as tables and as a live view; trials as JSON values and CSV."""

import csv
import io
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tuner.epoch_report import FIELDS
from tuner.errors import InputError
from tuner.spec.metrics import ALL_OBJECTIVES, OBJECTIVES
from tuner.spec.parameters import Choices, Range, to_toml, values_of
from tuner.spec.search import AshaPruner
from tuner.spec.study import StudySpec
from tuner.study.records import StudySummary, TrialRecord
from tuner.study.snapshot import StudySnapshot, seconds_left
from tuner.study.workers import WorkerRecord
from tuner.views.budgets import budget_line
from tuner.views.formatting import duration, number, params_text, value_text
from tuner.views.summaries import (
    best_text,
    hold_line,
    no_worker_line,
    own_names,
    phase_shares,
    trial_warnings,
)
from tuner.views.tables import FittingTable

STATES = {
    "complete": "COMPLETE",
    "pruned": "PRUNED",
    "paused": "PAUSED",
    "running": "RUNNING",
    "failed": "FAIL",
}
ESTIMATE = (
    "Time left: estimated from the workers' recent pace, assuming that running trials train all "
    "epochs and new ones as many as ended trials did on average."
)
ASHA_ESTIMATE = (
    "Time left: a lower bound from the workers' recent pace, assuming that 1 in {factor} trials "
    "passes each rung. More pass while few have reached it."
)


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


def space_table(spec: StudySpec) -> FittingTable:
    """Every setting of a trial, the searched ones first."""
    table = FittingTable(("setting", "value", ""), prose=["value"], left=("setting", ""))
    searched = spec.trial.searched()
    for name, setting in searched.items():
        table.add_row(name, _setting_text(setting), "searched", style="bold")
    for decider, tables in spec.trial.when.items():
        for choice, there in tables.items():
            for name, raw in there.items():
                table.add_row(name, raw, f"where {decider} = {choice}")
    for name, fixed in spec.trial.settings():
        if name not in searched and fixed is not None:
            table.add_row(name, fixed, "fixed")
    return table


def _setting_text(setting: Choices | Range) -> str:
    """The setting as in the study file; a range with a step also lists its values."""
    values, text = values_of(setting), str(to_toml(setting))
    if isinstance(setting, Choices) or values is None or setting.step is None:
        return text
    listed = values if len(values) <= 4 else [*values[:2], "...", values[-1]]
    return f"{text}: {', '.join(str(value) for value in listed)}"


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
