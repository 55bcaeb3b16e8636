"""Settings that apply only with one choice of another: ``[trial.when.<setting>.<choice>]``.

The setting that decides is searched as a list of choices in ``[trial]`` itself. A table under one
of its choices overrides, or adds, what is searched where that choice was made. So the search is a
union of branches, one for each combination of the deciding settings' choices, and each branch is a
``[trial]`` of its own, without conditions.

Optuna wants one distribution for one name. A setting that a table overrides therefore has, in
that branch, a name of its own there: ``learning_rate[optimizer=sgd]``.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tuner.combinations import kind_of, values_of
from tuner.settings import Choices, Range, Setting, Value, nearest, parse_setting
from tuner.spec import TrialSection

Key = tuple[str | int, ...]


class Branch(NamedTuple):
    """A part of the search: where the deciding settings have the values ``given``."""

    given: dict[str, Value]
    trial: TrialSection  # without conditions
    names: dict[str, str]  # Optuna's, of the settings that have one of their own here

    def searched(self) -> dict[str, Choices | Range]:
        """What is searched here beside the deciding settings, by Optuna's names."""
        found = self.trial.searched().items()
        return {self.names.get(k, k): setting for k, setting in found if k not in self.given}


def branches(trial: TrialSection) -> list[Branch]:
    """Every part of the search; without conditions, the whole."""
    deciding = deciders(trial)
    choices = [setting.values for setting in deciding.values()]
    return [
        _branch(trial, dict(zip(deciding, values, strict=True)))
        for values in itertools.product(*choices)
    ]


def deciders(trial: TrialSection) -> dict[str, Choices]:
    """The settings that others depend on."""
    settings = {name: getattr(trial, name) for name in trial.when}
    return {name: setting for name, setting in settings.items() if isinstance(setting, Choices)}


def branch_at(trial: TrialSection, params: Mapping[str, Any]) -> Branch | None:
    """The branch that a point lies in; None where a deciding setting is missing."""
    deciding = deciders(trial)
    if not deciding.keys() <= params.keys():
        return None
    return _branch(trial, {name: params[name] for name in deciding})


def _branch(trial: TrialSection, given: dict[str, Value]) -> Branch:
    changes: dict[str, Setting] = dict(given)
    names = {}
    for decider, value in given.items():
        for name, raw in trial.when[decider].get(str(value), {}).items():
            changes[name] = parse_setting(kind_of(name), raw)
            names[name] = f"{name}[{decider}={value}]"
    return Branch(given, trial.model_copy(update=changes | {"when": {}}), names)


def plain(name: str) -> str:
    """A setting's name from Optuna's."""
    return name.partition("[")[0]


def plain_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's parameters under the settings' names."""
    return {plain(name): value for name, value in params.items()}


def named(trial: TrialSection, point: Mapping[str, Value]) -> dict[str, Value]:
    """A point in the settings' names under Optuna's, as the branch that it lies in has them."""
    branch = branch_at(trial, point)
    names = {} if branch is None else branch.names
    return {names.get(name, name): value for name, value in point.items()}


def decider_of(trial: TrialSection, name: str) -> str | None:
    """The setting under whose choices a table has ``name``; None where no table has it."""
    found = (d for d, tables in trial.when.items() if any(name in t for t in tables.values()))
    return next(found, None)


def undecided(trial: TrialSection, point: Mapping[str, Value]) -> Iterator[tuple[str, str]]:
    """Settings of a point whose meaning hangs on others that the point leaves open."""
    open_ones = [name for name in deciders(trial) if name not in point]
    for decider in open_ones:
        for table in trial.when[decider].values():
            for name in sorted(table.keys() & point.keys()):
                yield name, decider


def problems(trial: TrialSection) -> Iterator[tuple[Key, str]]:
    """Everything that is wrong with the tables under ``when``."""
    setters: dict[str, str] = {}
    for decider, tables in trial.when.items():
        key: Key = ("trial", "when", decider)
        setting = getattr(trial, decider, None)
        if decider not in kinds():
            yield key, f"found an unknown key, expected a key of [trial]{nearest(decider, kinds())}"
        elif not isinstance(setting, Choices):
            text = f"found trial.{decider} = {_shown(setting)}, expected a list of choices"
            yield key, f"{text}, which the tables under it can be about"
        else:
            yield from _of_tables(trial, decider, setting, tables)
        for name in dict.fromkeys(name for table in tables.values() for name in table):
            if setters.setdefault(name, decider) != decider:
                text = f"found {name!r} under {setters[name]!r}, too, expected it under one"
                yield key, f"{text} setting only: both could hold at once"


def _of_tables(
    trial: TrialSection, decider: str, setting: Choices, tables: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[Key, str]]:
    choices = [str(value) for value in values_of(setting) or []]
    for choice, table in tables.items():
        key: Key = ("trial", "when", decider, choice)
        if choice not in choices:
            hint = nearest(choice, choices)
            yield key, f"found a choice that trial.{decider} does not have{hint}"
        for name, raw in table.items():
            if name not in kinds():
                text = f"found an unknown key, expected a key of [trial]{nearest(name, kinds())}"
                yield (*key, name), text
            elif name in trial.when:
                text = "found a setting that others depend on, expected it in [trial] alone"
                yield (*key, name), text
            else:
                try:
                    parse_setting(kind_of(name), raw)
                except ValueError as error:
                    yield (*key, name), str(error)


def kinds() -> list[str]:
    """The names of all settings."""
    return [name for name in TrialSection.model_fields if name != "when"]


def _shown(setting: Any) -> str:
    return "a range" if isinstance(setting, Range) else repr(setting)
