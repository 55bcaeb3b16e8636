"""A study, and a trial, as a notebook shows them: small pieces of HTML, every text escaped.

They take the notebook's own colours, light or dark, and read well where a style is taken out of
them, as it is from notebooks that are not trusted.
"""

import time
from collections.abc import Sequence

from tuner.spec import OBJECTIVES, StudySpec
from tuner.study.fingerprint import Parts, digest
from tuner.study.store import TrialRecord, best_of
from tuner.views import markup, report
from tuner.views.figures import seconds_of
from tuner.views.numbers import duration, number
from tuner.views.page import best_table, ranked
from tuner.views.progress import share
from tuner.views.style import Trials, by_outcome

ROWS = 5  # of the best trials
RUNNING = 8  # trials that are named
STYLE = """
.tuner-card { font-size: .9em; line-height: 1.5; max-width: 62rem; padding: .3em 0 .6em; }
.tuner-card p { margin: .25em 0; overflow-wrap: anywhere; }
.tuner-card .note { opacity: .7; font-size: .9em; }
.tuner-card .wide { overflow-x: auto; }
.tuner-card table { color: inherit; border-collapse: collapse; margin: .5em 0;
  font-size: 1em; font-variant-numeric: tabular-nums; }
.tuner-card th, .tuner-card td { padding: .2em .8em .2em 0; text-align: left; white-space: nowrap;
  border: 0; border-bottom: 1px solid rgba(128, 128, 128, .35); }
.tuner-card .right { text-align: right; }
"""


def study_card(
    spec: StudySpec, total: int, parts: Parts, trials: Trials, name: str, place: str
) -> str:
    """The study ``name`` in the database at ``place``: totals, its best trials, and what they were
    measured with, at this moment."""
    best = ranked(trials)[:ROWS]
    words = [
        f"{totals(total, trials)}.",
        *_running(spec, trials),
        report.best_line(trials, spec.metrics.objective),
    ]
    notes = [
        report.measured_as(parts, digest(parts)),
        *_spent(trials),
        f"{place}, read {time.strftime('%Y-%m-%d %H:%M:%S %Z')}",
    ]
    return _card(
        f"Study {name}",
        *(markup.paragraph(line) for line in words),
        *([best_table(spec, best)] if best else []),
        *(markup.paragraph(line, "note") for line in notes),
    )


def trial_card(spec: StudySpec, trial: TrialRecord, study: str) -> str:
    """One trial of the study so called: how it went, its parameters, and why it ended."""
    kept = "is kept" if trial.artifact else "was not kept"
    epochs = f"{len(trial.reports)} of {spec.study.epochs} epochs"
    why = f"{trial.reason}; " if trial.reason else ""
    return _card(
        f"Trial {trial.number} of study {study}",
        markup.paragraph(f"{trial.state.lower()}, {epochs}"),
        best_table(spec, [trial]),
        markup.paragraph(f"{why}its generator {kept}", "note"),
    )


def totals(total: int, trials: Trials) -> str:
    """``6 of 10 trials finished: 4 complete, 2 pruned, 1 running``."""
    finished = sum(trial.state in ("COMPLETE", "PRUNED") for trial in trials)
    counts = [f"{len(some)} {mark.name}" for mark, some in reversed(by_outcome(trials))]
    states = f": {', '.join(counts)}" if counts else ""
    return f"{finished} of {total} trials finished{states}"


def one_line(spec: StudySpec, total: int, trials: Trials) -> str:
    """The study in a few words."""
    best = best_of(trials)
    metric = OBJECTIVES[spec.metrics.objective]
    worth = f", best {metric} {number(best.value)} by trial {best.number}" if best else ""
    return totals(total, trials) + worth


def _running(spec: StudySpec, trials: Trials) -> list[str]:
    running = [trial for trial in trials if trial.state == "RUNNING"]
    lines = [_progress(spec, trial) for trial in running[:RUNNING]]
    more = [f"{len(running) - RUNNING} more"] if len(running) > RUNNING else []
    return [f"Running: {'; '.join([*lines, *more])}"] if running else []


def _progress(spec: StudySpec, trial: TrialRecord) -> str:
    objective = spec.metrics.objective
    where = f"trial {trial.number}, {len(trial.reports)} of {spec.study.epochs} epochs"
    values = [v for v in (r.value(objective) for r in trial.reports) if v is not None]
    return f"{where}, {OBJECTIVES[objective]} {number(values[-1])}" if values else where


def _spent(trials: Trials) -> list[str]:
    reports = [epoch for trial in trials for epoch in trial.reports]
    if not reports:
        return []
    devices = dict.fromkeys(t.machine["device"] for t in trials if "device" in t.machine)
    on = f" on {', '.join(devices)}" if devices else ""
    return [f"{duration(sum(seconds_of(trials)))}{on}, {share(reports):.0%} of it evaluating"]


def _card(title: str, *parts: str) -> str:
    first = f"<p><b>{markup.text(title)}</b></p>"
    body: Sequence[str] = (f"<style>{STYLE}</style>", first, *parts)
    return f'<div class="tuner-card">{"".join(body)}</div>'
