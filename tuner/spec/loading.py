"""Load a study file and report everything that is wrong with it."""

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from tuner.errors import InputError
from tuner.paths import local_path, open_file
from tuner.spec.kinds import did_you_mean, shown
from tuner.spec.parameters import Range
from tuner.spec.sections import Key, Problem
from tuner.spec.study import StudySpec
from tuner.spec.validation import contradictions

MAX_BYTES, MAX_KEYS, DEEPEST = 1_000_000, 2_000, 16
MAX_PROBLEMS = 50  # in one message


def load_spec(path: str | Path, name: str | None = None) -> StudySpec:
    """Load the study file at ``path``; ``name``, if given, replaces the study's name.

    Raises InputError, which lists every problem on a separate line.
    """
    path = local_path(path, "STUDY.toml")
    try:
        table = tomllib.loads(_text(path))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, expected a study file") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: invalid TOML: {error}") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or too many digits
        problem = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: can't be read: {problem}") from None
    except RecursionError:
        raise InputError(f"{path}: tables or lists are nested too deeply") from None
    study = table.setdefault("study", {})
    if isinstance(study, dict):
        study["name"] = name or study.get("name", path.stem)
    return parse_spec(table, str(path))


def _text(path: Path) -> str:
    """Read a study file. Raises OSError if it is too large or not a regular file."""
    with open_file(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise OSError(f"it is larger than {MAX_BYTES:,} bytes, the limit for a study file")
    return data.decode("utf-8-sig")  # some editors write a byte-order mark


def _check_size(table: Mapping[str, Any], origin: str) -> None:
    """Raise InputError for a table that takes too long to check or cannot be printed."""
    waiting: list[tuple[Any, int]] = [(table, 1)]
    keys = 0
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, Mapping | list | tuple):
            keys += len(value) if isinstance(value, Mapping) else 0
            parts = value.values() if isinstance(value, Mapping) else value
            waiting += [(part, depth + 1) for part in parts]
        if depth > DEEPEST:
            raise InputError(f"{origin}: tables and lists are nested more than {DEEPEST} deep")
        if keys > MAX_KEYS:
            raise InputError(f"{origin}: it has more than {MAX_KEYS:,} keys")
        if isinstance(value, int) and value.bit_length() > 14_000:  # Python prints no more
            raise InputError(f"{origin}: a whole number has more than 4,200 digits")


def parse_spec(table: Mapping[str, Any], origin: str) -> StudySpec:
    """The study in ``table``, a parsed study file; errors begin with ``origin``."""
    _check_size(table, origin)
    spec, problems = _validate(table)
    problems += contradictions(spec, [key for key, _ in problems])
    if problems:
        lines = [f"{origin}: {_dotted(key)}: {_shortened(text)}" for key, text in problems]
        more = len(lines) - MAX_PROBLEMS
        lines[MAX_PROBLEMS:] = [f"{origin}: and {more:,} more"] if more > 0 else []
        raise InputError("\n".join(lines))
    return spec


def _shortened(text: str) -> str:
    return text if len(text) <= 600 else f"{text[:300]} ... {text[-300:]}"


def _validate(table: Mapping[str, Any]) -> tuple[StudySpec, list[Problem]]:
    """The spec, and the problems with single keys.

    A wrong key gets its default, so that rules between the other keys can still be checked.
    """
    try:
        return StudySpec.model_validate(table), []
    except ValidationError as error:
        problems = [_explain(details) for details in error.errors()]
        rest = copy.deepcopy(dict(table))
        for key, _ in problems:
            _remove(rest, key)
        return _validate(rest)[0], problems


def _remove(value: Any, key: Sequence[Any]) -> bool:
    """Remove the value at ``key``, or the innermost value that would contain it.

    A table in a list becomes an empty one. Returns False if there is nothing to remove.
    """
    first, *rest = key
    inside = range(len(value)) if isinstance(value, list) else value
    if not isinstance(value, dict | list) or first not in inside:
        return False
    if rest and _remove(value[first], rest):
        return True
    if isinstance(value, list):
        if not isinstance(value[first], dict):
            return False  # remove the whole list
        value[first] = {}
    else:
        del value[first]
    return True


def _dotted(key: Key) -> str:
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in key)


# By pydantic's error type. Names such as ``ge`` come from the context of the error.
_MESSAGES = {
    "value_error": "{error}",
    "int_type": "{found} is not a whole number",
    "int_from_float": "{found} is not a whole number",
    "float_type": "{found} is not a number",
    "finite_number": "{found} is not a finite number",
    "bool_type": "{found} is not true or false",
    "string_type": "{found} is not a string",
    "string_pattern_mismatch": "found {found}, expected letters, digits, '.', '_' and '-'",
    "string_too_long": "found {length} characters, expected at most {max_length}",
    "greater_than": "found {found}, expected above {gt:g}",
    "greater_than_equal": "found {found}, expected at least {ge:g}",
    "less_than": "found {found}, expected below {lt:g}",
    "less_than_equal": "found {found}, expected at most {le:g}",
    "model_type": "found {found}, expected a table",
    "model_attributes_type": "found {found}, expected a table",
    "dict_type": "found {found}, expected a table",
    "tuple_type": "found {found}, expected tables [[{key}]]",
    "union_tag_not_found": "the key 'name' is missing; it decides which other keys are allowed",
}


def _explain(error: Any) -> Problem:
    """The key in the study file, and the message, for one of pydantic's errors."""
    key, known = _locate(error["loc"])
    found, context = shown(error["input"]), error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            hint = did_you_mean(str(key[-1]), known) or f", expected one of {', '.join(known)}"
            return key, f"unknown key{hint}"
        case "union_tag_invalid":
            names, tag = _names(context["expected_tags"]), context["tag"]
            text = f"found {tag!r}, expected one of {', '.join(names)}{did_you_mean(tag, names)}"
            return (*key, "name"), text
        case "literal_error":
            hint = did_you_mean(str(error["input"]), _names(context["expected"]))
            return key, f"found {found}, expected {context['expected']}{hint}"
        case kind if kind in _MESSAGES:
            about = {"found": found, "key": _dotted(key), "length": len(str(error["input"]))}
            return key, _MESSAGES[kind].format(**about, **context)
    return key, f"found {found}, expected {error['msg'].removeprefix('Input should be ')}"


def _names(text: str) -> list[str]:
    """The names in ``'a', 'b' or 'c'``."""
    return [name.strip("' ") for name in re.split(",| or ", text)]


def _locate(loc: Sequence[str | int]) -> tuple[Key, list[str]]:
    """The key as the file spells it, and the known keys at its level.

    ``loc`` also has pydantic's names of union members, which are not part of the key.
    """
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
    for argument in get_args(annotation):
        yield from _models(argument)


def differences(old: StudySpec, new: StudySpec) -> list[str]:
    """One line for each key that differs between two specs, except study.trials."""
    before, after = (flatten(spec.model_dump(mode="json")) for spec in (old, new))
    keys = [key for key in {**before, **after} if key != "study.trials"]
    return [
        f"{key}: {before.get(key, 'nothing')} in the database, "
        f"{after.get(key, 'nothing')} in the file"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """The values in nested tables by dotted key. A range counts as one value, although it is a
    table."""
    if not isinstance(value, dict) or not value or value.keys() <= {*Range._fields}:
        return {prefix: value}
    parts = [flatten(v, f"{prefix}.{k}" if prefix else k) for k, v in value.items()]
    return {k: v for part in parts for k, v in part.items()}
