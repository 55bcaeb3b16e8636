"""Plots of a study's values against its parameters, and of how much each parameter matters."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from plotly.subplots import make_subplots

from tuner.spec import OBJECTIVES, StudySpec
from tuner.study.importance import FEWEST, Importances
from tuner.study.importance import importances as computed
from tuner.study.store import TrialRecord
from tuner.views.numbers import number
from tuner.views.scales import Scale, log_ticks, scales
from tuner.views.style import (
    MARKS,
    Figure,
    Trials,
    blank,
    by_outcome,
    dress,
    markers,
    says,
    trial_text,
    value_axis,
)

# Low values, which are the good ones, are dark; it reads the same to the colour-blind.
COLOURS = "Cividis"
COLUMNS = 3  # of plots side by side
Point = tuple[TrialRecord, float]  # a trial and its value


def settings_map(spec: StudySpec, trials: Trials) -> Figure:
    """The best value in each part of the space of learning rate and batch size, or of the first two
    parameters that are searched, with a mark for every trial; of one, the values against it."""
    known = scales(spec)
    usual = ["learning_rate", "batch_size"]
    names = usual if all(name in known for name in usual) else list(known)[:2]
    if len(names) < 2:
        return marginal(spec, trials, names[0]) if names else _nothing_searched("Best values")
    x, y = (known[name] for name in names)
    metric = OBJECTIVES[spec.metrics.objective]
    figure = blank(f"Best {metric} by {x.words} and {y.words}")
    points = [point for point in _points(spec, trials) if {*names} <= point[0].params.keys()]
    if not points:
        return says(figure, "No trial has a value yet.")
    figure.add_heatmap(**_cells(points, x, y, metric))
    for some, _, trace in _marks(points, metric):
        figure.add_scatter(
            x=[x.place(trial.params[x.name], trial.number) for trial in some],
            y=[y.place(trial.params[y.name], trial.number) for trial in some],
            **trace,
        )
    figure.update_traces(
        marker_line={"width": 1, "color": "white"}, selector={"type": "scatter", "name": "complete"}
    )
    figure.update_xaxes(**x.axis(), showgrid=False)
    figure.update_yaxes(**y.axis(), showgrid=False)
    return figure


def _cells(points: Sequence[Point], x: Scale, y: Scale, metric: str) -> dict[str, Any]:
    """The best trial in each cell of a grid, coloured by the logarithm of its value where the
    values are positive."""
    across, up = x.edges(), y.edges()
    best: dict[tuple[int, int], Point] = {}
    for trial, value in points:
        cell = (
            _cell(up, y.place(trial.params[y.name], trial.number)),
            _cell(across, x.place(trial.params[x.name], trial.number)),
        )
        if cell not in best or value < best[cell][1]:
            best[cell] = (trial, value)
    rows, columns = range(len(up) - 1), range(len(across) - 1)
    values = [value for _, value in best.values()]
    low, high = min(values), max(values)
    log = low > 0 and high > 3 * low
    bar: dict[str, Any] = {"title": metric, "thickness": 14}
    if log:
        ticks = log_ticks(low, high)
        bar |= {"tickvals": list(map(math.log10, ticks["tickvals"])), "ticktext": ticks["ticktext"]}

    def shown(cell: tuple[int, int]) -> float | None:
        value = best[cell][1] if cell in best else None
        return math.log10(value) if log and value else value

    def said(cell: tuple[int, int]) -> str:
        trial, value = best[cell]
        return f"best here: {metric} {number(value)}, trial {trial.number}"

    return {
        "x": across,
        "y": up,
        "z": [[shown((row, column)) for column in columns] for row in rows],
        "text": [[said((r, c)) if (r, c) in best else "" for c in columns] for r in rows],
        "hovertemplate": "%{text}<extra></extra>",
        "hoverongaps": False,
        "colorscale": COLOURS,
        "colorbar": bar,
        "xgap": 1,
        "ygap": 1,
    }


def _cell(edges: Sequence[float], place: float) -> int:
    """The cell that a place lies in; what rounding has put outside belongs to the outermost."""
    return min(max(sum(edge <= place for edge in edges) - 1, 0), len(edges) - 2)


def marginals(spec: StudySpec, trials: Trials) -> Figure:
    """The values against each searched parameter, side by side."""
    known = list(scales(spec).values())
    title = f"{OBJECTIVES[spec.metrics.objective]} against each parameter"
    if not known:
        return _nothing_searched(title)
    columns = min(COLUMNS, len(known))
    rows = -(-len(known) // columns)
    figure = make_subplots(rows, columns, vertical_spacing=0.32 / rows, horizontal_spacing=0.09)
    dress(figure, title, 90 + 300 * rows)
    shown: set[str] = set()
    for i, scale in enumerate(known):
        where = {"row": i // columns + 1, "col": i % columns + 1}
        shown |= _scatter(figure, spec, trials, scale, shown, **where)
    figure.update_layout(legend_y=-0.3 / rows)
    return figure


def marginal(spec: StudySpec, trials: Trials, name: str) -> Figure:
    """The values against one searched parameter, of the trials that have it."""
    scale, metric = scales(spec)[name], OBJECTIVES[spec.metrics.objective]
    figure = make_subplots(1, 1)
    dress(figure, f"{metric} against {scale.words}", 360)
    if not _scatter(figure, spec, trials, scale, set(), row=1, col=1):
        return says(figure, "No trial has a value yet.")
    return figure


def _scatter(
    figure: Figure, spec: StudySpec, trials: Trials, scale: Scale, shown: set[str], **where: int
) -> set[str]:
    """Draw one panel; the outcomes drawn. What the legend has ``shown`` it shows once."""
    metric = OBJECTIVES[spec.metrics.objective]
    values = [value for _, value in _points(spec, trials)]  # of all, for panels to be alike
    points = [point for point in _points(spec, trials) if scale.name in point[0].params]
    drawn = set()
    for some, found, trace in _marks(points, metric):
        figure.add_scatter(
            x=[scale.place(trial.params[scale.name], trial.number) for trial in some],
            y=found,
            **trace,
            legendgroup=trace["name"],
            showlegend=trace["name"] not in shown,
            **where,
        )
        drawn.add(trace["name"])
    figure.update_xaxes(**scale.axis(), **where)
    value_axis(figure, metric if where["col"] == 1 else "", values, **where)
    return drawn


def _points(spec: StudySpec, trials: Trials) -> list[Point]:
    """The trials with a value: what Optuna compares, or while there is none, the best so far."""
    found = []
    for trial in trials:
        measured = [report.value(spec.metrics.objective) for report in trial.reports]
        value = trial.value
        if value is None:
            value = min([v for v in measured if v is not None], default=None)
        if value is not None and math.isfinite(value):
            found.append((trial, value))
    return found


def _marks(
    points: Sequence[Point], metric: str
) -> Iterator[tuple[Trials, list[float], dict[str, Any]]]:
    """For each outcome its trials, their values, and a trace that lacks only their places."""
    values = {trial.number: value for trial, value in points}
    for mark, some in by_outcome([trial for trial, _ in points]):
        found = [values[trial.number] for trial in some]
        texts = [trial_text(trial, metric, values[trial.number]) for trial in some]
        yield (
            some,
            found,
            markers(mark, len(points)) | {"text": texts, "hovertemplate": "%{text}<extra></extra>"},
        )


def importances(spec: StudySpec, trials: Trials, found: Importances | None = None) -> Figure:
    """The share of the values' variance that each parameter explains, by fANOVA over the complete
    trials, unless it was ``found`` before. InputError where scikit-learn is not installed."""
    found = found or computed(spec, trials)
    shares = dict(reversed(found.shares.items()))  # the largest is to be above
    title = f"Importance of each parameter, from {found.trials} complete trials"
    figure = blank(title, 150 + 34 * max(3, len(shares)))
    if not shares:
        if found.trials < FEWEST:
            text = f"At least {FEWEST} complete trials are needed."
            return says(figure, f"{text}<br>There are {found.trials} so far.")
        return says(figure, "No parameter is shared by all complete trials.")
    figure.add_bar(
        x=list(shares.values()),
        y=[name.replace("_", " ") for name in shares],
        orientation="h",
        marker_color=MARKS[-1].colour,
        text=[f"{share:.0%}" for share in shares.values()],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )
    figure.update_xaxes(title="Share of the variance (fANOVA)", tickformat=".0%", range=[0, 1.08])
    return figure


def _nothing_searched(title: str) -> Figure:
    return says(blank(title), "No parameter is searched.")
