"""A picture of how fast pruners find a good trial: recorded curves, replayed in many orders.

    python benchmarks/pruner_picture.py --out docs/images/pruners.png

Needs kaleido and a Chromium.
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from record_curves import CURVES
from search import Curves, recorded, study

from tuner.spec.pruners import (
    AshaPruner,
    HyperbandPruner,
    MedianPruner,
    NoPruner,
    PrunerSpec,
    SuccessiveHalvingPruner,
)
from tuner.study.curves import winner_of
from tuner.study.simulation import simulate
from tuner.views.figures import as_picture
from tuner.views.style import new_figure

COLOURS = {  # Okabe and Ito's
    "none": "#888888",
    "median": "#E69F00",
    "successive_halving": "#CC79A7",
    "asha": "#0072B2",
    "hyperband": "#009E73",
}
DASHES = ("dot", "dash", "dashdot", "solid", "longdash")


def excess(curves: Curves, pruner: PrunerSpec, order: int, grid: Sequence[float]) -> list[float]:
    """By how much the best value so far exceeds the best final one, as a share, after each device
    time of ``grid``, in full trials."""
    drawn = curves.draw(order)
    winner = winner_of(drawn)
    assert winner is not None
    unit = statistics.fmean(sum(curve.seconds.values()) for curve in drawn if curve.whole)
    values = {curve.trial: curve.values for curve in drawn}
    epochs = simulate(drawn, pruner, study(curves.epochs, len(drawn))).epochs
    ends = [one.end / unit for one in epochs]
    found = [values[one.trial].get(one.epoch, math.inf) for one in epochs]
    best = [math.inf, *np.minimum.accumulate(found)]
    return [best[int(np.searchsorted(ends, x, "right"))] / winner.final - 1 for x in grid]


def draw(curves: Curves, orders: int) -> Any:
    trials = len(curves.draw(0))
    title = f"{trials} trials of {curves.epochs} epochs on one worker, medians of {orders} orders"
    figure = new_figure(title, 460)
    figure.update_xaxes(title="Device time, in trials trained to the end")
    figure.update_yaxes(title="Best FID found, above the best of all trials", tickformat=".0%")
    grid = np.linspace(0.25, trials, 4 * trials).tolist()
    for pruner, dash in zip(compared(), DASHES, strict=True):
        rows = [excess(curves, pruner, order, grid) for order in range(orders)]
        line = {"color": COLOURS[pruner.name], "dash": dash, "width": 2, "shape": "hv"}
        figure.add_scatter(x=grid, y=np.median(rows, axis=0), name=pruner.name, line=line)
    figure.update_yaxes(range=[0, 0.8])
    figure.update_xaxes(range=[0, 0.6 * trials])
    return figure


def compared() -> list[PrunerSpec]:
    halving = SuccessiveHalvingPruner()
    return [NoPruner(), MedianPruner(), halving, AshaPruner(), HyperbandPruner()]


def main(
    out: Annotated[Path, typer.Option(help="file to write, .png or .svg")],
    curves: Annotated[Path, typer.Option(help="file of recorded curves")] = CURVES,
    name: str = "digits_8",
    orders: int = 200,
) -> None:
    found = {one.name: one for one in recorded(curves)}[name]
    out.write_bytes(as_picture(draw(found, orders), out.suffix[1:]))


if __name__ == "__main__":
    typer.run(main)
