"""Numbers, durations, sizes and parameters as text."""

import time
from collections.abc import Mapping
from typing import Any

UNITS = ((3600, "h"), (60, "min"), (1, "s"))


def number(value: float | None) -> str:
    """At most four significant digits, or a dash."""
    return "-" if value is None else f"{value:.4g}"


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 10 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def time_unit(longest: float) -> tuple[int, str]:
    """The unit for times of up to ``longest`` seconds: its seconds, and its name."""
    return next((size, unit) for size, unit in UNITS if longest >= size or size == 1)


def size(count: float) -> str:
    """Bytes as ``12.3 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def value_text(value: object) -> str:
    """A parameter's value; a dash for None."""
    return number(value) if isinstance(value, float) or value is None else str(value)


def params_text(params: dict[str, object]) -> str:
    """``learning_rate=0.0002 batch_size=64``."""
    return " ".join(f"{name}={value_text(value)}" for name, value in params.items())


def evenly_spaced(count: int, limit: int) -> list[int]:
    """At most ``limit`` indices from 0 to ``count - 1``, including the first and the last; the last
    alone if ``limit`` is 1."""
    if count <= limit:
        return list(range(count))
    if limit < 2:
        return [count - 1] * limit
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def date_time(seconds: float) -> str:
    """Seconds since 1970 as a date and time in the local time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def setting_text(setting: Any) -> str:
    """A setting of a study file: ``0.0001 to 0.01, log`` for a range, ``32, 64`` for choices."""
    if isinstance(setting, Mapping):
        kind = ", log" if setting.get("log") else ""
        step = f", in steps of {setting['step']:g}" if setting.get("step") else ""
        return f"{setting['low']:g} to {setting['high']:g}{kind}{step}"
    return ", ".join(map(str, setting)) if isinstance(setting, list | tuple) else str(setting)
