"""What a value in a study file may be: a number within bounds, a name from a list, a range.

Each hyperparameter is a ``Real``, a ``Whole`` or a ``Name``: it knows its bounds, checks what a
study file says, and describes itself for the README. A setting is one value, ``Choices`` or a
``Range``.
"""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

Value = float | int | str

_ROUNDING = 1e-7  # closer to a bound than this is on it, in float32
_LARGEST = 1e300  # a number beyond it is no hyperparameter, and soon no float


class Choices(NamedTuple):
    """One of ``values`` is picked."""

    values: tuple[Value, ...]


class Range(NamedTuple):
    """A number from ``low`` to ``high``, both included; evenly in its logarithm where ``log``."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


Setting = Value | Choices | Range


def to_toml(setting: Setting) -> Any:
    """The setting as a study file writes it."""
    if isinstance(setting, Choices):
        return list(setting.values)
    if isinstance(setting, Range):
        return {k: v for k, v in setting._asdict().items() if v is not None and v is not False}
    return setting


def nearest(word: str, names: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for a misspelt ``word``, or nothing."""
    matches = difflib.get_close_matches(word, list(names), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


class _Checked:
    """Makes ``Annotated[Setting, Real(0)]`` a pydantic type that parses settings of this kind."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            # TOML has no null: None comes only from a stored spec, for a key that may be absent.
            lambda value: None if value is None else parse_setting(cast(Kind, self), value),
            serialization=core_schema.plain_serializer_function_ser_schema(to_toml),
        )


@dataclass(frozen=True)
class Name(_Checked):
    """A name from ``names``."""

    names: tuple[str, ...]

    def check(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.names:
            hint = nearest(value, self.names) if isinstance(value, str) else ""
            raise ValueError(f"found {value!r}, expected {self.describe()}{hint}")
        return value

    def describe(self) -> str:
        return "one of " + ", ".join(self.names) if len(self.names) > 1 else self.names[0]


@dataclass(frozen=True)
class NetworkName(Name):
    """A name from ``names``, or a network of somebody's own, as ``package.module:Class``."""

    def check(self, value: Any) -> str:
        return value if is_own_network(value) else super().check(value)

    def describe(self) -> str:
        return f"{super().describe()}, or package.module:Class"


def is_own_network(value: Any) -> bool:
    """Whether the name is that of a network of somebody's own."""
    if not isinstance(value, str) or value.count(":") != 1:
        return False
    module, _, name = value.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), name))


@dataclass(frozen=True)
class Real(_Checked):
    """A number between ``low`` and ``high``; ``open_low`` and ``open_high`` leave the bound out."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole = False

    def check(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"found {value!r}, expected {self.describe()}")
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high - _ROUNDING if self.open_high else value <= self.high
        if not (above and below):
            raise ValueError(f"found {value!r}, expected {self.describe()}")
        if value >= _LARGEST:
            raise ValueError(f"found {value!r}, expected {self.describe()} and below {_LARGEST:g}")
        return float(value)

    def describe(self) -> str:
        low = f"{'above' if self.open_low else 'at least'} {self.low:g}"
        if math.isinf(self.high):
            return f"a number {low}"
        return f"a number {low} and {'below' if self.open_high else 'at most'} {self.high:g}"


@dataclass(frozen=True)
class Whole(_Checked):
    """A whole number between ``low`` and ``high``."""

    low: int
    high: float = math.inf
    whole = True

    def check(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"found {value!r}, expected {self.describe()}")
        if not self.low <= value <= self.high:
            raise ValueError(f"found {value!r}, expected {self.describe()}")
        return value

    def describe(self) -> str:
        return f"a whole number of at least {self.low}" + (
            "" if math.isinf(self.high) else f" and at most {self.high:g}"
        )


Kind = Name | Real | Whole


def parse_setting(kind: Kind, value: Any) -> Setting:
    """A study file's ``value``, a list of choices or a range of ``kind``; else ValueError."""
    value = to_toml(value)
    if isinstance(value, list | tuple):
        return _parse_choices(kind, list(value))
    if isinstance(value, dict):
        return _parse_range(kind, value)
    return kind.check(value)


def _parse_choices(kind: Kind, values: list[Any]) -> Choices:
    if not values:
        raise ValueError(f"found an empty list, expected choices, each {kind.describe()}")
    checked = tuple(kind.check(value) for value in values)
    if len(set(checked)) < len(checked):
        raise ValueError(f"found {values!r}, expected choices that differ")
    return Choices(checked)


def _parse_range(kind: Kind, table: dict[str, Any]) -> Range:
    if isinstance(kind, Name):
        raise ValueError(f"found a table, expected {kind.describe()}, or a list of them")
    unknown = [key for key in table if key not in Range._fields]
    if unknown:
        hint = nearest(unknown[0], Range._fields)
        raise ValueError(f"found key {unknown[0]!r}, expected low, high, log or step{hint}")
    missing = [key for key in ("low", "high") if key not in table]
    if missing:
        raise ValueError(f"found a range without {missing[0]!r}, expected both low and high")
    low, high = kind.check(table["low"]), kind.check(table["high"])
    log, step = table.get("log", False), table.get("step")
    if not isinstance(log, bool):
        raise ValueError(f"found log = {log!r}, expected true or false")
    if low >= high:
        raise ValueError(f"found low = {low:g}, high = {high:g}, expected low below high")
    if log and low <= 0:
        raise ValueError(f"found log = true with low = {low:g}, expected low above 0")
    if step is not None:
        step = (Whole(1) if kind.whole else Real(0, open_low=True)).check(step)
        if log:
            raise ValueError("found both log and step, expected one of them")
    return Range(low, high, log, step)
