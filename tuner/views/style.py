"""How all plots look, and the marks of each outcome of a trial."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from tuner.study.store import TrialRecord
from tuner.views.numbers import number, settings
from tuner.views.scales import log_ticks

Trials = Sequence[TrialRecord]
Figure = Any  # plotly's, which has no types
FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
BEST = "#111111"


class Mark(NamedTuple):
    """An outcome's looks. Colours are Okabe and Ito's, told apart by the colour-blind; on paper
    without colour the symbols and dashes tell."""

    state: str
    name: str
    colour: str
    symbol: str
    dash: str


MARKS = (
    Mark("PRUNED", "pruned", "#E69F00", "x-thin-open", "dot"),
    Mark("FAIL", "failed", "#CC79A7", "triangle-up", "dash"),
    Mark("RUNNING", "running", "#009E73", "diamond-open", "dashdot"),
    Mark("COMPLETE", "complete", "#0072B2", "circle", "solid"),  # drawn last, above the others
)


def blank(title: str, height: int = 420) -> Figure:
    """A figure with the style of all and nothing in it."""
    figure = go.Figure()
    dress(figure, title, height)
    return figure


def dress(figure: Figure, title: str, height: int) -> None:
    """Give a figure the style of all."""
    figure.update_layout(
        title={"text": title, "x": 0, "xref": "paper", "font": {"size": 16}},
        template="plotly_white",
        font={"family": FONT, "size": 13, "color": "#222222"},
        height=height,
        margin={"l": 10, "r": 10, "t": 45, "b": 10},
        # Below: beside the plot, it would leave none of a phone's width.
        legend={"orientation": "h", "yanchor": "top", "y": -0.22, "x": 0, "itemsizing": "constant"},
        hoverlabel={"align": "left"},
        hovermode="closest",
    )
    line = {"showline": True, "linecolor": "#888888", "ticks": "outside", "automargin": True}
    figure.update_xaxes(**line)
    figure.update_yaxes(**line)


def says(figure: Figure, text: str) -> Figure:
    """The figure with words in its middle instead of data."""
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
    return figure


def value_axis(figure: Figure, title: str, values: Sequence[float], **where: int) -> None:
    """An axis for ``values``: logarithmic where all are positive and some far from others."""
    figure.update_yaxes(title=title, **where)
    low, high = min(values, default=1.0), max(values, default=1.0)
    if low > 0 and high > 3 * low:
        figure.update_yaxes(type="log", **log_ticks(low, high), **where)


def markers(mark: Mark, points: int) -> dict[str, Any]:
    """An outcome's marks, as plotly has them: smaller where there are many ``points``."""
    line = {"width": 1.8, "color": mark.colour} if "open" in mark.symbol else {"width": 0}
    marker = {
        "color": mark.colour,
        "symbol": mark.symbol,
        "size": 8 if points < 200 else 5,
        "line": line,
    }
    return {"mode": "markers", "marker": marker, "name": mark.name}


def by_outcome(trials: Trials) -> list[tuple[Mark, list[TrialRecord]]]:
    """The trials of each outcome that there are any of."""
    found = [(mark, [trial for trial in trials if trial.state == mark.state]) for mark in MARKS]
    return [(mark, some) for mark, some in found if some]


def trial_text(trial: TrialRecord, metric: str, value: float | None) -> str:
    """What a trial's mark says under the pointer: a line per parameter."""
    params = [settings({name: value}) for name, value in trial.params.items()]
    first = f"trial {trial.number}, {trial.state.lower()}"
    return "<br>".join([first, f"{metric} {number(value)}", *params])
