"""A study's non-default settings as a TOML study file."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tuner.spec.study import StudySpec, file_table
from tuner.spec.validation import pruner_problems


def spec_toml(spec: StudySpec) -> str:
    """A study file that loads as this spec; it names study, sampler and pruner.

    The default pruner is left out only of a study that is too short for it, in which naming the
    pruner is refused.
    """
    changed = file_table(spec)
    idle = "pruner" not in changed and any(True for _ in pruner_problems(spec))
    for key in ("study", "sampler", *(() if idle else ("pruner",))):
        changed[key] = {"name": getattr(spec, key).name} | changed.get(key, {})
    baselines = changed.pop("baseline", ())
    lines = [*_lines({key: changed[key] for key in StudySpec.model_fields if key in changed}, ())]
    for point in baselines:
        lines += ["", "[[baseline]]", *(f"{key} = {value_toml(v)}" for key, v in point.items())]
    return "\n".join(lines).strip() + "\n"


def _lines(table: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[str]:
    """The keys of a table, then its sub-tables; a range stays on one line."""
    inner = {k: v for k, v in table.items() if isinstance(v, Mapping) and "low" not in v}
    plain = {key: value for key, value in table.items() if key not in inner}
    if plain and names:
        yield from ("", f"[{'.'.join(names)}]")
    for key, value in plain.items():
        yield f"{_key(key)} = {value_toml(value)}"
    for key, value in inner.items():
        yield from _lines(value, (*names, _key(key)))


def _key(key: str) -> str:
    return key if key.replace("_", "").isalnum() and key.isascii() else value_toml(key)


def value_toml(value: Any) -> str:
    """A value as a study file writes it."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(k)} = {value_toml(v)}' for k, v in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
