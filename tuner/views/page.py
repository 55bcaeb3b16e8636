"""The report on a study: one page of HTML with all its plots and pictures, that needs no other."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from plotly.offline import get_plotlyjs

from tuner.errors import InputError
from tuner.settings import to_toml
from tuner.spec import OBJECTIVES, StudySpec
from tuner.study.importance import importances as computed
from tuner.study.store import StudySummary, TrialRecord, best_of
from tuner.version import __version__
from tuner.views import figures, markup
from tuner.views.numbers import duration, number
from tuner.views.progress import share
from tuner.views.report import cost
from tuner.views.scales import scales
from tuner.views.style import MARKS, Figure, Trials, by_outcome
from tuner.views.toml import spec_toml

ROWS = 10  # of the best trials
KINDS = 30  # of reasons
Pictures = Sequence[tuple[int, bytes]]  # trials' numbers, and grids of their samples as PNG


def study_page(
    spec: StudySpec,
    summary: StudySummary,
    fingerprint: Mapping[str, str],
    trials: Trials,
    pictures: Pictures = (),
) -> str:
    """The page. Without scikit-learn, by which parameters are weighed, it says so in it."""
    parts = {
        "best": ("Best trials", _best(spec, trials, pictures)),
        "curves": ("Curves", _curves(spec, trials)),
        "parameters": ("Parameters", _parameters(spec, trials)),
        "space": ("Search space", _space(spec, trials)),
        "ends": ("What was pruned, and why", _ends(trials)),
        "cost": ("Cost", _cost(spec, trials)),
        "measured": ("What the numbers depend on", _measured(summary, fingerprint)),
        "versions": ("Versions and study file", _versions(spec, trials)),
    }
    body = [
        f"<h1>Study {markup.text(summary.name)}</h1>",
        markup.paragraph(_made(), "note"),
        markup.links([(name, title) for name, (title, _) in parts.items()]),
        markup.tiles(_summary(spec, summary, trials)),
        *(markup.section(name, title, *found) for name, (title, found) in parts.items()),
    ]
    return markup.document(f"Study {summary.name}", "\n".join(body), get_plotlyjs())


def _made() -> str:
    return f"Report made {time.strftime('%Y-%m-%d %H:%M %Z')} by tuner {__version__}."


def _summary(spec: StudySpec, summary: StudySummary, trials: Trials) -> list[tuple[str, str]]:
    best, metric = best_of(trials), OBJECTIVES[spec.metrics.objective]
    whose = f"best {metric}" + (f", trial {best.number}" if best else "")
    ended = [(str(len(some)), mark.name) for mark, some in reversed(by_outcome(trials))]
    finished = sum(trial.state in ("COMPLETE", "PRUNED") for trial in trials)
    reports = [report for trial in trials for report in trial.reports]
    return [
        (number(best.value if best else None), whose),
        (f"{finished} of {summary.total}", "trials complete or pruned"),
        *ended,
        (duration(sum(figures.seconds_of(trials))), "device time"),
        (f"{share(reports):.0%}", "of it evaluating"),
        (f"{len(reports):,}", "epochs trained"),
    ]


def ranked(trials: Trials) -> list[TrialRecord]:
    """The complete trials with a value, the best first."""
    complete = [t for t in trials if t.state == "COMPLETE" and t.value is not None]
    return sorted(complete, key=lambda trial: (trial.value, trial.number))


def best_table(spec: StudySpec, best: Trials) -> str:
    """A row for each of the ``best`` trials: what it is worth, and its parameters."""
    objective = spec.metrics.objective
    names = list(dict.fromkeys(name for trial in best for name in trial.params))
    plain = ("trial", OBJECTIVES[objective], "in epoch", "loss ratio", "D AUC", "device time")
    headings = (*plain, *(name.replace("_", " ") for name in names))
    rows = [_best_row(trial, objective, names) for trial in best]
    return markup.table(headings, rows, right=headings)


def _best(spec: StudySpec, trials: Trials, pictures: Pictures) -> list[str]:
    best, metric = ranked(trials)[:ROWS], OBJECTIVES[spec.metrics.objective]
    if not best:
        return [markup.paragraph("No trial is complete yet.")]
    values = {trial.number: trial.value for trial in trials}
    cards = [
        markup.picture(
            png,
            f"Trial {trial}, {metric} {number(values.get(trial))}",
            f"samples of trial {trial}'s generator",
        )
        for trial, png in pictures
    ]
    return [
        best_table(spec, best),
        *([markup.heading("Samples"), markup.side_by_side(cards)] if cards else []),
        markup.heading(f"The best one, trial {best[0].number}"),
        _plot(figures.trial_curves(spec, best[0])),
    ]


def _best_row(trial: TrialRecord, objective: str, names: Sequence[str]) -> list[str]:
    best = trial.best_epoch(objective)
    last = trial.reports[-1] if trial.reports else None
    params = [trial.params.get(name) for name in names]
    return [
        *(str(trial.number), number(trial.value), str(best or "-")),
        *(number(last and last.loss_ratio), number(last and last.d_auc)),
        duration(sum(figures.seconds_of([trial]))),
        *(number(v) if isinstance(v, float) or v is None else str(v) for v in params),
    ]


def _curves(spec: StudySpec, trials: Trials) -> list[str]:
    metric = OBJECTIVES[spec.metrics.objective]
    return [
        markup.paragraph("A line per trial; the mark at its end tells how it ended.", "note"),
        markup.heading(f"{metric} against epoch"),
        _plot(figures.value_against_epoch(spec, trials)),
        markup.heading("Loss ratio against epoch"),
        _plot(figures.loss_ratio_against_epoch(spec, trials)),
    ]


def _parameters(spec: StudySpec, trials: Trials) -> list[str]:
    if not scales(spec):
        return [markup.paragraph("No parameter is searched.")]
    best_values = figures.settings_map(spec, trials)
    return [
        *_importance(spec, trials),
        markup.heading(best_values.layout.title.text),
        _plot(best_values),
    ]


def _importance(spec: StudySpec, trials: Trials) -> list[str]:
    try:
        found = computed(spec, trials)
    except InputError as error:
        return [markup.heading("Importance"), markup.paragraph(f"Not computed: {error}", "note")]
    left_out = ", ".join(name.replace("_", " ") for name in found.left_out)
    without = f" Without those that not every trial has: {left_out}." if left_out else ""
    return [
        markup.heading(f"Importance, from {found.trials} complete trials"),
        _plot(figures.importances(spec, trials, found)),
        markup.paragraph(
            "The share of the variance that each parameter explains alone, by fANOVA (a random "
            f"forest over the complete trials); of few trials it says little.{without}",
            "note",
        ),
    ]


def _space(spec: StudySpec, trials: Trials) -> list[str]:
    known = scales(spec)
    if not known:
        return [markup.paragraph("No parameter is searched.")]
    rows = [[name, to_toml(setting), ""] for name, setting in spec.trial.searched().items()]
    for decider, tables in spec.trial.when.items():
        for choice, there in tables.items():
            rows += [[name, raw, f"{decider} = {choice}"] for name, raw in there.items()]
    metric = OBJECTIVES[spec.metrics.objective]
    plots = [
        f"<figure>{markup.caption(f'{metric} against {scale.words}')}"
        f"{_plot(figures.marginal(spec, trials, name))}</figure>"
        for name, scale in known.items()
    ]
    shown = [[name, _words(setting), where] for name, setting, where in rows]
    return [
        markup.table(("setting", "searched", "only where"), shown),
        markup.heading(f"{metric} against each parameter"),
        markup.side_by_side(plots),
    ]


def _words(setting: Any) -> str:
    """A setting as a person says it."""
    if isinstance(setting, Mapping):
        kind = ", log" if setting.get("log") else ""
        step = f", in steps of {setting['step']:g}" if setting.get("step") else ""
        return f"{setting['low']:g} to {setting['high']:g}{kind}{step}"
    return ", ".join(map(str, setting)) if isinstance(setting, list | tuple) else str(setting)


def _ends(trials: Trials) -> list[str]:
    """Trials by outcome and kind of reason, in which numbers are left out."""
    found: dict[tuple[str, str], list[TrialRecord]] = {}
    names = {mark.state: mark.name for mark in MARKS}
    for trial in trials:
        if trial.state in ("PRUNED", "FAIL"):
            reason = re.sub(r"\d[\d.,]*(e[+-]?\d+)?", "…", trial.reason or "no reason was kept")
            found.setdefault((names[trial.state], reason), []).append(trial)
    if not found:
        return [markup.paragraph("No trial was pruned, and none failed.")]
    order = sorted(found.items(), key=lambda item: -len(item[1]))
    rows = [
        [
            outcome,
            reason,
            len(some),
            f"{sum(figures.seconds_of(some)):,.0f}",
            ", ".join(str(trial.number) for trial in some[:5]) + (", …" if len(some) > 5 else ""),
        ]
        for (outcome, reason), some in order[:KINDS]
    ]
    headings = ("outcome", "reason", "trials", "device-seconds", "which")
    more = len(order) - KINDS
    note = [markup.paragraph(f"{more} other reasons are left out.", "note")] if more > 0 else []
    return [markup.table(headings, rows, right=("trials", "device-seconds")), *note]


def _cost(spec: StudySpec, trials: Trials) -> list[str]:
    total = sum(figures.seconds_of(trials))
    rows = []
    for mark, some in reversed(by_outcome(trials)):
        training, evaluating = figures.seconds_of(some)
        spent = training + evaluating
        epochs = sum(len(trial.reports) for trial in some)
        rows.append(
            [
                *(mark.name, len(some), f"{epochs:,}", f"{training:,.0f}", f"{evaluating:,.0f}"),
                *(f"{spent:,.0f}", f"{spent / total:.0%}" if total else "-"),
            ]
        )
    headings = (
        "outcome",
        "trials",
        "epochs",
        "training (s)",
        "evaluating (s)",
        "both (s)",
        "share",
    )
    return [
        markup.paragraph("Seconds on one device, as each trial was timed.", "note"),
        markup.table(headings, rows, right=headings[1:]),
        markup.paragraph(cost(trials)),
        _plot(figures.time_by_outcome(spec, trials)),
    ]


def _measured(summary: StudySummary, fingerprint: Mapping[str, str]) -> list[str]:
    if not fingerprint:
        return [markup.paragraph("Nothing is measured yet.")]
    return [
        markup.paragraph(
            f"Fingerprint {summary.fingerprint}: numbers of studies can be compared where it is "
            "the same."
        ),
        markup.table(("part", "value"), list(fingerprint.items())),
    ]


def _versions(spec: StudySpec, trials: Trials) -> list[str]:
    counts: dict[tuple[tuple[str, str], ...], int] = {}
    for trial in trials:
        key = tuple(trial.machine.items())
        counts[key] = counts.get(key, 0) + 1
    names = list(dict.fromkeys(name for machine in counts for name, _ in machine))
    rows = [[n, *(dict(m).get(name, "-") for name in names)] for m, n in counts.items()]
    table = [markup.table(("trials", *names), rows, right=("trials",))] if names else []
    return [*table, markup.folded("The study file", spec_toml(spec))]


def _plot(figure: Figure) -> str:
    """A plot without its title, which the page says above it."""
    # A finger that scrolls the page is not to zoom; the buttons above a plot still do.
    figure.update_layout(title=None, margin_t=28, dragmode=False)
    inner: str = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}
    )
    return f'<div class="plot">{inner}</div>'
