"""Where the values of a searched parameter lie on a plot's axis."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from tuner.conditions import branches, plain
from tuner.settings import Choices, Range, Value
from tuner.spec import StudySpec
from tuner.views.numbers import number

BINS = 12  # of a range, on a map
_GOLDEN = 0.6180339887498949  # multiples of it, less their whole parts, fill 0..1 evenly
_WIDTH = 0.6  # of a choice
_IN_IMAGES = ("batch_size", "warmup_images", "decay_images")


class Scale(NamedTuple):
    """An axis of numbers from ``low`` to ``high``; or of ``choices``, side by side."""

    name: str
    choices: tuple[Value, ...]
    low: float
    high: float
    log: bool

    @property
    def words(self) -> str:
        """The parameter's name in words."""
        return self.name.replace("_", " ")

    @property
    def title(self) -> str:
        """The parameter in words, with its unit."""
        return self.words.capitalize() + (" (images)" if self.name in _IN_IMAGES else "")

    def place(self, value: Any, trial: int) -> float:
        """Where on the axis the value of a trial lies: beside other trials' of the same choice."""
        if not self.choices:
            return float(value)
        return self.choices.index(value) + _WIDTH * ((trial * _GOLDEN) % 1 - 0.5)

    def axis(self) -> dict[str, Any]:
        """The axis as plotly has it."""
        if self.choices:
            places = list(range(len(self.choices)))
            words = [_word(value) for value in self.choices]
            ends = [-0.5, len(places) - 0.5]
            return {"tickvals": places, "ticktext": words, "range": ends, "title": self.title}
        if self.log:
            ticks = log_ticks(self.low, self.high)
            room = 0.03 * math.log10(self.high / self.low)
            ends = [math.log10(self.low) - room, math.log10(self.high) + room]
            return {"type": "log", "range": ends, "title": self.title, **ticks}
        room = 0.03 * (self.high - self.low)
        return {"range": [self.low - room, self.high + room], "title": self.title}

    def edges(self) -> list[float]:
        """The borders of the cells into which a map divides the axis."""
        if self.choices:
            return [place - 0.5 for place in range(len(self.choices) + 1)]
        steps = [i / BINS for i in range(BINS + 1)]
        if self.log:
            return [self.low * (self.high / self.low) ** step for step in steps]
        return [self.low + (self.high - self.low) * step for step in steps]


def scales(spec: StudySpec) -> dict[str, Scale]:
    """The axis of each searched parameter, by name: those that decide on others, and what only some
    trials have, too. Where its ranges or choices differ between branches, there is room for all."""
    found: dict[str, list[Choices | Range]] = {}
    for branch in branches(spec.trial):
        for name, setting in branch.searched().items():
            found.setdefault(plain(name), []).append(setting)
        for name, value in branch.given.items():
            found.setdefault(name, []).append(Choices((value,)))
    order = list(dict.fromkeys([*spec.trial.searched(), *found]))
    return {name: _scale(name, found[name]) for name in order if name in found}


def _scale(name: str, settings: Sequence[Choices | Range]) -> Scale:
    ranges = [setting for setting in settings if isinstance(setting, Range)]
    values = [v for setting in settings if isinstance(setting, Choices) for v in setting.values]
    choices = tuple(dict.fromkeys(values))
    if not ranges:
        return Scale(name, choices, 0.0, 0.0, log=False)
    numbers = [float(value) for value in choices]
    low = min([setting.low for setting in ranges] + numbers)
    high = max([setting.high for setting in ranges] + numbers)
    return Scale(name, (), low, high, log=low > 0 and any(setting.log for setting in ranges))


def _word(value: Value) -> str:
    return number(value) if isinstance(value, float) else str(value)


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks at round numbers for a logarithmic axis: more of them where it spans little."""
    decades = math.log10(high / low) if 0 < low < high else 0.0
    digits = (1, 2, 3, 5, 7) if decades < 1.2 else (1, 3) if decades < 3 else (1,)
    first = math.floor(math.log10(low)) if low > 0 else 0
    powers = range(first, first + math.ceil(decades) + 2)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
    return {"tickvals": ticks, "ticktext": [number(tick) for tick in ticks]}
