"""The plot of all trials in parallel coordinates: one line per trial across its parameters."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from plotly.colors import sample_colorscale

from tuner.spec.metrics import OBJECTIVES
from tuner.spec.study import StudySpec
from tuner.study.objectives import cost
from tuner.views.axes import ParameterAxis, log_scaled, parameter_axes
from tuner.views.formatting import number, value_text
from tuner.views.parameters import COLOURS, NOTHING_SEARCHED, Point, valued
from tuner.views.style import BEST, Figure, Trials, new_figure, show_message

BINS = 5  # groups of trials by value, each with a colour
LIGHTEST = 0.8  # share of the colour scale that stands out from the background
LONGEST = 14  # characters of a tick's text


class Column(NamedTuple):
    """An axis: its label, its ticks by height, and the heights of the trials, None if missing."""

    label: str
    ticks: dict[float, str]
    heights: Sequence[float | None]


def parallel_coordinates(spec: StudySpec, trials: Trials) -> Figure:
    """One line per trial with a value, from its parameters to its value; the best ones are dark.

    A line has a gap where the trial does not have the parameter.
    """
    objective = spec.metrics.objective
    metric = OBJECTIVES[objective]
    figure = new_figure(f"Parameters and {metric} of each trial", 460)
    points = sorted(valued(spec, trials), key=lambda p: cost(objective, p[1]), reverse=True)
    axes = parameter_axes(spec).values()
    if not axes or not points:
        return show_message(figure, "No trial has a value yet." if axes else NOTHING_SEARCHED)
    columns = [_parameter(axis, [trial for trial, _ in points]) for axis in axes]
    columns.append(_values(metric, [value for _, value in points]))
    ends = [round(i * len(points) / BINS) for i in range(BINS + 1)]
    groups = [range(*pair) for pair in pairwise(ends) if pair[0] < pair[1]]
    shades = [LIGHTEST * (1 - i / max(1, len(groups) - 1)) for i in range(len(groups))]
    for group, colour in zip(groups, sample_colorscale(COLOURS, shades), strict=True):
        values = [points[i][1] for i in group]
        bounds = dict.fromkeys(map(number, (min(values), max(values))))
        name = f"{metric} {' to '.join(bounds)}"
        _draw(figure, columns, points, group, metric, name=name, colour=colour, width=1.4)
    for i in [i for i, (trial, _) in enumerate(points) if trial.state == "COMPLETE"][-1:]:
        name = f"best (trial {points[i][0].number})"
        _draw(figure, columns, points, [i], metric, name=name, colour=BEST, width=3)
    _draw_axes(figure, columns)
    return figure


def _parameter(axis: ParameterAxis, trials: Trials) -> Column:
    if axis.choices:
        last = max(1, len(axis.choices) - 1)
        ticks = {i / last: value_text(value) for i, value in enumerate(axis.choices)}
        found = [axis.choices.index(t.params[axis.name]) if axis.has(t) else None for t in trials]
        return Column(axis.label, ticks, [None if i is None else i / last for i in found])
    values = [float(t.params[axis.name]) if axis.has(t) else None for t in trials]
    return _numeric(axis.label, values, axis.low, axis.high, log=axis.log)


def _values(metric: str, values: Sequence[float]) -> Column:
    return _numeric(metric, values, min(values), max(values), log=log_scaled(values))


def _numeric(
    label: str, values: Sequence[float | None], low: float, high: float, *, log: bool
) -> Column:
    """A column from ``low`` to ``high``; values outside count as the nearest end."""
    scale = math.log if log else float
    bottom, span = scale(low), (scale(high) - scale(low)) or 1.0

    def height(value: float) -> float:
        return min(1.0, max(0.0, round((scale(value) - bottom) / span, 4)))

    middle = float(f"{math.sqrt(low * high) if log else (low + high) / 2:.2g}")
    marks = (low, middle, high) if low < middle < high else (low, high)
    ticks = {height(mark): number(mark) for mark in marks}
    return Column(label, ticks, [None if value is None else height(value) for value in values])


def _draw(
    figure: Figure,
    columns: Sequence[Column],
    points: Sequence[Point],
    chosen: Sequence[int],
    metric: str,
    *,
    name: str,
    colour: str,
    width: float,
) -> None:
    """The lines of the chosen points as one trace with gaps."""
    places = range(len(columns))
    texts = [f"trial {points[i][0].number}, {metric} {number(points[i][1])}" for i in chosen]
    figure.add_scatter(
        x=[x for _ in chosen for x in (*places, None)],
        y=[y for i in chosen for y in (*(column.heights[i] for column in columns), None)],
        text=[text for text in texts for _ in (*places, None)],
        mode="lines",
        line={"color": colour, "width": width},
        name=name,
        hovertemplate="%{text}<extra></extra>",
    )


def _draw_axes(figure: Figure, columns: Sequence[Column]) -> None:
    for x, column in enumerate(columns):
        figure.add_shape(type="line", x0=x, x1=x, y0=0, y1=1, line={"color": "#888", "width": 1})
        for y, text in column.ticks.items():
            shown = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
            figure.add_annotation(
                x=x,
                y=y,
                text=shown,
                showarrow=False,
                xanchor="left" if x < len(columns) - 1 else "right",
                xshift=3 if x < len(columns) - 1 else -3,
                bgcolor="rgba(255,255,255,.75)",
                font={"size": 11},
            )
    labels = [column.label for column in columns]
    figure.update_xaxes(
        tickvals=list(range(len(columns))), ticktext=labels, showgrid=False, showline=False
    )
    figure.update_xaxes(range=[-0.08, len(columns) - 0.92], zeroline=False)
    figure.update_yaxes(visible=False, range=[-0.06, 1.06])
