"""The common style of all plots, and the marker of each outcome."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from tuner.study.records import TrialRecord
from tuner.views.axes import log_scaled, log_ticks
from tuner.views.formatting import number, params_text

Trials = Sequence[TrialRecord]
Figure = Any  # plotly's, which has no types
FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
BEST = "#111111"


class Mark(NamedTuple):
    """How an outcome is drawn.

    The colours are Okabe and Ito's, which colour-blind readers can tell apart; symbols and dashes
    differ too, for prints without colour.
    """

    state: str
    name: str
    colour: str
    symbol: str
    dash: str


MARKS = (
    Mark("PRUNED", "pruned", "#E69F00", "x-thin-open", "dot"),
    Mark("FAIL", "failed", "#CC79A7", "triangle-up", "dash"),
    Mark("PAUSED", "paused", "#56B4E9", "hourglass", "longdash"),
    Mark("RUNNING", "running", "#009E73", "diamond-open", "dashdot"),
    Mark("COMPLETE", "complete", "#0072B2", "circle", "solid"),  # drawn last, above the others
)


def new_figure(title: str, height: int = 420) -> Figure:
    """An empty figure in the common style."""
    return styled(go.Figure(), title, height)


def styled(figure: Figure, title: str, height: int) -> Figure:
    """Apply the common style to a figure."""
    figure.update_layout(
        title={"text": title, "x": 0, "xref": "paper", "font": {"size": 16}},
        template="plotly_white",
        font={"family": FONT, "size": 13, "color": "#222222"},
        height=height,
        margin={"l": 10, "r": 10, "t": 45, "b": 10},
        # Below the plot: next to it, the legend would take up a phone's whole width.
        legend={"orientation": "h", "yanchor": "top", "y": -0.22, "x": 0, "itemsizing": "constant"},
        hoverlabel={"align": "left"},
        hovermode="closest",
    )
    line = {"showline": True, "linecolor": "#888888", "ticks": "outside", "automargin": True}
    figure.update_xaxes(**line)
    figure.update_yaxes(**line)
    return figure


def show_message(figure: Figure, text: str) -> Figure:
    """Show a message in the figure instead of data."""
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(text=text, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
    return figure


def value_axis(figure: Figure, title: str, values: Sequence[float], **where: int) -> None:
    """Set the y axis; it is logarithmic if ``log_scaled`` says so."""
    figure.update_yaxes(title=title, **where)
    if log_scaled(values):
        figure.update_yaxes(type="log", **log_ticks(min(values), max(values)), **where)


def marker_style(mark: Mark, points: int) -> dict[str, Any]:
    """An outcome's markers as plotly describes them; smaller from 200 ``points`` on."""
    line = {"width": 1.8, "color": mark.colour} if "open" in mark.symbol else {"width": 0}
    marker = {
        "color": mark.colour,
        "symbol": mark.symbol,
        "size": 8 if points < 200 else 5,
        "line": line,
    }
    return {"mode": "markers", "marker": marker, "name": mark.name}


def by_outcome(trials: Trials) -> list[tuple[Mark, list[TrialRecord]]]:
    """The trials grouped by outcome, without empty groups."""
    groups = [(mark, [trial for trial in trials if trial.state == mark.state]) for mark in MARKS]
    return [(mark, group) for mark, group in groups if group]


def hover_text(trial: TrialRecord, metric: str, value: float | None) -> str:
    """A trial's hover text: its outcome, its value, and one line per parameter."""
    params = [params_text({name: value}) for name, value in trial.params.items()]
    first = f"trial {trial.number}, {trial.state.lower()}"
    return "<br>".join([first, f"{metric} {number(value)}", *params])
