"""Plots of values against searched parameters, and of parameter importances."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from plotly.subplots import make_subplots

from tuner.spec.metrics import OBJECTIVES
from tuner.spec.study import StudySpec
from tuner.study.importance import Importances
from tuner.study.importance import importances as compute_importances
from tuner.study.objectives import cost
from tuner.study.records import TrialRecord
from tuner.views.axes import ParameterAxis, log_scaled, log_ticks, parameter_axes
from tuner.views.formatting import number
from tuner.views.style import (
    MARKS,
    Figure,
    Trials,
    by_outcome,
    hover_text,
    marker_style,
    new_figure,
    show_message,
    styled,
    value_axis,
)

# Low values, which are better, are dark. The scale is safe for colour-blind readers.
COLOURS = "Cividis"
NOTHING_SEARCHED = "No parameter is searched."
COLUMNS = 3  # panels per row
Point = tuple[TrialRecord, float]  # a trial and its value


def best_value_map(spec: StudySpec, trials: Trials) -> Figure:
    """The best value in each cell of a map of two parameters, and a mark for every trial.

    The parameters are learning rate and batch size if both are searched, else the first two. With
    only one, its values are plotted.
    """
    axes = parameter_axes(spec)
    usual = ["learning_rate", "batch_size"]
    names = usual if all(name in axes for name in usual) else list(axes)[:2]
    if len(names) < 2:
        return marginal(spec, trials, names[0]) if names else _nothing_searched("Best values")
    x, y = (axes[name] for name in names)
    metric = OBJECTIVES[spec.metrics.objective]
    figure = new_figure(f"Best {metric} by {x.label} and {y.label}")
    points = [point for point in valued(spec, trials) if x.has(point[0]) and y.has(point[0])]
    if not points:
        return show_message(figure, "No trial has a value yet.")
    figure.add_heatmap(**_cells(points, x, y, spec.metrics.objective))
    for group, _, trace in _traces(points, metric):
        figure.add_scatter(x=list(map(x.position, group)), y=list(map(y.position, group)), **trace)
    figure.update_traces(
        marker_line={"width": 1, "color": "white"}, selector={"type": "scatter", "name": "complete"}
    )
    figure.update_xaxes(**x.layout(), showgrid=False)
    figure.update_yaxes(**y.layout(), showgrid=False)
    return figure


def _cells(
    points: Sequence[Point], x: ParameterAxis, y: ParameterAxis, objective: str
) -> dict[str, Any]:
    """The best trial of each cell as a heatmap."""
    metric, best = OBJECTIVES[objective], dict[tuple[int, int], Point]()
    for trial, value in points:
        cell = y.cell(trial), x.cell(trial)
        if cell not in best or cost(objective, value) < cost(objective, best[cell][1]):
            best[cell] = (trial, value)
    values = [value for _, value in best.values()]
    log = log_scaled(values)
    bar: dict[str, Any] = {"title": metric, "thickness": 14}
    if log:
        ticks = log_ticks(min(values), max(values))
        bar |= {"tickvals": list(map(math.log10, ticks["tickvals"])), "ticktext": ticks["ticktext"]}
    edges = x.cell_edges(), y.cell_edges()
    columns, rows = (len(borders) - 1 for borders in edges)
    colours: list[list[float | None]] = [[None] * columns for _ in range(rows)]
    texts = [[""] * columns for _ in range(rows)]
    for (row, column), (trial, value) in best.items():
        colours[row][column] = math.log10(value) if log else value
        texts[row][column] = f"best here: {metric} {number(value)}, trial {trial.number}"
    return {
        "x": edges[0],
        "y": edges[1],
        "z": colours,
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
        "hoverongaps": False,
        "colorscale": COLOURS,
        "colorbar": bar,
        "xgap": 1,
        "ygap": 1,
    }


def marginals(spec: StudySpec, trials: Trials) -> Figure:
    """The values against each searched parameter, side by side."""
    axes = list(parameter_axes(spec).values())
    title = f"{OBJECTIVES[spec.metrics.objective]} against each parameter"
    if not axes:
        return _nothing_searched(title)
    columns = min(COLUMNS, len(axes))
    rows = -(-len(axes) // columns)
    panels = make_subplots(rows, columns, vertical_spacing=0.32 / rows, horizontal_spacing=0.09)
    figure = styled(panels, title, 90 + 300 * rows)
    in_legend: set[str] = set()
    for i, axis in enumerate(axes):
        where = {"row": i // columns + 1, "col": i % columns + 1}
        in_legend |= _add_panel(figure, spec, trials, axis, in_legend, **where)
    figure.update_layout(legend_y=-0.3 / rows)
    return figure


def marginal(spec: StudySpec, trials: Trials, name: str) -> Figure:
    """The values against one searched parameter, of the trials that have it."""
    axis, metric = parameter_axes(spec)[name], OBJECTIVES[spec.metrics.objective]
    figure = styled(make_subplots(1, 1), f"{metric} against {axis.label}", 380)
    figure.update_layout(legend_y=-0.36)  # below slanted ticks, in narrow panels
    if not _add_panel(figure, spec, trials, axis, set(), row=1, col=1):
        return show_message(figure, "No trial has a value yet.")
    return figure


def _add_panel(
    figure: Figure,
    spec: StudySpec,
    trials: Trials,
    axis: ParameterAxis,
    in_legend: set[str],
    **where: int,
) -> set[str]:
    """Draw one panel and return its outcomes; those ``in_legend`` get no second legend entry."""
    metric = OBJECTIVES[spec.metrics.objective]
    points = valued(spec, trials)
    drawn = set()
    for group, values, trace in _traces([point for point in points if axis.has(point[0])], metric):
        figure.add_scatter(
            x=list(map(axis.position, group)),
            y=values,
            **trace,
            legendgroup=trace["name"],
            showlegend=trace["name"] not in in_legend,
            **where,
        )
        drawn.add(trace["name"])
    figure.update_xaxes(**axis.layout(), **where)
    # Based on the values of all trials, so that panels share one scale.
    all_values = [value for _, value in points]
    value_axis(figure, metric if where["col"] == 1 else "", all_values, **where)
    return drawn


def valued(spec: StudySpec, trials: Trials) -> list[Point]:
    """The trials with a value: the one that Optuna compares, else the best measured so far."""
    found = []
    for trial in trials:
        value = trial.value
        if value is None:
            value = trial.history.best_value(spec.metrics.objective)
        if value is not None and math.isfinite(value):
            found.append((trial, value))
    return found


def _traces(
    points: Sequence[Point], metric: str
) -> Iterator[tuple[Trials, list[float], dict[str, Any]]]:
    """For each outcome: its trials, their values, and a trace without coordinates."""
    values = {trial.number: value for trial, value in points}
    for mark, group in by_outcome([trial for trial, _ in points]):
        found = [values[trial.number] for trial in group]
        texts = [hover_text(trial, metric, values[trial.number]) for trial in group]
        hover = {"text": texts, "hovertemplate": "%{text}<extra></extra>"}
        yield group, found, marker_style(mark, len(points)) | hover


def importances(spec: StudySpec, trials: Trials, found: Importances | None = None) -> Figure:
    """The importance of each parameter for reaching low values (PED-ANOVA).

    Computed over the complete trials unless ``found`` is given.
    """
    found = found or compute_importances(spec, trials)
    shares = dict(reversed(found.shares.items()))  # plotly draws the first bar at the bottom
    title = f"Importance of each parameter, from {found.trials} complete trials"
    figure = new_figure(title, 150 + 34 * max(3, len(shares)))
    if found.missing:
        return show_message(figure, f"Not computed:<br>{found.missing}.")
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
    figure.update_xaxes(title="Importance (PED-ANOVA)", tickformat=".0%", range=[0, 1.08])
    return figure


def _nothing_searched(title: str) -> Figure:
    return show_message(new_figure(title), NOTHING_SEARCHED)
