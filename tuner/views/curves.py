"""Plots of what was measured epoch by epoch: of all trials, and of one."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from plotly.subplots import make_subplots

from tuner.spec import OBJECTIVES, StudySpec
from tuner.study.store import TrialRecord, best_of
from tuner.trial import EpochReport
from tuner.views.style import (
    BEST,
    MARKS,
    Figure,
    Mark,
    Trials,
    blank,
    by_outcome,
    dress,
    markers,
    says,
    trial_text,
    value_axis,
)

Measured = Callable[[EpochReport], float | None]
Line = list[tuple[int, float]]  # epochs and values


def value_against_epoch(spec: StudySpec, trials: Trials) -> Figure:
    """The objective after every evaluated epoch, a line per trial in the colour of its outcome."""
    objective = spec.metrics.objective
    title = f"{OBJECTIVES[objective]} against epoch"
    return _curves(spec, trials, title, OBJECTIVES[objective], lambda r: r.value(objective))


def loss_ratio_against_epoch(spec: StudySpec, trials: Trials) -> Figure:
    """D's loss over G's after every epoch, with the bounds of the guard where it is on."""
    title, name, guard = "Loss ratio against epoch", "Loss of D / loss of G", spec.guard.loss_ratio
    bounds = [bound for bound in (guard.low, guard.high) if bound is not None and guard.enabled]
    return _curves(spec, trials, title, name, lambda report: report.loss_ratio, bounds)


def _curves(
    spec: StudySpec,
    trials: Trials,
    title: str,
    axis: str,
    measured: Measured,
    bounds: Sequence[float] = (),
) -> Figure:
    """One trace of lines for each outcome, for speed: gaps part the trials. The mark at a line's
    end tells the trial's parameters."""
    figure = blank(title)
    seen: list[float] = []
    for mark, found in by_outcome(trials):
        lines = [(trial, _line(trial, measured)) for trial in found]
        lines = [(trial, line) for trial, line in lines if line]
        seen += [value for _, line in lines for _, value in line]
        if lines:
            figure.add_scatter(**_strokes(lines, mark))
            figure.add_scatter(**_ends(lines, mark, axis))
    best = best_of(trials)
    if best is not None and (line := _line(best, measured)):
        figure.add_scatter(**_best_line(best, line))
    if not seen:
        return says(figure, "Nothing was measured yet.")
    ends = [0, spec.study.epochs * 1.02]
    for i, bound in enumerate(bounds):
        figure.add_scatter(x=ends, y=[bound, bound], showlegend=i == 0, **_bound_line(bound))
    figure.update_xaxes(range=ends, **_epochs(spec))
    value_axis(figure, axis, [*seen, *bounds])
    return figure


def _epochs(spec: StudySpec) -> dict[str, Any]:
    """An axis of epochs: of few, each has its tick, and none comes between them."""
    return {"title": "Epoch", "tickformat": "d", "dtick": 1 if spec.study.epochs <= 10 else None}


def _line(trial: TrialRecord, measured: Measured) -> Line:
    values = [(report.epoch, measured(report)) for report in trial.reports]
    return [(epoch, v) for epoch, v in values if v is not None and math.isfinite(v)]


def _strokes(lines: Sequence[tuple[TrialRecord, Line]], mark: Mark) -> dict[str, Any]:
    points = [(trial.number, *p) for trial, line in lines for p in (*line, (None, None))]
    return {
        "x": [epoch for _, epoch, _ in points],
        "y": [value and float(f"{value:.5g}") for _, _, value in points],
        "customdata": [trial for trial, _, _ in points],
        "mode": "lines",
        "line": {"color": mark.colour, "width": 1.3, "dash": mark.dash},
        "opacity": max(0.25, min(0.9, 8 / len(lines))),
        "legendgroup": mark.name,
        "showlegend": False,
        "hovertemplate": "trial %{customdata}, epoch %{x}: %{y:.4g}<extra></extra>",
    }


def _ends(lines: Sequence[tuple[TrialRecord, Line]], mark: Mark, axis: str) -> dict[str, Any]:
    return {
        "x": [line[-1][0] for _, line in lines],
        "y": [line[-1][1] for _, line in lines],
        "text": [trial_text(trial, axis, line[-1][1]) for trial, line in lines],
        **markers(mark, len(lines)),
        "name": f"{mark.name} ({len(lines)})",
        "legendgroup": mark.name,
        "hovertemplate": "%{text}<br>epoch %{x}<extra></extra>",
    }


def _best_line(best: TrialRecord, line: Line) -> dict[str, Any]:
    return {
        "x": [epoch for epoch, _ in line],
        "y": [value for _, value in line],
        "mode": "lines",
        "line": {"color": BEST, "width": 2.5},
        "name": f"the best, trial {best.number}",
        "hovertemplate": f"trial {best.number}, the best, epoch %{{x}}: %{{y:.4g}}<extra></extra>",
    }


def _bound_line(bound: float) -> dict[str, Any]:
    return {
        "mode": "lines",
        "line": {"color": BEST, "width": 1.5, "dash": "dash"},
        "name": "bounds of the guard",
        "legendgroup": "guard",
        "hovertemplate": f"the guard's bound: {bound:g}<extra></extra>",
    }


def trial_curves(spec: StudySpec, trial: TrialRecord) -> Figure:
    """One trial's objective, loss ratio and D's AUC after every epoch, below one another."""
    objective = spec.metrics.objective
    panels: list[tuple[str, Measured]] = [
        (OBJECTIVES[objective], lambda report: report.value(objective)),
        ("Loss of D / of G", lambda report: report.loss_ratio),
        ("AUC of D", lambda report: report.d_auc),
    ]
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    dress(figure, f"Trial {trial.number}, {trial.state.lower()}", 560)
    [mark] = [mark for mark in MARKS if mark.state == trial.state]
    for row, (name, measured) in enumerate(panels, 1):
        line = _line(trial, measured)
        figure.add_scatter(
            x=[epoch for epoch, _ in line],
            y=[value for _, value in line],
            **markers(mark, len(line)) | {"mode": "lines+markers", "line": {"color": mark.colour}},
            showlegend=False,
            hovertemplate=f"epoch %{{x}}: {name} %{{y:.4g}}<extra></extra>",
            row=row,
            col=1,
        )
        if row < 3:
            value_axis(figure, name, [value for _, value in line], row=row, col=1)
    figure.update_yaxes(title="AUC of D", range=[-0.03, 1.03], row=3, col=1)
    figure.update_xaxes(**_epochs(spec), row=3, col=1)
    return figure
