"""The report on a study: one self-contained page of HTML with its plots and samples.

Rendered from ``templates/``; Jinja2 escapes every value that is not ``Markup``.
"""

import base64
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from tuner.spec.metrics import OBJECTIVES
from tuner.spec.parameters import to_toml
from tuner.spec.study import StudySpec
from tuner.study.confirmation import Result
from tuner.study.importance import importances
from tuner.study.objectives import pareto_front
from tuner.study.records import StudySummary, TrialRecord, best_of, ranked
from tuner.version import __version__
from tuner.views import confirmations, parameters, summaries
from tuner.views.axes import parameter_axes
from tuner.views.curves import trial_curves
from tuner.views.figures import PLOTS
from tuner.views.formatting import duration, number, value_text
from tuner.views.study_toml import spec_toml
from tuner.views.style import MARKS, Figure, Trials, by_outcome
from tuner.views.summaries import epochs_of

BEST_ROWS = 10
UNFOLDED_ROWS = 50  # of the table of all trials
REASON_ROWS = 30
Pictures = Sequence[tuple[int, bytes]]  # trial numbers, and grids of their samples as PNG
_TEMPLATES = Environment(
    loader=PackageLoader("tuner.views"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


class Table(NamedTuple):
    """A table for ``macros.html``; columns of numbers are aligned ``right``."""

    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    right: Sequence[str] = ()


def render(template: str, **values: object) -> str:
    """The named template, filled with the values."""
    return _TEMPLATES.get_template(template).render(values)


def study_page(
    spec: StudySpec,
    summary: StudySummary,
    fingerprint: Mapping[str, str],
    trials: Trials,
    pictures: Pictures = (),
    confirmed: Sequence[Result] = (),
    neighbours: Pictures = (),
) -> str:
    """Render the report, which also says what could not be computed, and why.

    ``neighbours`` are strips of samples with their nearest training images.
    """
    objective = spec.metrics.objective
    several = spec.metrics.several
    best = pareto_front(trials) if several else ranked(trials)[:BEST_ROWS]
    plots: dict[str, list[tuple[str, Markup]]] = {}
    for plot in PLOTS.values():
        if plot.section is not None and (several or not plot.several):
            plots.setdefault(plot.section, []).append(_titled(plot.draw(spec, trials)))
    plots.setdefault("best", []).extend(_titled(trial_curves(spec, trial)) for trial in best[:1])
    values = {trial.number: number(trial.value) for trial in trials}
    running = any(not trial.has_ended for trial in trials)
    return render(
        "report.html",
        summary=summary,
        metric=OBJECTIVES[objective],
        began=min(filter(None, (t.started for t in trials)), default=None),
        ended=None if running else max(filter(None, (t.ended for t in trials)), default=None),
        written=time.strftime("%Y-%m-%d %H:%M %Z"),
        version=__version__,
        plotly=Markup(get_plotlyjs()),
        tiles=_tiles(spec, summary, trials),
        winner=confirmations.winner_line(confirmed, spec),
        confirmed=confirmed and _confirmed_table(spec, confirmed),
        front=summaries.front_line(summary.name, best),
        gain=confirmations.gain_line(confirmed, spec) or summaries.baseline_gain(trials, objective),
        best=trials_table(spec, best),
        collapsed=best and summaries.collapse(best[0], objective),
        copying=best and summaries.copying(best[0]),
        held_out=best and summaries.held_out(best[0], objective),
        neighbours=[(trial, base64.b64encode(png).decode()) for trial, png in neighbours],
        samples=[
            (trial, values.get(trial, "-"), base64.b64encode(png).decode())
            for trial, png in pictures
        ],
        plots=plots,
        importance=_importance(spec, trials),
        space=_space(spec),
        marginals=[
            _titled(parameters.marginal(spec, trials, name)) for name in parameter_axes(spec)
        ],
        ends=_ends(trials),
        most_ends=REASON_ROWS,
        cost=_cost(trials),
        phases=_phases(trials),
        evaluation_cost=summaries.evaluation_cost(summaries.durations(trials)),
        trials=trials_table(spec, trials, every=True),
        unfolded=UNFOLDED_ROWS,
        fingerprint=Table(("part", "value"), list(fingerprint.items())),
        versions=_versions(trials),
        study_file=spec_toml(spec),
    )


def trials_table(spec: StudySpec, trials: Trials, *, every: bool = False) -> Table:
    """One row per trial; with ``every``, also its state, dates and reason."""
    objective, others = spec.metrics.objective, summaries.curve_fields(spec)[1:]
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    rows: list[dict[str, object]] = []
    for trial in trials:
        last = trial.reports[-1] if trial.reports else None
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.lower(),
                OBJECTIVES[objective]: number(trial.value),
                **{OBJECTIVES[n]: number(trial.objectives.get(n)) for n in spec.metrics.names[1:]},
                "best epoch": trial.best_epoch(objective) or "-",
                **{field.label: number(last and last.value(field.name)) for field in others},
                "started": trial.started or "-",
                "ended": (trial.ended or "-").removeprefix((trial.started or "")[:11]),
                "device time": duration(trial.history.seconds),
                **{name.replace("_", " "): value_text(trial.params.get(name)) for name in names},
                "reason": trial.reason or "",
            }
        )
    left_out = () if every else ("state", "started", "ended", "reason")
    headings = [heading for heading in (rows[0] if rows else ()) if heading not in left_out]
    right = [heading for heading in headings if heading not in ("state", "reason")]
    return Table(headings, [[cells[heading] for heading in headings] for cells in rows], right)


