"""Edits of a stored study file: which keys may change while a study runs, and how they change.

Numbers of a study must keep their meaning, so what defines them is refused: images, metrics,
epochs, seeds, everything in ``[trial]`` that is not searched.
"""

import tomllib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tuner.errors import InputError
from tuner.spec.branches import deciders
from tuner.spec.kinds import is_custom_network
from tuner.spec.loading import flatten, parse_spec
from tuner.spec.parameters import Choices, Range, Setting
from tuner.spec.sections import Key
from tuner.spec.study import StudySpec, file_table
from tuner.spec.trial import kind_of, setting_names
from tuner.spec.validation import point_problems

DEFAULT = object()  # assigned by ``key=``: the key is removed, so it has its default
_MEASURES = "it defines what the study's numbers mean"
_QUEUED = "it counts only when the study is created; use tuner enqueue"
_SECTIONS = {"data": _MEASURES, "metrics": _MEASURES, "baseline": _QUEUED, "warm_start": _QUEUED}
_STUDY = {
    "name": "it identifies the study to its files and workers",
    "epochs": "trials of different lengths are not comparable",
    "seed": "all random numbers of the study follow from it",
    "value": _MEASURES,
    "lease_seconds": "running workers keep renewing their leases at the old interval",
}


class Assignment(NamedTuple):
    """A value for a key of the study file, which may be ``DEFAULT``."""

    key: tuple[str, ...]
    value: Any

    @property
    def dotted(self) -> str:
        return ".".join(self.key)


class Change(NamedTuple):
    """A key whose value has changed; None where the key is absent."""

    key: str
    old: Any
    new: Any


def parse_assignments(words: Sequence[str]) -> list[Assignment]:
    """Parse words like ``pruner.patience=4``; InputError lists all problems."""
    found: list[Assignment] = []
    problems = []
    for word in words:
        name, equals, text = word.partition("=")
        key = _parse_key(name)
        if not equals or key is None:
            problems.append(f"found {word[:80]!r}, expected key=value, such as study.trials=50")
        elif any(key == earlier.key for earlier in found):
            problems.append(f"{name} is given twice")
        else:
            found.append(Assignment(key, _parse_value(text)))
    if problems:
        raise InputError("\n".join(problems))
    return found


def _parse_key(name: str) -> tuple[str, ...] | None:
    """The parts of a dotted key, as TOML reads it; None if the name is not a key."""
    try:
        value: Any = tomllib.loads(f"{name} = 0")
    except (ValueError, RecursionError):
        return None
    parts: list[str] = []
    while isinstance(value, dict) and len(value) == 1:
        [(part, value)] = value.items()
        parts.append(part)
    return tuple(parts) if value == 0 else None


def _parse_value(text: str) -> Any:
    """Parse the text as a TOML value; return the text if it is not one."""
    if not text.strip():
        return DEFAULT
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return table["value"] if len(table) == 1 else text


def edited(spec: StudySpec, assignments: Sequence[Assignment], origin: str) -> StudySpec:
    """The study file after the assignments, checked as a whole.

    Baselines outside a changed search space are dropped: they were queued when the study was
    created. InputError, whose lines begin with ``origin``, lists every problem.
    """
    problems, allowed = [], []
    for one in assignments:
        if (reason := _refusal(spec, one)) is None:
            allowed.append(one)
        else:
            problems.append(f"{origin}: {one.dotted}: can't be changed: {reason}")
    table = file_table(spec)
    table.pop("baseline", None)
    for one in allowed:
        _assign(table, spec, one)
    try:
        new = parse_spec(table, origin)
    except InputError as error:
        problems += str(error).splitlines()
    else:
        problems += [f"{origin}: {key}: {text}" for key, text in _space_problems(spec, new)]
    if problems:
        raise InputError("\n".join(problems))
    kept = tuple(point for point in spec.baseline if not [*point_problems(new, point)])
    return new.model_copy(update={"baseline": kept})


