"""Kinds of values in a study file: a number within bounds, a name from a list.

Each hyperparameter is a ``Real``, a ``Whole`` or a ``Name``, which knows its bounds, checks and
parses the values of a study file, and describes itself for messages and the documentation.
"""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from tuner.spec.parameters import Choices, Range, Setting, to_toml

_ROUNDING = 1e-7  # numbers closer to a bound than this equal it in float32
_MAX_STEPS = 10_000_000  # Optuna cannot tell finer steps apart
_LARGEST = 1e300  # larger numbers overflow in arithmetic


def shown(value: Any) -> str:
    """A value as a study file writes it."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for a misspelt ``word``, or an empty string."""
    matches = difflib.get_close_matches(word, list(names), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


class _Checked:
    """Make ``Annotated[Setting, Real(0)]`` a pydantic type that parses settings of this kind."""

    def parse(self, value: Any) -> Setting:
        """Parse a value, a list of choices or a range table. Raises ValueError."""
        kind, value = cast(Kind, self), to_toml(value)
        if isinstance(value, list | tuple):
            return _parse_choices(kind, list(value))
        if isinstance(value, dict):
            return _parse_range(kind, value)
        return kind.check(value)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            # TOML has no null. A stored spec has None for a key that is absent.
            lambda value: None if value is None else self.parse(value),
            serialization=core_schema.plain_serializer_function_ser_schema(to_toml),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        value = cast(Kind, self).json_schema()
        forms = [value, {"type": "array", "items": value, "minItems": 1, "uniqueItems": True}]
        if not isinstance(self, Name):
            step = {"type": "number", "exclusiveMinimum": 0}
            bounds = {"low": value, "high": value, "log": {"type": "boolean"}, "step": step}
            closed = {"required": ["low", "high"], "additionalProperties": False}
            forms.append({"type": "object", "properties": bounds, **closed})
        return {"anyOf": forms}


@dataclass(frozen=True)
class Name(_Checked):
    """A name from ``names``; with ``custom`` also a custom network, as ``package.module:Class``."""

    names: tuple[str, ...]
    custom: bool = False

    def check(self, value: Any) -> str:
        custom = self.custom and is_custom_network(value)
        if isinstance(value, str) and (custom or value in self.names):
            return value
        hint = did_you_mean(value, self.names) if isinstance(value, str) else ""
        raise ValueError(f"found {shown(value)}, expected {self.describe()}{hint}")

    def describe(self) -> str:
        custom = ", or package.module:Class" if self.custom else ""
        return f"one of {', '.join(self.names)}{custom}"

    def json_schema(self) -> dict[str, Any]:
        named = {"enum": list(self.names)}
        custom = {"type": "string", "pattern": r"^[^:]+:[^:]+$"}
        return {"anyOf": [named, custom]} if self.custom else named


def is_custom_network(value: Any) -> bool:
    """Whether the value names a custom network, as ``package.module:Class``."""
    return is_import_name(value)


def is_import_name(value: Any) -> bool:
    """Whether the value names an object to import, as ``package.module:object``."""
    if not isinstance(value, str) or value.count(":") != 1:
        return False
    module, _, name = value.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), name))


@dataclass(frozen=True)
class Real(_Checked):
    """A number between ``low`` and ``high``; ``open_low`` and ``open_high`` exclude the bound."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: ClassVar[bool] = False

    def check(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            raise ValueError(f"{shown(value)} is not {self._noun()}")
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high - _ROUNDING if self.open_high else value <= self.high
        if not (above and below):
            raise ValueError(f"found {value!r}, expected {self.describe()}")
        if value >= _LARGEST:
            raise ValueError(f"found {value!r}, expected {self.describe()} and below {_LARGEST:g}")
        return value if self.whole else float(value)

    def describe(self) -> str:
        if not (self.open_low or self.open_high or math.isinf(self.high)):
            return f"{self._noun()} from {self.low:g} to {self.high:g}"
        low = f"{self._noun()} {'above' if self.open_low else 'of at least'} {self.low:g}"
        if math.isinf(self.high):
            return low
        return f"{low} and {'below' if self.open_high else 'at most'} {self.high:g}"

    def _noun(self) -> str:
        return "a whole number" if self.whole else "a number"

    def json_schema(self) -> dict[str, Any]:
        kind = {"type": "integer" if self.whole else "number"}
        low = {"exclusiveMinimum" if self.open_low else "minimum": self.low}
        high = {"exclusiveMaximum" if self.open_high else "maximum": self.high}
        return kind | low | ({} if math.isinf(self.high) else high)


class Whole(Real):
    """A whole number between ``low`` and ``high``."""

    whole = True


Kind = Name | Real


def _parse_choices(kind: Kind, values: list[Any]) -> Choices:
    if not values:
        raise ValueError(f"found an empty list, expected choices, each {kind.describe()}")
    checked = tuple(kind.check(value) for value in values)
    if len(set(checked)) < len(checked):
        raise ValueError(f"found {values!r}, expected distinct choices")
    return Choices(checked)


def _parse_range(kind: Kind, table: dict[str, Any]) -> Range:
    if isinstance(kind, Name):
        raise ValueError(f"found a table, expected {kind.describe()}, or a list of them")
    unknown = [key for key in table if key not in Range._fields]
    if unknown:
        hint = did_you_mean(unknown[0], Range._fields)
        raise ValueError(f"found key {unknown[0]!r}, expected low, high, log or step{hint}")
    missing = [key for key in ("low", "high") if key not in table]
    if missing:
        raise ValueError(f"the range has no {missing[0]!r}; it needs both low and high")
    low, high = kind.check(table["low"]), kind.check(table["high"])
    log, step = table.get("log", False), table.get("step")
    if not isinstance(log, bool):
        raise ValueError(f"found log = {shown(log)}, expected true or false")
    if low >= high:
        raise ValueError(f"found low = {low:g}, high = {high:g}, expected low below high")
    if log and low <= 0:
        raise ValueError(f"found log = true with low = {low:g}, expected low above 0")
    if step is not None:
        step = (Whole(1) if kind.whole else Real(0, open_low=True)).check(step)
        if log:
            raise ValueError("the range has both log and step; it can have only one of them")
        if (high - low) / step > _MAX_STEPS:
            text = f"found step = {step:g} from {low:g} to {high:g}"
            raise ValueError(f"{text}, expected at most {_MAX_STEPS:,} steps, or no step")
    return Range(low, high, log, step)
