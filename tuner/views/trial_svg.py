"""A trial's curves as a small SVG for the dashboard's notes, drawn without a browser."""

import math
from collections.abc import Sequence
from html import escape

from tuner.epoch_report import History
from tuner.spec.study import StudySpec
from tuner.study.rows import finite
from tuner.views.axes import log_scaled
from tuner.views.formatting import number
from tuner.views.summaries import curve_fields

WIDTH, PANEL, LEFT, TOP = 480, 110, 64, 22  # pixels: image width, panel height, margins
COLOUR, GREY = "#0072B2", "#888888"
Points = Sequence[tuple[int, float]]  # epochs and values


def curves_svg(spec: StudySpec, epochs: History) -> str:
    """The objective, loss ratio and discriminator AUC against epochs, stacked."""
    fields = curve_fields(spec)
    drawn = []
    for i, field in enumerate(fields):
        points = [(e, v) for e, v in epochs.measured(field.name) if finite(v) is not None]
        drawn.append(_panel(field.label, points, spec.study.epochs, i * PANEL))
    height = PANEL * len(fields) + 18
    bottom = (
        f'<text x="{LEFT}" y="{height - 4}">epoch 1</text>'
        f'<text x="{WIDTH - 8}" y="{height - 4}" text-anchor="end">{spec.study.epochs}</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="sans-serif" font-size="11" fill="#333333">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(drawn)}{bottom}</svg>'
    )


def _panel(name: str, points: Points, epochs: int, top: int) -> str:
    """One curve below its name, with its lowest and highest value on the left."""
    title = f'<text x="{LEFT}" y="{top + 14}" font-weight="bold">{escape(name)}</text>'
    low, high = top + PANEL - 8, top + TOP
    frame = f'<path d="M{LEFT} {high}V{low}H{WIDTH - 8}" fill="none" stroke="{GREY}"/>'
    if not points:
        return f'{title}{frame}<text x="{LEFT + 8}" y="{high + 20}">not measured</text>'
    values = [value for _, value in points]
    step = (WIDTH - 20 - LEFT) / max(epochs - 1, 1)  # pixels per epoch
    xs = [LEFT + 4 + step * (epoch - 1) for epoch, _ in points]
    scale = math.log if log_scaled(values) else float
    lowest, highest = scale(min(values)), scale(max(values))
    heights = [
        (scale(v) - lowest) / (highest - lowest) if highest > lowest else 0.5 for v in values
    ]
    ys = [low - 4 - height * (low - high - 8) for height in heights]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    return (
        f"{title}{frame}"
        f'<text x="{LEFT - 6}" y="{high + 8}" text-anchor="end">{number(max(values))}</text>'
        f'<text x="{LEFT - 6}" y="{low}" text-anchor="end">{number(min(values))}</text>'
        f'<polyline points="{line}" fill="none" stroke="{COLOUR}" stroke-width="1.6"/>'
        f'<circle cx="{xs[-1]:.1f}" cy="{ys[-1]:.1f}" r="3" fill="{COLOUR}"/>'
    )