def _refusal(spec: StudySpec, assignment: Assignment) -> str | None:
    """Why the key may not change; None if it may, or if it is unknown and so refused later."""
    section, *rest = assignment.key
    if section in _SECTIONS:
        return _SECTIONS[section]
    if section in ("study", "trial") and not rest:
        return f"give its keys one by one, such as {section}.KEY=VALUE"
    if section == "study":
        return _STUDY.get(rest[0])
    if section != "trial":
        return None
    setting = _setting(spec, assignment.key)
    if setting is None:
        known = rest[0] in setting_names() or rest[0] == "when"
        return "it is not searched" if known else None
    if isinstance(setting, Choices | Range):
        return None
    return "it is fixed, not searched, so trials with another value would not be comparable"


def _setting(spec: StudySpec, key: Key) -> Setting | None:
    """The setting at or above a key of ``[trial]``; None if there is none."""
    match key[1:]:
        case ["when", decider, choice, name, *_]:
            table = spec.trial.when.get(str(decider), {}).get(str(choice), {})
            return kind_of(str(name)).parse(table[name]) if name in table else None
        case [name, *_] if name in setting_names():
            found: Setting | None = getattr(spec.trial, str(name))
            return found
    return None


def _assign(table: dict[str, Any], spec: StudySpec, assignment: Assignment) -> None:
    """Carry out an assignment in a parsed study file."""
    key, value = assignment
    section = key[0]
    if section in ("sampler", "pruner"):
        name = getattr(spec, section).name
        table.setdefault(section, {"name": name})
        if key[1:] == ("name",) and value not in (DEFAULT, table[section].get("name")):
            table[section] = {}  # drop the options of the previous sampler or pruner
    *above, last = key
    inner = table
    for part in above:
        if not isinstance(inner.get(part), dict):  # an invalid key is refused later
            inner[part] = {}
        inner = inner[part]
    if value is DEFAULT:
        inner.pop(last, None)
    else:
        inner[last] = value
    if section == "trial":
        _drop_unreachable(table["trial"], key[1])


def _drop_unreachable(trial: dict[str, Any], name: str) -> None:
    """Remove the conditions on choices that the setting ``name`` no longer has."""
    tables, choices = trial.get("when", {}).get(name), trial.get(name)
    if not isinstance(tables, dict) or not isinstance(choices, list):
        return
    texts = list(map(str, choices))
    for choice in [choice for choice in tables if choice not in texts]:
        del tables[choice]
    if not tables:
        del trial["when"][name]


def _space_problems(old: StudySpec, new: StudySpec) -> Iterator[tuple[str, str]]:
    """Parts of a valid search space that the previous one does not allow: keys and texts."""
    before, after = _settings(old), _settings(new)
    for key, setting in after.items():
        was = before.get(key)
        if isinstance(was, Choices | Range) and not isinstance(setting, Choices | Range):
            text = f"found {setting!r}, expected a range or a list of choices"
            yield key, f"{text}: it is searched, and must remain so"
        if isinstance(setting, Choices) and isinstance(was, Choices):
            moved = {*filter(is_custom_network, setting.values)}
            moved ^= {*filter(is_custom_network, was.values)}
            if moved:
                text = "custom networks can be neither added nor removed"
                yield key, f"{text}: their code is part of the fingerprint"


def _settings(spec: StudySpec) -> dict[str, Setting]:
    """Every setting of ``[trial]``, conditional ones included, by dotted key."""
    found = {f"trial.{name}": setting for name, setting in spec.trial.settings()}
    for decider in deciders(spec.trial):
        for choice, table in spec.trial.when[decider].items():
            for name, raw in table.items():
                found[f"trial.when.{decider}.{choice}.{name}"] = kind_of(name).parse(raw)
    return found


def changes(old: StudySpec, new: StudySpec) -> list[Change]:
    """Every key that differs, except study.trials."""
    before, after = (flatten(spec.model_dump(mode="json")) for spec in (old, new))
    keys = [key for key in {**before, **after} if key != "study.trials"]
    pairs: Iterator[Change] = (Change(key, before.get(key), after.get(key)) for key in keys)
    return [change for change in pairs if change.old != change.new]
