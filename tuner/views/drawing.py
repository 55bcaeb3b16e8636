"""A trial's curves as one small SVG, without a browser: for notes, where plots can't be."""

import math
from collections.abc import Sequence
from html import escape

from tuner.spec import OBJECTIVES, StudySpec
from tuner.trial import EpochReport
from tuner.views.numbers import number

WIDTH, PANEL, LEFT, TOP = 480, 110, 64, 22  # pixels: of all, of a panel, and of its margins
COLOUR, GREY = "#0072B2", "#888888"
Line = Sequence[tuple[int, float]]  # epochs and values


def curves_svg(spec: StudySpec, reports: Sequence[EpochReport]) -> str:
    """The objective, the loss ratio and D's AUC against epochs, below one another; an axis is
    logarithmic where its values are positive and some far from others."""
    objective, epochs = spec.metrics.objective, spec.study.epochs
    panels = {
        OBJECTIVES[objective]: [(r.epoch, r.value(objective)) for r in reports],
        "loss ratio": [(r.epoch, r.loss_ratio) for r in reports],
        "D AUC": [(r.epoch, r.d_auc) for r in reports],
    }
    drawn = []
    for place, (name, points) in enumerate(panels.items()):
        line = [(e, v) for e, v in points if v is not None and math.isfinite(v)]
        drawn.append(_panel(name, line, epochs, place * PANEL))
    height = PANEL * len(panels) + 18
    bottom = (
        f'<text x="{LEFT}" y="{height - 4}">epoch 1</text>'
        f'<text x="{WIDTH - 8}" y="{height - 4}" text-anchor="end">{epochs}</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="11" fill="#333333">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(drawn)}{bottom}</svg>'
    )


def _panel(name: str, line: Line, epochs: int, top: int) -> str:
    """One curve under its name, with its least and its greatest value at the left."""
    title = f'<text x="{LEFT}" y="{top + 14}" font-weight="bold">{escape(name)}</text>'
    low, high = top + PANEL - 8, top + TOP
    frame = f'<path d="M{LEFT} {high}V{low}H{WIDTH - 8}" fill="none" stroke="{GREY}"/>'
    if not line:
        return f'{title}{frame}<text x="{LEFT + 8}" y="{high + 20}">not measured</text>'
    values = [value for _, value in line]
    places = [(_across(epoch, epochs), y) for (epoch, _), y in zip(line, _up(values), strict=True)]
    spots = [(x, low - 4 - y * (low - high - 8)) for x, y in places]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    x, y = spots[-1]
    return (
        f"{title}{frame}"
        f'<text x="{LEFT - 6}" y="{high + 8}" text-anchor="end">{number(max(values))}</text>'
        f'<text x="{LEFT - 6}" y="{low}" text-anchor="end">{number(min(values))}</text>'
        f'<polyline points="{points}" fill="none" stroke="{COLOUR}" stroke-width="1.6"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{COLOUR}"/>'
    )


def _across(epoch: int, epochs: int) -> float:
    return LEFT + 4 + (WIDTH - 20 - LEFT) * (epoch - 1) / max(epochs - 1, 1)


def _up(values: Sequence[float]) -> list[float]:
    """Heights from 0 to 1."""
    low, high = min(values), max(values)
    if low > 0 and high > 3 * low:
        return _up([math.log(value) for value in values])
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]
