"""A study's file as it could have been written: TOML of all that is not at its default."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tuner.policies import Section
from tuner.settings import Choices, Range, to_toml
from tuner.spec import StudySpec


def spec_toml(spec: StudySpec) -> str:
    """A study file that means the same."""
    table = _changed(spec)
    baselines = table.pop("baseline", ())
    lines = [*_lines(table, ())]
    for point in baselines:
        lines += ["", "[[baseline]]", *(f"{key} = {_value(v)}" for key, v in point.items())]
    return "\n".join(lines).strip() + "\n"


def _changed(section: Section) -> dict[str, Any]:
    """What is not at its default; names always, which tell kinds of samplers and pruners apart."""
    found: dict[str, Any] = {}
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, Section):
            found[key] = _changed(value)
        elif key == "name" or value != field.get_default(call_default_factory=True):
            found[key] = to_toml(value) if isinstance(value, Choices | Range) else value
    return {key: value for key, value in found.items() if value != {}}


def _lines(table: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[str]:
    """The keys of a table, then the tables in it; a range stays on its line."""
    inner = {k: v for k, v in table.items() if isinstance(v, Mapping) and "low" not in v}
    plain = {key: value for key, value in table.items() if key not in inner}
    if plain and names:
        yield from ("", f"[{'.'.join(names)}]")
    for key, value in plain.items():
        yield f"{_key(key)} = {_value(value)}"
    for key, value in inner.items():
        yield from _lines(value, (*names, _key(key)))


def _key(key: str) -> str:
    return key if key.replace("_", "").isalnum() and key.isascii() else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