def _confirmed_table(spec: StudySpec, confirmed: Sequence[Result]) -> Table:
    headings, cells = confirmations.results_rows(confirmed, spec)
    return Table(headings, cells, [h for h in headings if h != confirmations.LEFT])


def _tiles(spec: StudySpec, summary: StudySummary, trials: Trials) -> list[tuple[str | int, str]]:
    best, metric = best_of(trials), OBJECTIVES[spec.metrics.objective]
    epochs = epochs_of(trials)
    finished = sum(trial.state in ("COMPLETE", "PRUNED") for trial in trials)
    trial = f", trial {best.number}, one seed" if best else ""
    return [
        (number(best and best.value), f"best {metric}{trial}"),
        (f"{finished} of {summary.total}", "trials complete or pruned"),
        *((len(group), mark.name) for mark, group in reversed(by_outcome(trials))),
        (duration(epochs.seconds), "device time"),
        (f"{epochs.evaluation_share:.0%}", "of it evaluating"),
        (f"{len(epochs):,}", "epochs trained"),
    ]


def _titled(figure: Figure) -> tuple[str, Markup]:
    """A plot's title and its HTML, which leaves the title to the page."""
    title = figure.layout.title.text
    # On a phone, dragging then scrolls the page; the plot's buttons still zoom.
    figure.update_layout(title=None, margin_t=28, dragmode=False)
    config = {"displaylogo": False, "responsive": True}
    html = figure.to_html(full_html=False, include_plotlyjs=False, config=config)
    return title, Markup(html)


def _importance(spec: StudySpec, trials: Trials) -> tuple[Markup | None, str]:
    """The plot of importances, if they can be computed, and a note about them."""
    found = importances(spec, trials)
    if found.missing:
        return None, f"Not computed: {found.missing}."
    note = (
        f"How much each parameter's values differ between the best and all of {found.trials} "
        "complete trials (PED-ANOVA), as a share of the sum; unreliable with few trials."
    )
    return _titled(parameters.importances(spec, trials, found))[1], note


def _space(spec: StudySpec) -> Table:
    rows = [
        (name, _setting_text(to_toml(setting)), "")
        for name, setting in spec.trial.searched().items()
    ]
    for decider, branches in spec.trial.when.items():
        for choice, settings in branches.items():
            condition = f"{decider} = {choice}"
            rows += [(name, _setting_text(raw), condition) for name, raw in settings.items()]
    return Table(("setting", "searched", "only where"), rows)


def _setting_text(setting: Any) -> str:
    if isinstance(setting, Mapping):
        kind = ", log" if setting.get("log") else ""
        step = f", in steps of {setting['step']:g}" if setting.get("step") else ""
        return f"{setting['low']:g} to {setting['high']:g}{kind}{step}"
    return ", ".join(map(str, setting)) if isinstance(setting, list | tuple) else str(setting)


def _ends(trials: Trials) -> Table:
    """Pruned and failed trials by reason; reasons that differ only in numbers count as one."""
    outcomes = {mark.state: mark.name for mark in MARKS if mark.state in ("PRUNED", "FAIL")}
    found: dict[tuple[str, str], list[TrialRecord]] = {}
    for trial in trials:
        if trial.state in outcomes:
            reason = re.sub(r"\d[\d.,]*(e[+-]?\d+)?", "…", trial.reason or "no reason was kept")
            found.setdefault((outcomes[trial.state], reason), []).append(trial)
    rows = []
    for (outcome, reason), group in sorted(found.items(), key=lambda item: -len(item[1])):
        examples = ", ".join(str(trial.number) for trial in group[:5]) + ", …" * (len(group) > 5)
        rows.append((outcome, reason, len(group), duration(epochs_of(group).seconds), examples))
    headings = ("outcome", "reason", "trials", "device time", "trial numbers")
    return Table(headings, rows, right=("trials", "device time"))


def _cost(trials: Trials) -> Table:
    total = epochs_of(trials).seconds
    rows = []
    for mark, group in reversed(by_outcome(trials)):
        epochs = epochs_of(group)
        times = map(duration, (epochs.train_seconds, epochs.evaluate_seconds, epochs.seconds))
        share = f"{epochs.seconds / total:.0%}" if total else "-"
        rows.append((mark.name, len(group), f"{len(epochs):,}", *times, share))
    headings = ("outcome", "trials", "epochs", "training", "evaluating", "both", "share")
    return Table(headings, rows, right=headings[1:])


def _phases(trials: Trials) -> Table:
    """The time of the workers by phase; empty if it was not counted."""
    seconds = summaries.phases_of(trials)
    total = sum(seconds.values())
    rows = [(phase, duration(s), f"{s / total:.1%}") for phase, s in seconds.items() if total]
    return Table(("phase", "time", "share"), rows, right=("time", "share"))


def _versions(trials: Trials) -> Table:
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
