"""The axis of a searched parameter in a plot."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tuner.spec.branches import branches, setting_name
from tuner.spec.parameters import Choices, Range, Value
from tuner.spec.study import StudySpec
from tuner.study.records import TrialRecord
from tuner.study.rows import finite
from tuner.views.formatting import number, value_text

BINS = 12  # cells into which a map divides a range
_GOLDEN = 0.6180339887498949  # fractional parts of its multiples cover 0..1 evenly
_JITTER = 0.6  # width of the band over which the points of one choice are jittered
_IN_IMAGES = (
    *("batch_size", "warmup_images", "decay_images", "ema_half_life", "ema_half_life_final"),
)


class ParameterAxis(NamedTuple):
    """A numeric axis from ``low`` to ``high``, or a categorical one of ``choices``."""

    name: str
    choices: tuple[Value, ...]
    low: float
    high: float
    log: bool

    @property
    def label(self) -> str:
        """The parameter's name with spaces."""
        return self.name.replace("_", " ")

    @property
    def title(self) -> str:
        """The axis title: the parameter, its unit, and a note if its points are jittered."""
        notes = ["images"] * (self.name in _IN_IMAGES) + ["jittered"] * bool(self.choices)
        return self.label.capitalize() + (f" ({', '.join(notes)})" if notes else "")

    def has(self, trial: TrialRecord) -> bool:
        """Whether a trial has a value that the axis can show; other programs may set any value."""
        value: Any = trial.params.get(self.name)
        if self.choices:
            return value in self.choices
        return finite(value) is not None and (value > 0 or not self.log)

    def position(self, trial: TrialRecord) -> float:
        """The coordinate of a trial's value, jittered by trial number for choices."""
        value = trial.params[self.name]
        if not self.choices:
            return float(value)
        return self.choices.index(value) + _JITTER * ((trial.number * _GOLDEN) % 1 - 0.5)

    def layout(self) -> dict[str, Any]:
        """The axis as plotly describes it."""
        if self.choices:
            ticks = list(range(len(self.choices)))
            texts = [value_text(value) for value in self.choices]
            ends = [-0.5, len(ticks) - 0.5]
            return {"tickvals": ticks, "ticktext": texts, "range": ends, "title": self.title}
        scale = math.log10 if self.log else float
        low, high = scale(self.low), scale(self.high)
        margin = 0.03 * (high - low)
        kind = {"type": "log", **log_ticks(self.low, self.high)} if self.log else {}
        return {"range": [low - margin, high + margin], "title": self.title, **kind}

    def cell_edges(self) -> list[float]:
        """The borders of the cells into which a map divides the axis."""
        if self.choices:
            return [i - 0.5 for i in range(len(self.choices) + 1)]
        spaced = np.geomspace if self.log else np.linspace
        edges: list[float] = spaced(self.low, self.high, BINS + 1).tolist()
        return edges

    def cell(self, trial: TrialRecord) -> int:
        """The index of a trial's cell; values outside the range count in the outermost cells."""
        edges = self.cell_edges()
        return min(max(bisect_right(edges, self.position(trial)) - 1, 0), len(edges) - 2)


def parameter_axes(spec: StudySpec) -> dict[str, ParameterAxis]:
    """The axis of each searched parameter by name, in the study file's order.

    Includes parameters that select a branch, and those that exist only in some branches. An axis
    covers the ranges and choices of all branches.
    """
    found: dict[str, list[Choices | Range]] = {}
    for branch in branches(spec.trial):
        for name, setting in branch.searched().items():
            found.setdefault(setting_name(name), []).append(setting)
        for name, value in branch.given.items():
            found.setdefault(name, []).append(Choices((value,)))
    order = dict.fromkeys([*spec.trial.searched(), *found])
    return {name: _axis(name, found[name]) for name in order if name in found}


def _axis(name: str, settings: list[Choices | Range]) -> ParameterAxis:
    ranges = [setting for setting in settings if isinstance(setting, Range)]
    values = [v for setting in settings if isinstance(setting, Choices) for v in setting.values]
    choices = tuple(dict.fromkeys(values))
    if not ranges:
        return ParameterAxis(name, choices, 0.0, 0.0, log=False)
    numbers = [float(value) for value in choices]
    low = min([setting.low for setting in ranges] + numbers)
    high = max([setting.high for setting in ranges] + numbers)
    return ParameterAxis(
        name, (), low, high, log=low > 0 and any(setting.log for setting in ranges)
    )


def log_scaled(values: Sequence[float]) -> bool:
    """Whether to draw values on a log scale: all positive, spanning more than a factor of 3."""
    return min(values, default=0.0) > 0 and max(values) > 3 * min(values)


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Round ticks for a log axis; the fewer decades it spans, the more ticks per decade."""
    decades = math.log10(high / low) if 0 < low < high else 0.0
    digits = (1, 2, 3, 5, 7) if decades < 1.2 else (1, 3) if decades < 3 else (1,)
    first = math.floor(math.log10(low)) if low > 0 else 0
    powers = range(first, first + math.ceil(decades) + 2)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
    return {"tickvals": ticks, "ticktext": [number(tick) for tick in ticks]}
