"""A setting of ``[trial]``: one value, choices or a range."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

Value = float | int | str


class Choices(NamedTuple):
    """One of ``values``."""

    values: tuple[Value, ...]


class Range(NamedTuple):
    """A number from ``low`` to ``high``, both included; uniform in its logarithm if ``log``."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


Setting = Value | Choices | Range


@dataclass(frozen=True)
class Steps(Sequence[float]):
    """``size`` numbers from ``low``, ``step`` apart, computed on access.

    They are computed in decimal, as a study file writes them: three steps of 0.1 from 0 are 0.3.
    """

    low: float
    step: float
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        found = range(self.size)[index]
        if isinstance(found, range):
            return [self[i] for i in found]
        return float(Decimal(str(self.low)) + found * Decimal(str(self.step)))

    def __contains__(self, value: object) -> bool:
        return self._index(value) is not None

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        found = self._index(value)
        if found is None or found not in range(self.size)[start:stop]:
            raise ValueError(f"{value!r} is not one of the steps")
        return found

    def _index(self, value: object) -> int | None:
        """The index of ``value``, up to rounding; None if it is not one of the numbers."""
        if not isinstance(value, int | float) or not math.isfinite(value):
            return None
        index = round((value - self.low) / self.step)
        close = math.isclose(self.low + index * self.step, value, abs_tol=1e-8 * self.step)
        return index if close and 0 <= index < self.size else None


def to_toml(setting: Setting) -> Any:
    """The setting as a study file writes it."""
    if isinstance(setting, Choices):
        return list(setting.values)
    if isinstance(setting, Range):
        return {k: v for k, v in setting._asdict().items() if v is not None and v is not False}
    return setting


def values_of(setting: Setting) -> Sequence[Value] | None:
    """All values of a setting in order; None if they are continuous."""
    if isinstance(setting, Choices):
        return setting.values
    if not isinstance(setting, Range):
        return [setting]
    low, high, _, step = setting
    if isinstance(low, int):
        return range(low, int(high) + 1, int(step or 1))
    if step is None:
        return None
    start, end, width = (Decimal(str(number)) for number in (low, high, step))
    return Steps(low, step, int((end - start) / width) + 1)


def largest_value(setting: Setting) -> Value:
    """The largest value of a setting."""
    if isinstance(setting, Range):
        return setting.high
    return max(setting.values, key=float) if isinstance(setting, Choices) else setting
