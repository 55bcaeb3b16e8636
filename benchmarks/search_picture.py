"""A picture of one study with ``asha``: recorded curves, with pauses, promotions and ends.

    python benchmarks/search_picture.py --study digits_8 --out docs/images/asha.png

Needs kaleido and a Chromium.
"""

import argparse
import math
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from record_curves import CURVES
from search import recorded, study

from tuner.spec.pruners import AshaPruner
from tuner.study.curves import Curve
from tuner.study.simulation import simulate
from tuner.views.axes import log_ticks
from tuner.views.figures import as_picture
from tuner.views.style import MARKS, new_figure

COLOURS = {mark.name: mark.colour for mark in MARKS}
TRAINED = "#444444"
PAUSED, ENDED, COMPLETE = COLOURS["paused"], COLOURS["pruned"], COLOURS["complete"]


class Stretch:
    """Consecutive epochs of a trial: from epoch ``first`` to ``last``, over at ``end``."""

    def __init__(self, curve: Curve, first: int, last: int, end: int) -> None:
        self.curve, self.first, self.last, self.end = curve, first, last, end

    @property
    def points(self) -> tuple[list[int], list[float]]:
        """Epochs trained by the study so far, and the trial's best FIDs."""
        epochs = range(self.first, self.last + 1)
        values = [self.curve.values.get(e, math.nan) for e in epochs]
        return [self.end - self.last + e for e in epochs], values


def stretches(curves: list[Curve], epochs: int) -> dict[int, list[Stretch]]:
    """The stretches of each trial of a study with ``asha`` on one worker."""
    found = simulate(curves, AshaPruner(), study(epochs, len(curves))).epochs
    by_number = {curve.trial: curve for curve in curves}
    trials: dict[int, list[Stretch]] = {}
    end = 0
    for trial, group in groupby(found, key=lambda one: one.trial):
        trained = [one.epoch for one in group]
        end += len(trained)
        part = Stretch(by_number[trial], trained[0], trained[-1], end)
        trials.setdefault(trial, []).append(part)
    return trials


def draw(curves: list[Curve], epochs: int) -> Any:
    trials = stretches(curves, epochs)
    figure = new_figure(f"asha on one worker: {len(curves)} trials of up to {epochs} epochs", 520)
    figure.update_xaxes(title="Epochs trained by the study")
    figure.update_yaxes(title="Best FID so far of the trial")
    shown: set[str] = set()
    add = _adder(figure, shown)
    for parts in trials.values():
        for before, after in pairwise(parts):
            x, y = [before.end, after.points[0][0] - 1], [before.points[1][-1]] * 2
            add("paused", x, y, "lines", line={"color": PAUSED, "dash": "dot", "width": 2})
        for part in parts:
            _draw_part(add, part, part is parts[-1], part.last == epochs)
    values = [
        part.curve.values[e] for parts in trials.values() for part in parts for e in (part.last, 1)
    ]
    values = [value for value in values if math.isfinite(value)]
    figure.update_yaxes(type="log", **log_ticks(min(values), max(values)))
    return figure


def _draw_part(add: Any, part: Stretch, is_last: bool, is_complete: bool) -> None:
    x, y = part.points
    if part.first > 1:  # joins the pause
        x, y = [x[0] - 1, *x], [part.curve.values.get(part.first - 1, math.nan), *y]
    style = {"line": {"color": TRAINED, "width": 1.6}, "marker": {"color": TRAINED, "size": 3}}
    add("trained, a dot an epoch", x, y, "lines+markers", **style)
    name, colour, symbol = ("paused until the end", ENDED, "x-thin-open")
    if is_complete:
        name, colour, symbol = "complete", COMPLETE, "star"
    elif not is_last:
        name, colour, symbol = "pauses, is promoted later", PAUSED, "circle"
    marker = {"color": colour, "symbol": symbol, "size": 9, "line": {"width": 2, "color": colour}}
    add(name, x[-1:], y[-1:], "markers", marker=marker)


def _adder(figure: Any, shown: set[str]) -> Any:
    def add(name: str, x: list[int], y: list[float], mode: str, **style: Any) -> None:
        first = name not in shown
        shown.add(name)
        figure.add_scatter(
            x=x, y=y, mode=mode, name=name, legendgroup=name, showlegend=first, **style
        )

    return add


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--curves", type=Path, default=CURVES, help="file of recorded curves")
    parser.add_argument("--study", default="digits_8", help="study to replay")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .png or .svg")
    options = parser.parse_args()
    found = {one.name: one for one in recorded(options.curves)}[options.study]
    curves = sorted(found.draw(0), key=lambda curve: curve.trial)
    figure = draw(curves, found.epochs)
    options.out.write_bytes(as_picture(figure, options.out.suffix[1:]))


if __name__ == "__main__":
    main()
