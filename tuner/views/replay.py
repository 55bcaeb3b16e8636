"""A replay of pruners as tables, in words, and as a page of plots."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from tuner.study.replay import Correlation, Curve, Outcome, winner_of
from tuner.views.numbers import number, spread
from tuner.views.scales import log_ticks

ROWS = 20  # of epochs, in a terminal
FEW = 10  # trials; rank correlations of fewer say little
WINNER, OTHERS = "#c1121f", "rgba(70, 105, 150, 0.4)"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star")
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title></head>
<body style="font-family: sans-serif; max-width: 1100px; margin: 2em auto">
<h1>{title}</h1>
<p>{words}</p>
{plots}
</body>
</html>
"""


def correlation_table(correlations: Sequence[Correlation]) -> Table:
    """A row per epoch, or per so many that there are twenty; the first and the last among them."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("after epoch", "trials", "Spearman's rho", "Kendall's tau-b"):
        table.add_column(heading, justify="right")
    for row in spread(len(correlations), ROWS):
        epoch, trials, spearman, kendall = correlations[row]
        table.add_row(str(epoch), str(trials), _correlation(spearman), _correlation(kendall))
    return table


def _correlation(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """A row per pruner: what it would have saved, and what that would have cost."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("pruner", overflow="fold")
    for heading in ("would have saved", "trials pruned", "the winner lost in", "regret"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        table.add_row(
            outcome.pruner,
            _saved(outcome),
            number(outcome.trials_pruned),
            _lost(outcome),
            _regret(outcome),
        )
    return table


def _saved(outcome: Outcome) -> str:
    return f"{outcome.epochs_saved:.0%} of the epochs, {outcome.seconds_saved:.0%} of the time"


def _lost(outcome: Outcome) -> str:
    empty = f", {outcome.nobody_survived} without a survivor" if outcome.nobody_survived else ""
    return f"{outcome.winner_lost} of {outcome.orders} orders{empty}"


def _regret(outcome: Outcome) -> str:
    share = outcome.relative_regret
    return number(outcome.regret) + ("" if share is None else f" ({share:.1%})")


def in_words(outcome: Outcome) -> str:
    """The outcome as one line."""
    saved, lost, regret = _saved(outcome), _lost(outcome), _regret(outcome)
    return f"would have saved {saved}; the winner lost in {lost}; regret {regret}"


def caution(curves: Sequence[Curve], pruner: str) -> str | None:
    """Why the replay is to be read with care, in one line; ``pruner`` is what ended trials when
    they were recorded. What the guard ended is no reason: it would end it again."""
    whole = sum(curve.whole for curve in curves)
    pruned = sum(curve.state == "PRUNED" for curve in curves)
    reasons = []
    if whole < FEW:
        reasons.append(f"only {whole} of {len(curves)} trials are whole, too few to be sure")
    if pruned and pruner != "none":
        text = f"{pruned} of {len(curves)} trials were pruned while recorded, so no one knows how"
        reasons.append(f"{text} they would have ended; pruner = none gives whole curves")
    return f"warning: {'; '.join(reasons)}" if reasons else None


def page(
    study: str,
    metric: str,
    curves: Sequence[Curve],
    correlations: Sequence[Correlation],
    outcomes: Sequence[Outcome],
) -> str:
    """A page of HTML that needs nothing else: the whole learning curves, the rank correlation per
    epoch, and what each pruner saves against what it loses. ``metric`` is in words."""
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
    words = f"Pruners replayed over {len(curves)} recorded trials in {orders} orders."
    return PAGE.format(title=f"Replay of study {study}", words=words, plots="\n".join(plots))


def _figure(title: str, x: str, y: str) -> Any:
    from tuner.views.style import blank  # plotly takes a while to import

    figure = blank(title, 520)
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return figure


def _curve_figure(curves: Sequence[Curve], metric: str) -> Any:
    whole, winner = [curve for curve in curves if curve.whole], winner_of(curves)
    title = f"Learning curves of the {len(whole)} trials that reached the last epoch"
    figure = _figure(title, "Epoch", f"{metric}, as trials are judged")
    # The winner comes last, to lie above the others.
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
    title = "How well each epoch ranks the trials as the last one does"
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
    title = "What each pruner saves, and what that costs"
    figure = _figure(title, "Share of the epochs saved", f"Mean regret ({metric})")
    for i, outcome in enumerate(outcomes):
        figure.add_scatter(
            x=[outcome.epochs_saved],
            y=[outcome.regret],
            mode="markers",
            # Open: pruners that do the same lie on one another.
            marker={"size": 10 + 3 * (i % 4), "symbol": f"{SYMBOLS[i % len(SYMBOLS)]}-open"},
            name=outcome.pruner + (", no survivors" if outcome.regret is None else ""),
            hovertemplate=f"{outcome.pruner}<br>{in_words(outcome)}<extra></extra>",
        )
    figure.update_traces(marker_line_width=2.5, cliponaxis=False)
    figure.update_xaxes(tickformat=".0%", range=[-0.03, 1])
    figure.update_yaxes(rangemode="tozero")
    return figure
