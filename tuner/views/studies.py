"""Studies and trials as tables, and as plain values for JSON and CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from tuner.settings import to_toml
from tuner.spec import OBJECTIVES, StudySpec
from tuner.study.store import StudySummary, TrialRecord, WorkerRecord
from tuner.trial import EpochReport
from tuner.views.numbers import duration, number, settings


def trial_table(trials: Sequence[TrialRecord], objective: str, best: int | None = None) -> Table:
    """A row per trial: how it went and why it ended; the best one marked."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    for heading in ("trial", "state", "epochs", OBJECTIVES[objective], "loss ratio", *names):
        table.add_column(heading.replace("_", " "), justify="right")
    table.add_column("why it ended", overflow="fold")
    for trial in trials:
        last = trial.reports[-1] if trial.reports else None
        table.add_row(
            str(trial.number),
            trial.state.lower(),
            str(len(trial.reports)),
            number(trial.value),
            number(last.loss_ratio if last else None),
            *(_plain(trial.params.get(name)) for name in names),
            Text(trial.reason or ""),
            style="bold green" if trial.number == best else None,
        )
    return table


def _plain(value: Any) -> str:
    return number(value) if isinstance(value, float) or value is None else str(value)


def study_table(studies: Sequence[StudySummary]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    counts = ("asked for", "complete", "pruned", "running", "failed")
    for heading in ("study", *counts, "best", "of", "measured as"):
        left = heading in ("study", "of", "measured as")
        table.add_column(heading, justify="left" if left else "right")
    for study in studies:
        states = [study.states.get(s, 0) for s in ("COMPLETE", "PRUNED", "RUNNING", "FAIL")]
        table.add_row(
            *(study.name, str(study.total), *map(str, states)),
            *(number(study.best), study.objective, study.fingerprint or "-"),
        )
    return table


def comparison_table(bests: Sequence[tuple[str, TrialRecord]], objective: str) -> Table:
    """A row per study's best trial, the best first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    headings = ("study", "trial", OBJECTIVES[objective], "epochs", "images", "time", "settings")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("study", "settings") else "right")
    for name, trial in bests:
        last = trial.reports[-1]
        seconds = sum(r.train_seconds + r.evaluate_seconds for r in trial.reports)
        table.add_row(
            *(name, str(trial.number), number(trial.value), str(last.epoch), f"{last.images:,}"),
            *(duration(seconds), settings(trial.params)),
        )
    return table


def worker_table(workers: Sequence[WorkerRecord]) -> Table:
    """A row per worker that has not left: where it runs, what, and its last sign of life."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("worker", "machine", "process", "device", "trial", "epoch", "last seen"):
        right = heading in ("process", "trial", "epoch", "last seen")
        table.add_column(heading, justify="right" if right else "left")
    for worker in workers:
        table.add_row(
            worker.worker,
            worker.host,
            str(worker.pid),
            worker.device,
            "" if worker.trial is None else str(worker.trial),
            "" if worker.epoch is None else str(worker.epoch),
            f"{duration(worker.seen)} ago" + ("" if worker.alive else ", lost"),
            style=None if worker.alive else "red",
        )
    return table


def space_table(spec: StudySpec) -> Table:
    """Every setting of a trial: what is searched first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("setting", "value", ""):
        table.add_column(heading)
    searched = spec.trial.searched()
    for name, setting in searched.items():
        table.add_row(name, str(to_toml(setting)), "searched", style="bold")
    for decider, tables in spec.trial.when.items():
        for choice, there in tables.items():
            for name, raw in there.items():
                table.add_row(name, str(raw), f"where {decider} = {choice}")
    for name, fixed in spec.trial.settings():
        if name not in searched and fixed is not None:
            table.add_row(name, str(fixed), "fixed")
    return table


def trial_values(trial: TrialRecord) -> dict[str, Any]:
    """A trial as JSON values."""
    return trial._asdict() | {"reports": [report._asdict() for report in trial.reports]}


def epochs_csv(trials: Sequence[TrialRecord]) -> str:
    """A row per epoch of each trial, with the trial's state, parameters and reason."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = EpochReport._fields
    writer.writerow(["trial", "state", "reason", *names, *fields])
    for trial in trials:
        start = [trial.number, trial.state, trial.reason]
        params = [trial.params.get(name) for name in names]
        writer.writerows([*start, *params, *report] for report in trial.reports)
        if not trial.reports:
            writer.writerow([*start, *params, *[None] * len(fields)])
    return text.getvalue()
