"""Numbers as people read them."""

import time


def number(value: float | None) -> str:
    """Four significant digits at most, or a dash."""
    return "-" if value is None else f"{value:.4g}"


def duration(seconds: float) -> str:
    """``42s``, ``3m10s``, ``2h05m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def size(count: float) -> str:
    """Bytes as ``12.3 MB``."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def settings(params: dict[str, object]) -> str:
    """``learning_rate=0.0002 batch_size=64``."""
    return " ".join(
        f"{name}={number(value) if isinstance(value, float) else value}"
        for name, value in params.items()
    )


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of 0 to ``count - 1``, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def moment(seconds: float) -> str:
    """Seconds since 1970 as the date and time here."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
