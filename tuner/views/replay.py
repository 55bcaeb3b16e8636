"""Replayed pruners as tables, one-line summaries, and a page of plots."""

from collections.abc import Sequence
from typing import Any

from tuner.study.curves import Correlation, Curve, winner_of
from tuner.study.replay import Outcome
from tuner.views.axes import log_ticks
from tuner.views.formatting import evenly_spaced, number
from tuner.views.tables import FittingTable

EPOCH_ROWS = 20
FEW = 10  # trials; with fewer, rank correlations are unreliable
WINNER, OTHERS = "#c1121f", "rgba(70, 105, 150, 0.4)"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star")


def correlation_table(correlations: Sequence[Correlation]) -> FittingTable:
    """At most ``EPOCH_ROWS`` rows, one per epoch, including the first and the last."""
    table = FittingTable(("after epoch", "trials", "Spearman's rho", "Kendall's tau-b"))
    for row in evenly_spaced(len(correlations), EPOCH_ROWS):
        epoch, trials, *found = correlations[row]
        table.add_row(epoch, trials, *("-" if one is None else f"{one:.3f}" for one in found))
    return table


def outcome_table(outcomes: Sequence[Outcome]) -> FittingTable:
    """One row per pruner: what it would have saved, and at what cost."""
    headings = ("pruner", "would have saved", "trials pruned", "the winner lost in", "regret")
    table = FittingTable(headings, left=["pruner"])
    for outcome in outcomes:
        saved, lost, regret = _saved_lost_regret(outcome)
        table.add_row(outcome.pruner, saved, number(outcome.trials_pruned), lost, regret)
    return table


def outcome_line(outcome: Outcome) -> str:
    """What a pruner would have saved, and at what cost, in one line."""
    saved, lost, regret = _saved_lost_regret(outcome)
    return f"would have saved {saved}; the winner lost in {lost}; regret {regret}"


def _saved_lost_regret(outcome: Outcome) -> tuple[str, str, str]:
    empty = f", {outcome.nobody_survived} without a survivor" if outcome.nobody_survived else ""
    share = outcome.relative_regret
    return (
        f"{outcome.epochs_saved:.0%} of the epochs, {outcome.seconds_saved:.0%} of the time",
        f"{outcome.winner_lost} of {outcome.orders} orders{empty}",
        number(outcome.regret) + ("" if share is None else f" ({share:.1%})"),
    )


def caution(curves: Sequence[Curve], pruner: str) -> str | None:
    """A one-line warning about the limits of the replay, if there are any.

    ``pruner`` is the pruner that was active during recording. Trials that the guard ended need no
    warning: it would end them again.
    """
    whole = sum(curve.whole for curve in curves)
    pruned = sum(curve.state == "PRUNED" for curve in curves)
    reasons = []
    if whole < FEW:
        reasons.append(
            f"only {whole} of {len(curves)} trials reached the last epoch, too few to be reliable"
        )
    if pruned and pruner != "none":
        reasons.append(
            f"{pruned} of {len(curves)} trials were pruned during recording, so their final values "
            'are unknown; record with [pruner] name = "none" for complete curves'
        )
    return f"warning: {'; '.join(reasons)}" if reasons else None


def page(
    study: str,
    metric: str,
    curves: Sequence[Curve],
    correlations: Sequence[Correlation],
    outcomes: Sequence[Outcome],
) -> str:
    """A self-contained HTML page with three plots; ``metric`` is the objective's label.

    The plots are the complete learning curves, the rank correlation per epoch, and what each pruner
    saves against what it loses.
    """
    from markupsafe import Markup

    from tuner.views.html_report import render  # imports plotly, which is slow

    figures = [
        _curve_figure(curves, metric),
        _correlation_figure(correlations),
        _outcome_figure(outcomes, metric),
    ]
    plots = [
        figure.to_html(
            full_html=False,
            include_plotlyjs=i == 0,
            div_id=f"plot-{i}",
            config={"displaylogo": False},
        )
        for i, figure in enumerate(figures)
    ]
    orders = outcomes[0].orders if outcomes else 0
    text = f"Pruners replayed over {len(curves)} recorded trials in {orders} orders."
    title = f"Replay of study {study}"
    return render("replay.html", title=title, text=text, plots=map(Markup, plots))


def _figure(title: str, x: str, y: str) -> Any:
    from tuner.views.style import new_figure  # imports plotly, which is slow

    figure = new_figure(title, 520)
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return figure


def _curve_figure(curves: Sequence[Curve], metric: str) -> Any:
    whole, winner = [curve for curve in curves if curve.whole], winner_of(curves)
    title = f"Learning curves of the {len(whole)} trials that reached the last epoch"
    figure = _figure(title, "Epoch", f"{metric}, as trials are compared")
    # The winner is drawn last, above the others.
    for i, curve in enumerate(sorted(whole, key=lambda curve: curve is winner)):
        best = curve is winner
        figure.add_scatter(
            x=list(curve.values),
            y=list(curve.values.values()),
            mode="lines",
            line={"color": WINNER if best else OTHERS, "width": 3 if best else 1.5},
            name=f"trial {curve.trial}, the winner" if best else "other trials",
            showlegend=best or i == 0,
            hovertemplate=f"trial {curve.trial}, epoch %{{x}}: %{{y:.4g}}<extra></extra>",
        )
    values = [value for curve in whole for value in curve.values.values()]
    if min(values, default=0) > 0:
        figure.update_yaxes(type="log", **log_ticks(min(values), max(values)))
    return figure


def _correlation_figure(correlations: Sequence[Correlation]) -> Any:
    title = "Rank correlation of each epoch with the last one"
    figure = _figure(title, "Epoch", "Rank correlation with the final values")
    epochs = [found.epoch for found in correlations]
    lines = {
        "Spearman's rho": [found.spearman for found in correlations],
        "Kendall's tau-b": [found.kendall for found in correlations],
    }
    for name, values in lines.items():
        figure.add_scatter(x=epochs, y=values, mode="lines+markers", name=name)
    figure.update_yaxes(rangemode="tozero")
    return figure


def _outcome_figure(outcomes: Sequence[Outcome], metric: str) -> Any:
    title = "Savings and regret of each pruner"
    figure = _figure(title, "Share of the epochs saved", f"Mean regret ({metric})")
    for i, outcome in enumerate(outcomes):
        figure.add_scatter(
            x=[outcome.epochs_saved],
            y=[outcome.regret],
            mode="markers",
            # Open markers of several sizes: pruners with equal outcomes overlap.
            marker={"size": 10 + 3 * (i % 4), "symbol": f"{SYMBOLS[i % len(SYMBOLS)]}-open"},
            name=outcome.pruner + (", no survivors" if outcome.regret is None else ""),
            hovertemplate=f"{outcome.pruner}<br>{outcome_line(outcome)}<extra></extra>",
        )
    figure.update_traces(marker_line_width=2.5, cliponaxis=False)
    figure.update_xaxes(tickformat=".0%", range=[-0.03, 1])
    figure.update_yaxes(rangemode="tozero")
    return figure
