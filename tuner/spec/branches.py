"""Conditional search: ``[trial.when.<setting>.<choice>]`` parsed into branches.

The deciding setting is searched as a list of choices in ``[trial]`` itself. A table under one of
its choices overrides, or adds, what is searched where that choice was made. So the search is a
union of branches, one for each combination of the deciding settings' choices, and each branch is a
``[trial]`` section without conditions.

Optuna allows one distribution per name. A setting that a table overrides therefore has a name of
its own in that branch: ``learning_rate[optimizer=sgd]``.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tuner.spec.kinds import nearest, shown
from tuner.spec.parameters import Choices, Range, Setting, Value, values_of
from tuner.spec.sections import Key, Problem
from tuner.spec.trial import TrialSection, kind_of, setting_names

MOST_BRANCHES = 1_000
# Each distinct combination of these settings is a compiled program of its own.
STRUCTURAL = (
    *("generator", "discriminator", "width", "latent_dim", "generator_norm", "discriminator_norm"),
    *("conditional", "precision", "loss", "augment", "flips", "batch_size", "d_steps"),
    *("optimizer", "generator_optimizer", "discriminator_optimizer", "schedule"),
)
SWITCHES = ("gradient_penalty", "r1", "r2", "instance_noise", "ema_decay")  # 0 is off


class Branch(NamedTuple):
    """The part of the search in which the deciding settings have the values ``given``."""

    given: dict[str, Value]
    trial: TrialSection  # without conditions
    names: dict[str, str]  # Optuna's, of the settings that have a name of their own here

    def searched(self) -> dict[str, Choices | Range]:
        """What is searched here in addition to the deciding settings, by Optuna's names."""
        found = self.trial.searched().items()
        return {self.names.get(k, k): setting for k, setting in found if k not in self.given}


@functools.lru_cache(maxsize=16)
def branches(trial: TrialSection) -> tuple[Branch, ...]:
    """Every branch of the search; without conditions one, the whole."""
    deciding = deciders(trial)
    found = []
    for values in itertools.product(*(setting.values for setting in deciding.values())):
        given: dict[str, Value] = dict(zip(deciding, values, strict=True))
        changes: dict[str, Any] = {**given, "when": {}}
        names = {}
        for decider, value in given.items():
            for name, raw in trial.when[decider].get(str(value), {}).items():
                changes[name] = kind_of(name).parse(raw)
                names[name] = f"{name}[{decider}={value}]"
        found.append(Branch(given, trial.model_copy(update=changes), names))
    return tuple(found)


def deciders(trial: TrialSection) -> dict[str, Choices]:
    """The settings that others depend on."""
    settings = {name: getattr(trial, name) for name in trial.when}
    return {name: setting for name, setting in settings.items() if isinstance(setting, Choices)}


def branch_at(trial: TrialSection, params: Mapping[str, Any]) -> Branch | None:
    """The branch in which a point lies; None if a deciding setting is missing, or is none of its
    choices."""
    place = 0
    for name, setting in deciders(trial).items():
        if name not in params or params[name] not in setting.values:
            return None
        place = place * len(setting.values) + setting.values.index(params[name])
    return branches(trial)[place]


def setting_name(name: str) -> str:
    """A setting's name, given Optuna's."""
    return name.partition("[")[0]


def setting_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's parameters under the settings' names, given Optuna's."""
    return {setting_name(name): value for name, value in params.items()}


def optuna_params(trial: TrialSection, point: Mapping[str, Value]) -> dict[str, Value]:
    """A point under Optuna's names, given the settings'."""
    branch = branch_at(trial, point)
    names = {} if branch is None else branch.names
    return {names.get(name, name): value for name, value in point.items()}


def decider_of(trial: TrialSection, name: str) -> str | None:
    """The setting under whose choices a table has ``name``; None if no table has it."""
    found = (d for d, tables in trial.when.items() if any(name in t for t in tables.values()))
    return next(found, None)


def problems(trial: TrialSection) -> list[Problem]:
    """Everything that is wrong with the tables under ``when``."""
    if found := [*_of_each(trial)]:
        return found
    parts = math.prod(len(setting.values) for setting in deciders(trial).values())
    if parts <= MOST_BRANCHES:
        return []
    text = f"found {parts:,} combinations of deciding choices, expected at most {MOST_BRANCHES:,}"
    return [(("trial", "when"), text)]


def _of_each(trial: TrialSection) -> Iterator[Problem]:
    setters: dict[str, str] = {}
    for decider, tables in trial.when.items():
        key: Key = ("trial", "when", decider)
        setting = getattr(trial, decider, None)
        if decider not in setting_names():
            hint = nearest(decider, setting_names())
            yield key, f"unknown key, expected a key of [trial]{hint}"
        elif not isinstance(setting, Choices):
            kind = "a range" if isinstance(setting, Range) else shown(setting)
            text = f"trial.{decider} is {kind}; only a list of choices can decide on other settings"
            yield key, text
        else:
            yield from _of_tables(trial, decider, setting, tables)
        for name in dict.fromkeys(name for table in tables.values() for name in table):
            if setters.setdefault(name, decider) != decider:
                text = f"{name} is also set under {setters[name]}, and both may apply at once"
                yield key, f"{text}; set it under one of them"


def _of_tables(
    trial: TrialSection, decider: str, setting: Choices, tables: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    choices = [str(value) for value in setting.values]
    for choice, table in tables.items():
        key: Key = ("trial", "when", decider, choice)
        if choice not in choices:
            hint = nearest(choice, choices)
            yield key, f"trial.{decider} has no such choice{hint}"
        for name, raw in table.items():
            if name not in setting_names():
                hint = nearest(name, setting_names())
                yield (*key, name), f"unknown key, expected a key of [trial]{hint}"
            elif name in trial.when:
                yield (*key, name), f"other settings depend on {name}; set it in [trial] only"
            else:
                try:
                    kind_of(name).parse(raw)
                except ValueError as error:
                    yield (*key, name), str(error)


def program_count(trial: TrialSection) -> int:
    """The largest number of distinct training programs that a study of this section compiles."""
    total = 0
    for part in (branch.trial for branch in branches(trial)):
        structures = [len(values_of(getattr(part, name)) or []) for name in STRUCTURAL]
        switches = [_positions(getattr(part, name)) for name in SWITCHES]
        total += math.prod(structures + switches)
    return total


def _positions(switch: Setting) -> int:
    """1, or 2 where a search covers both zero and other numbers."""
    values = values_of(switch)
    if isinstance(switch, Range):
        return 2 if switch.low == 0 and (values is None or len(values) > 1) else 1
    return len({bool(value) for value in values or []})
