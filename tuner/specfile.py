"""Reading a study file, and saying everything that is wrong with it, one line a problem."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tuner.coherence import incoherences
from tuner.errors import InputError
from tuner.settings import nearest
from tuner.spec import StudySpec

Key = tuple[str | int, ...]


def load_spec(path: str | Path, name: str | None = None) -> StudySpec:
    """The study in the TOML file at ``path``, or one called ``name`` of the same content.

    InputError lists every problem, one a line.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text("utf-8-sig"))  # some editors begin with a mark
    except FileNotFoundError:
        raise InputError(f"{path}: found no such file, expected a study file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: found invalid TOML, {error}") from None
    study = table.setdefault("study", {})
    if isinstance(study, dict):
        study["name"] = name or study.get("name", path.stem)
    return parse_spec(table, str(path))


def parse_spec(table: Mapping[str, Any], origin: str) -> StudySpec:
    """The study in ``table`` (a parsed study file); ``origin`` names it in errors."""
    spec, problems = _validate(table)
    problems += incoherences(spec, [key for key, _ in problems])
    if problems:
        lines = [f"{origin}: {_dotted(key)}: {text}" for key, text in problems]
        raise InputError("\n".join(lines))
    return spec


def _validate(table: Mapping[str, Any]) -> tuple[StudySpec, list[tuple[Key, str]]]:
    """The spec and what is wrong key by key. A wrong key is taken at its default, so that what
    concerns several keys can be looked at all the same."""
    try:
        return StudySpec.model_validate(table), []
    except ValidationError as error:
        problems = [_explain(details) for details in error.errors()]
        rest = dict(table)
        for key, _ in problems:
            rest = _without(rest, key)
        return _validate(rest)[0], problems


def _without(table: Any, key: Key) -> Any:
    """``table`` less the value at ``key``, or less the innermost thing that holds it."""
    first, *rest = key
    if isinstance(table, list) and isinstance(first, int) and first < len(table):
        child = _without(table[first], tuple(rest)) if rest else {}
        return [*table[:first], child if isinstance(child, dict) else {}, *table[first + 1 :]]
    if not isinstance(table, dict) or first not in table:
        return table
    child = table[first]
    deeper = rest and isinstance(child, dict | list)
    kept = {k: v for k, v in table.items() if k != first}
    if deeper and (isinstance(child, list) or rest[0] in child):
        kept[str(first)] = _without(child, tuple(rest))
    return kept


def _dotted(key: Key) -> str:
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in key)


def _explain(error: Any) -> tuple[Key, str]:
    """The key in the study file and "found …, expected …" for one of pydantic's errors."""
    key, known = _locate(error["loc"])
    found = error["input"]
    match error["type"]:
        case "extra_forbidden":
            hint = nearest(str(key[-1]), known) or f", expected one of {', '.join(known)}"
            return key, f"found an unknown key{hint}"
        case "value_error":
            return key, str(error["ctx"]["error"])
        case "union_tag_invalid":
            names = [tag.strip("' ") for tag in error["ctx"]["expected_tags"].split(",")]
            tag = error["ctx"]["tag"]
            expected = f"expected one of {', '.join(names)}{nearest(tag, names)}"
            return (*key, "name"), f"found {tag!r}, {expected}"
        case "union_tag_not_found":
            return key, "found no key 'name', which says what the other keys mean"
        case "literal_error":
            names = [
                name.strip("' ")
                for name in error["ctx"]["expected"].replace(" or ", ",").split(",")
            ]
            hint = nearest(str(found), names)
            return key, f"found {found!r}, expected {error['ctx']['expected']}{hint}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return key, f"found {found!r}, expected a table"
        case "tuple_type":
            return key, f"found {found!r}, expected tables [[{_dotted(key)}]]"
        case "string_pattern_mismatch":
            return key, f"found {found!r}, expected letters, digits, '.', '_' and '-'"
        case "string_too_long":
            most = error["ctx"]["max_length"]
            return key, f"found {len(found)} characters, expected at most {most}"
    return key, f"found {found!r}, expected {error['msg'].removeprefix('Input should be ')}"


def _locate(loc: Sequence[str | int]) -> tuple[Key, list[str]]:
    """The key as the file spells it (pydantic adds the names of union members), and the keys
    known at its level."""
    key: list[str | int] = []
    models: list[type[BaseModel]] = [StudySpec]
    known: list[str] = []
    for part in loc:
        fields = {name: f for model in models for name, f in model.model_fields.items()}
        tagged = [m for m in models if len(models) > 1 and m.model_fields["name"].default == part]
        if tagged:
            models = tagged
            continue
        if fields:
            known = list(fields)
        key.append(part)
        models = list(_models(fields[part].annotation)) if part in fields else []
    return tuple(key), known


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The section classes among the members of a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for member in get_args(annotation):
        yield from _models(member)


def differences(old: StudySpec, new: StudySpec) -> list[str]:
    """One line for each key in which two specs differ. The number of trials may differ freely."""
    before, after = (_flatten(spec.model_dump(mode="json")) for spec in (old, new))
    keys = [key for key in {**before, **after} if key != "study.trials"]
    return [
        f"{key}: {before.get(key, 'nothing')} in the database, "
        f"{after.get(key, 'nothing')} in the file"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value and not _is_setting(prefix):
        parts = [_flatten(v, f"{prefix}.{k}" if prefix else k) for k, v in value.items()]
        return {k: v for part in parts for k, v in part.items()}
    return {prefix: value}


def _is_setting(key: str) -> bool:
    """Whether the key is a setting's, where a table is a range."""
    depth = 5 if key.startswith("trial.when") else 2
    return key.startswith("trial.") and key.count(".") + 1 >= depth
