"""HTML cards of a study and of a trial, for notebooks.

They inherit the notebook's colours, light or dark, and stay readable without styles, which
untrusted notebooks lose.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from tuner.spec.metrics import OBJECTIVES
from tuner.spec.study import StudySpec
from tuner.study.confirmation import Result
from tuner.study.fingerprint import Parts, digest
from tuner.study.objectives import pareto_front
from tuner.study.records import FINISHED, TrialRecord, ranked
from tuner.study.snapshot import StudySnapshot
from tuner.views import confirmations, summaries
from tuner.views.formatting import duration, number
from tuner.views.generator_warnings import trial_warnings
from tuner.views.html_report import render
from tuner.views.html_tables import in_red, trials_table
from tuner.views.style import MARKS, Trials
from tuner.views.summaries import epochs_of

BEST_ROWS = 5
RUNNING_SHOWN = 8


def study_card(
    spec: StudySpec,
    total: int,
    parts: Parts,
    trials: Trials,
    name: str,
    place: str,
    confirmed: Sequence[Result] = (),
    budget: str = "",
) -> str:
    """The study ``name`` in the database at ``place``: totals, best trials, measurement, cost.

    ``budget`` is the study's ``budget_line``.
    """
    objective, best = spec.metrics.objective, ranked(trials)
    warnings = [text for trial in best[:1] for text in trial_warnings(trial, objective)]
    about_winner = confirmations.winner_warnings(confirmed, spec)
    lines = [
        f"{_totals(total, Counter(trial.state for trial in trials))}.",
        _running(spec, trials),
        in_red(confirmations.winner_line(confirmed, spec), *about_winner),
        in_red(summaries.best_line(trials, objective), *warnings),
        summaries.front_line(name, pareto_front(trials)),
        confirmations.gain_line(confirmed, spec) or summaries.baseline_gain(trials, objective),
        budget,
    ]
    notes = [
        summaries.measured_as(parts, digest(parts)),
        _spent(trials),
        f"{place}, read {time.strftime('%Y-%m-%d %H:%M:%S %Z')}",
    ]
    return render(
        "card.html",
        title=f"Study {name}",
        lines=filter(None, lines),
        trials=trials_table(spec, best[:BEST_ROWS]),
        notes=filter(None, notes),
    )


def trial_card(spec: StudySpec, trial: TrialRecord, study: str) -> str:
    """One trial of ``study``: its outcome, its parameters, and why it ended."""
    kept = "generator kept" if trial.artifact else "generator not kept"
    return render(
        "card.html",
        title=f"Trial {trial.number} of study {study}",
        lines=[f"{trial.state.lower()}, {len(trial.reports)} of {spec.study.epochs} epochs"],
        trials=trials_table(spec, [trial]),
        notes=["; ".join(filter(None, (trial.reason, kept)))],
    )


def summary_line(spec: StudySpec, snapshot: StudySnapshot) -> str:
    """The study's totals and its best trial in one line."""
    best, metric = snapshot.best, OBJECTIVES[spec.metrics.objective]
    result = f", best {metric} {number(best.value)} by trial {best.number}" if best else ""
    return _totals(snapshot.total, snapshot.trials) + result


def _totals(total: int, counts: Mapping[str, int]) -> str:
    """``6 of 10 trials finished: 4 complete, 1 running, 2 pruned``, from counts by state."""
    finished = sum(counts.get(state.name, 0) for state in FINISHED)
    found = [f"{counts[m.state]} {m.name}" for m in reversed(MARKS) if counts.get(m.state)]
    states = f": {', '.join(found)}" if found else ""
    return f"{finished} of {total} trials finished{states}"


def _running(spec: StudySpec, trials: Trials) -> str:
    objective = spec.metrics.objective
    running = [trial for trial in trials if trial.state == "RUNNING"]
    parts = []
    for trial in running[:RUNNING_SHOWN]:
        part = f"trial {trial.number}, {len(trial.reports)} of {spec.study.epochs} epochs"
        if (value := trial.history.last_value(objective)) is not None:
            part += f", {OBJECTIVES[objective]} {number(value)}"
        parts.append(part)
    if more := len(running) - len(parts):
        parts.append(f"{more} more")
    return f"Running: {'; '.join(parts)}" if parts else ""


def _spent(trials: Trials) -> str:
    epochs = epochs_of(trials)
    if not epochs:
        return ""
    devices = dict.fromkeys(t.machine["device"] for t in trials if "device" in t.machine)
    on = f" on {', '.join(devices)}" if devices else ""
    return f"{duration(epochs.seconds)}{on}, {epochs.evaluation_share:.0%} of it evaluating"
