"""The tables of the HTML report and of notebook cards."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from tuner.spec.metrics import OBJECTIVES, objective_field
from tuner.spec.parameters import to_toml
from tuner.spec.study import StudySpec
from tuner.study.confirmation import Result
from tuner.study.records import TrialRecord
from tuner.views import confirmations, summaries
from tuner.views.formatting import number, setting_text, time_unit, value_text
from tuner.views.generator_warnings import trial_warnings
from tuner.views.style import MARKS, Trials, by_outcome
from tuner.views.summaries import epochs_of


class Table(NamedTuple):
    """A table for ``macros.html``; columns of numbers are aligned ``right``."""

    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    right: Sequence[str] = ()


class Times:
    """Times in one unit, that of the longest."""

    def __init__(self, seconds: Iterable[float | None]) -> None:
        self._size, self.unit = time_unit(max(filter(None, seconds), default=0.0))

    def text(self, seconds: float | None) -> str:
        """The time without its unit, to three digits; a dash for None."""
        return "-" if seconds is None else f"{seconds / self._size:.3g}"


def trials_table(spec: StudySpec, trials: Trials, *, every: bool = False) -> Table:
    """One row per trial; with ``every``, also its state, start, duration and reason.

    Custom metrics are those of the trial's best epoch, else of its last.
    """
    objective, others = spec.metrics.objective, summaries.curve_fields(spec)[1:]
    own = [objective_field(name) for name in spec.metrics.own if name != objective]
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    times = Times(t for trial in trials for t in (trial.seconds, trial.history.seconds))
    rows: list[dict[str, object]] = []
    for trial in trials:
        last = trial.reports[-1] if trial.reports else None
        best = trial.best_epoch(objective)
        measured = next((report for report in trial.reports if report.epoch == best), last)
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.lower(),
                OBJECTIVES[objective]: number(trial.value),
                **{OBJECTIVES[n]: number(trial.objectives.get(n)) for n in spec.metrics.names[1:]},
                "best epoch": best or "-",
                "epochs": len(trial.reports),
                **{field.label: number(measured and measured.value(field.name)) for field in own},
                **{field.label: number(last and last.value(field.name)) for field in others},
                **{name.replace("_", " "): value_text(trial.params.get(name)) for name in names},
                "started": trial.started or "-",
                f"duration ({times.unit})": times.text(trial.seconds),
                f"device time ({times.unit})": times.text(trial.history.seconds),
                "reason": _reason(trial, objective),
            }
        )
    left_out = () if every else ("state", "started", f"duration ({times.unit})", "reason")
    headings = [heading for heading in (rows[0] if rows else ()) if heading not in left_out]
    right = [heading for heading in headings if heading not in ("state", "started", "reason")]
    return Table(headings, [[cells[heading] for heading in headings] for cells in rows], right)


def _reason(trial: TrialRecord, objective: str) -> Markup:
    """The reason why the trial ended; for a complete trial also, in red, warnings about it."""
    warnings = trial_warnings(trial, objective) if trial.state == "COMPLETE" else []
    return in_red("; ".join(filter(None, (trial.reason, *warnings))), *warnings)


def in_red(text: str, *parts: str) -> Markup:
    """The text with these parts of it in red."""
    found = escape(text)
    for part in map(escape, parts):
        found = found.replace(part, Markup('<b class="bad">{}</b>').format(part))
    return found


def confirmed_table(spec: StudySpec, confirmed: Sequence[Result]) -> Table:
    """The configurations that were trained again with fresh seeds."""
    headings, cells = confirmations.results_rows(confirmed, spec)
    return Table(headings, cells, [h for h in headings if h != confirmations.LEFT])


def space_table(spec: StudySpec) -> Table:
    """The searched settings with their ranges and choices."""
    rows = [
        (name, setting_text(to_toml(setting)), "")
        for name, setting in spec.trial.searched().items()
    ]
    for decider, branches in spec.trial.when.items():
        for choice, settings in branches.items():
            condition = f"{decider} = {choice}"
            rows += [(name, setting_text(raw), condition) for name, raw in settings.items()]
    return Table(("setting", "searched", "only where"), rows)


def ends_table(trials: Trials) -> Table:
    """Pruned and failed trials by reason; reasons that differ only in numbers count as one."""
    outcomes = {mark.state: mark.name for mark in MARKS if mark.state in ("PRUNED", "FAIL")}
    found: dict[tuple[str, str], list[TrialRecord]] = {}
    for trial in trials:
        if trial.state in outcomes:
            reason = re.sub(r"\d[\d.,]*(e[+-]?\d+)?", "…", trial.reason or "no reason was kept")
            found.setdefault((outcomes[trial.state], reason), []).append(trial)
    times = Times(epochs_of(group).seconds for group in found.values())
    rows = []
    for (outcome, reason), group in sorted(found.items(), key=lambda item: -len(item[1])):
        examples = ", ".join(str(trial.number) for trial in group[:5]) + ", …" * (len(group) > 5)
        spent = times.text(epochs_of(group).seconds)
        rows.append((outcome, reason, len(group), spent, examples))
    headings = ("outcome", "reason", "trials", f"device time ({times.unit})", "trial numbers")
    return Table(headings, rows, right=headings[2:4])


def cost_table(trials: Trials) -> Table:
    """Epochs and device time by outcome."""
    total = epochs_of(trials).seconds
    groups = [(mark, group, epochs_of(group)) for mark, group in reversed(by_outcome(trials))]
    times = Times(epochs.seconds for *_, epochs in groups)
    rows = []
    for mark, group, epochs in groups:
        spent = map(times.text, (epochs.train_seconds, epochs.evaluate_seconds, epochs.seconds))
        share = f"{epochs.seconds / total:.0%}" if total else "-"
        rows.append((mark.name, len(group), f"{len(epochs):,}", *spent, share))
    parts = (f"{part} ({times.unit})" for part in ("training", "evaluating", "both"))
    headings = ("outcome", "trials", "epochs", *parts, "share")
    return Table(headings, rows, right=headings[1:])


def phases_table(trials: Trials) -> Table:
    """The time of the workers by phase; empty if it was not counted."""
    seconds = summaries.phases_of(trials)
    total, times = sum(seconds.values()), Times(seconds.values())
    rows = [(phase, times.text(s), f"{s / total:.1%}") for phase, s in seconds.items() if total]
    headings = ("phase", f"time ({times.unit})", "share")
    return Table(headings, rows, right=headings[1:])


def versions_table(trials: Trials) -> Table:
    """How many trials ran with each combination of machine and software versions."""
    counts = Counter(tuple(trial.machine.items()) for trial in trials)
    names = list(dict.fromkeys(name for machine in counts for name, _ in machine))
    if not names:
        return Table((), ())
    rows = [
        [count, *(dict(machine).get(name, "-") for name in names)]
        for machine, count in counts.items()
    ]
    return Table(("trials", *names), rows, right=("trials",))
