"""Plots of values against epochs, for all trials or for one, and of device time by outcome."""

from collections.abc import Sequence
from typing import Any

from plotly.subplots import make_subplots

from tuner.epoch_report import FIELDS, ReportField
from tuner.spec.metrics import objective_field
from tuner.spec.study import StudySpec
from tuner.study.records import TrialRecord, best_of
from tuner.study.rows import finite
from tuner.views.formatting import time_unit
from tuner.views.style import (
    BEST,
    MARKS,
    Figure,
    Mark,
    Trials,
    by_outcome,
    hover_text,
    marker_style,
    new_figure,
    show_message,
    styled,
    value_axis,
)
from tuner.views.summaries import curve_fields, epochs_of

Points = list[tuple[int, float]]  # epochs and values


def value_against_epoch(spec: StudySpec, trials: Trials) -> Figure:
    """The objective after each evaluated epoch: one line per trial, coloured by outcome."""
    return _curves(spec, trials, objective_field(spec.metrics.objective))


def loss_ratio_against_epoch(spec: StudySpec, trials: Trials) -> Figure:
    """D's loss divided by G's after each epoch, with the guard's bounds if it is enabled."""
    guard = spec.guard.loss_ratio
    bounds = [bound for bound in (guard.low, guard.high) if bound is not None and guard.enabled]
    return _curves(spec, trials, FIELDS["loss_ratio"], bounds)


def _curves(
    spec: StudySpec, trials: Trials, field: ReportField, bounds: Sequence[float] = ()
) -> Figure:
    """One line per trial and a mark at its end.

    All lines of an outcome are one trace with gaps, because plotly is slow with many traces.
    """
    figure = new_figure(f"{field.label[0].upper()}{field.label[1:]} against epoch")
    seen: list[float] = []
    for mark, found in by_outcome(trials):
        lines = [(trial, points) for trial in found if (points := _points(trial, field.name))]
        seen += [value for _, points in lines for _, value in points]
        if lines:
            figure.add_scatter(**_line_trace(lines, mark))
            figure.add_scatter(**_end_markers(lines, mark, field.label))
    best = best_of(trials)
    if best is not None and (points := _points(best, field.name)):
        epochs, values = zip(*points, strict=True)
        figure.add_scatter(
            x=epochs,
            y=values,
            mode="lines",
            line={"color": BEST, "width": 2.5},
            name=f"best (trial {best.number})",
            hovertemplate=f"trial {best.number} (best), epoch %{{x}}: %{{y:.4g}}<extra></extra>",
        )
    if not seen:
        return show_message(figure, "Nothing has been measured yet.")
    ends = [0, spec.study.epochs * 1.02]
    for i, bound in enumerate(bounds):
        figure.add_scatter(
            x=ends,
            y=[bound, bound],
            showlegend=i == 0,
            mode="lines",
            line={"color": BEST, "width": 1.5, "dash": "dash"},
            name="bounds of the guard",
            legendgroup="guard",
            hovertemplate=f"the guard's bound: {bound:g}<extra></extra>",
        )
    figure.update_xaxes(range=ends, **_epoch_axis(spec))
    value_axis(figure, field.label, [*seen, *bounds])
    return figure


def _epoch_axis(spec: StudySpec) -> dict[str, Any]:
    """An axis with a tick per epoch for up to ten epochs, and never a tick between two epochs."""
    return {"title": "Epoch", "tickformat": "d", "dtick": 1 if spec.study.epochs <= 10 else None}


def _points(trial: TrialRecord, field: str) -> Points:
    return [(epoch, v) for epoch, v in trial.history.measured(field) if finite(v) is not None]


def _line_trace(lines: Sequence[tuple[TrialRecord, Points]], mark: Mark) -> dict[str, Any]:
    gap = (None, None)
    points = [(trial.number, *p) for trial, line in lines for p in (*line, gap)]
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


def _end_markers(
    lines: Sequence[tuple[TrialRecord, Points]], mark: Mark, label: str
) -> dict[str, Any]:
    return {
        "x": [points[-1][0] for _, points in lines],
        "y": [points[-1][1] for _, points in lines],
        "text": [hover_text(trial, label, points[-1][1]) for trial, points in lines],
        **marker_style(mark, len(lines)),
        "name": f"{mark.name} ({len(lines)})",
        "legendgroup": mark.name,
        "hovertemplate": "%{text}<br>epoch %{x}<extra></extra>",
    }


def trial_curves(spec: StudySpec, trial: TrialRecord) -> Figure:
    """One trial's objective, loss ratio and discriminator AUC after each epoch, stacked."""
    fields = curve_fields(spec)
    panels = make_subplots(rows=len(fields), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    figure = styled(panels, f"Trial {trial.number}, {trial.state.lower()}", 560)
    [mark] = [mark for mark in MARKS if mark.state == trial.state]
    for row, field in enumerate(fields, 1):
        points = _points(trial, field.name)
        values = [value for _, value in points]
        where = {"row": row, "col": 1}
        figure.add_scatter(
            x=[epoch for epoch, _ in points],
            y=values,
            **marker_style(mark, len(points)) | {"mode": "lines+markers"},
            line={"color": mark.colour},
            showlegend=False,
            hovertemplate=f"epoch %{{x}}: {field.label} %{{y:.4g}}<extra></extra>",
            **where,
        )
        if field.name == "d_auc":
            figure.update_yaxes(title=field.label, range=[-0.03, 1.03], **where)
        else:
            value_axis(figure, field.label, values, **where)
    figure.update_xaxes(**_epoch_axis(spec), row=len(fields), col=1)
    return figure


def time_by_outcome(spec: StudySpec, trials: Trials) -> Figure:
    """Stacked bars per outcome: device time spent training and evaluating."""
    figure = new_figure("Device time by outcome", 380)
    outcomes = [(mark, group, epochs_of(group)) for mark, group in reversed(by_outcome(trials))]
    longest = max((epochs.seconds for *_, epochs in outcomes), default=0)
    if not longest:
        return show_message(figure, "No epoch has ended yet.")
    size, unit = time_unit(longest)
    parts = (("training", "#0072B2", ""), ("evaluating", "#56B4E9", "/"))
    names = [f"{mark.name} ({len(group)})" for mark, group, _ in outcomes]
    times = zip(*((e.train_seconds, e.evaluate_seconds) for *_, e in outcomes), strict=True)
    for (name, colour, pattern), seconds in zip(parts, times, strict=True):
        figure.add_bar(
            x=names,
            y=[value / size for value in seconds],
            name=name,
            marker={
                "color": colour,
                "pattern": {"shape": pattern, "fillmode": "overlay", "fgcolor": "#333333"},
            },
            hovertemplate=f"%{{x}}, {name}: %{{y:.3g}} {unit}<extra></extra>",
        )
    figure.update_layout(barmode="stack")
    figure.update_xaxes(title="Outcome (trials)")
    figure.update_yaxes(title=f"Device time ({unit})")
    return figure
