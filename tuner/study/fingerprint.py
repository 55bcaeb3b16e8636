"""The fingerprint of a study: studies are comparable if their fingerprints are equal.

It consists of the inputs of measurements, because their results differ slightly between devices.
Results that are shared are computed once and stored as files.
"""

import hashlib
import json
from collections.abc import Sequence

Parts = dict[str, str]


def digest(parts: Parts) -> str:
    """Hash the parts to 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def disagreements(found: Parts, expected: Parts) -> list[str]:
    """``found NAME VALUE, expected VALUE`` for each part that both have and that differs."""
    return [
        f"found {name} {value}, expected {expected[name]}"
        for name, value in found.items()
        if name in expected and value != expected[name]
    ]


def incomparable(named: Sequence[tuple[str, Parts]]) -> str | None:
    """The first difference that makes the studies' numbers incomparable; None if there is none."""
    for name, parts in named:
        if "data" not in parts:
            return f"study {name!r} has measured nothing yet"
    first, known = named[0]
    for name, parts in named[1:]:
        for part in {**known, **parts}:
            here, there = known.get(part, "none"), parts.get(part, "none")
            if here != there:
                return f"{part} is {here} in study {first!r} and {there} in {name!r}"
    return None
