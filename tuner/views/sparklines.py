"""Numbers over epochs as a line of text: a block for each, a gap where there is none."""

import itertools
import math
from collections.abc import Sequence

from tuner.views.numbers import number

BLOCKS = "▁▂▃▄▅▆▇█"
GAP = " "
DECADE = 10.0  # where the largest is so many times the smallest, the scale is logarithmic


def sparkline(values: Sequence[float | None], width: int) -> str:
    """At most ``width`` characters, the lowest value the lowest block. Where there are more values
    than that, a character stands for the mean of several. What is missing or not finite is a gap.
    """
    points = [_finite(value) for value in values]
    if len(points) > width:
        ends = [round(i * len(points) / width) for i in range(width + 1)]
        points = [_mean(points[a:b]) for a, b in itertools.pairwise(ends)]
    known = [point for point in points if point is not None]
    if not known:
        return GAP * len(points)
    scale = math.log if is_logarithmic(values) else float
    low, high = scale(min(known)), scale(max(known))
    return "".join(GAP if p is None else _block(scale(p), low, high) for p in points)


def is_logarithmic(values: Sequence[float | None]) -> bool:
    """Whether the values are all above zero and span a decade."""
    known = [value for value in map(_finite, values) if value is not None]
    return bool(known) and min(known) > 0 and max(known) >= DECADE * min(known)


def span(values: Sequence[float | None]) -> str:
    """From where to where a line of these values goes, in words."""
    known = [value for value in map(_finite, values) if value is not None]
    if not known:
        return "nothing was measured"
    scale = ", logarithmic" if is_logarithmic(values) else ""
    return f"{number(min(known))} to {number(max(known))}{scale}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _mean(points: Sequence[float | None]) -> float | None:
    known = [point for point in points if point is not None]
    return sum(known) / len(known) if known else None


def _block(value: float, low: float, high: float) -> str:
    """All that there is to one value, where it is the only one, is that it is there: the middle."""
    place = (value - low) / (high - low) if high > low else 0.5
    return BLOCKS[min(int(place * len(BLOCKS)), len(BLOCKS) - 1)]
