"""Conditional search: ``[trial.when.<setting>.<choice>]`` parsed into branches.

A deciding setting is a list of choices in ``[trial]`` itself. A table under one of the choices
overrides or adds settings where that choice is drawn. The search is thus a union of branches, one
for each combination of the deciding settings' choices. Each branch is a ``[trial]`` section without
conditions.

Optuna allows one distribution per name. A setting that a table overrides therefore has a separate
name in that branch: ``learning_rate[optimizer=sgd]``.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tuner.spec.kinds import did_you_mean, shown
from tuner.spec.parameters import Choices, Range, Setting, Value, values_of
from tuner.spec.sections import Key, Problem
from tuner.spec.trial import TrialSection, kind_of, setting_names

MAX_BRANCHES = 1_000
# Each distinct combination of these settings compiles its own program.
STRUCTURAL = (
    *("generator", "discriminator", "width", "latent_dim", "generator_norm", "discriminator_norm"),
    *("conditional", "precision", "loss", "augment", "flips", "batch_size", "d_steps"),
    *("optimizer", "generator_optimizer", "discriminator_optimizer", "schedule"),
)
# Settings that 0 turns off, which compiles a different program.
SWITCHES = (
    *("gradient_penalty", "r1", "r2", "instance_noise", "ema_decay", "ema_half_life", "clip_norm"),
)


class Branch(NamedTuple):
    """The part of the search in which the deciding settings have the values ``given``."""

    given: dict[str, Value]
    trial: TrialSection  # without conditions
    names: dict[str, str]  # Optuna's names of the settings that this branch overrides

    def searched(self) -> dict[str, Choices | Range]:
        """The settings searched in addition to the deciding ones, by Optuna's names."""
        found = self.trial.searched().items()
        return {self.names.get(k, k): setting for k, setting in found if k not in self.given}


@functools.lru_cache(maxsize=16)
def branches(trial: TrialSection) -> tuple[Branch, ...]:
    """Every branch of the search: a single one if there are no conditions."""
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
    """The branch that contains a point.

    None if a deciding setting is missing or has a value that is not one of its choices.
    """
    index = 0
    for name, setting in deciders(trial).items():
        if name not in params or params[name] not in setting.values:
            return None
        index = index * len(setting.values) + setting.values.index(params[name])
    return branches(trial)[index]


def setting_name(name: str) -> str:
    """The name of the setting behind an Optuna parameter."""
    return name.partition("[")[0]


def setting_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Rename a trial's Optuna parameters to the settings' names."""
    return {setting_name(name): value for name, value in params.items()}


def optuna_params(trial: TrialSection, point: Mapping[str, Value]) -> dict[str, Value]:
    """Rename the settings of a point to Optuna's names."""
    branch = branch_at(trial, point)
    names = {} if branch is None else branch.names
    return {names.get(name, name): value for name, value in point.items()}


def decider_of(trial: TrialSection, name: str) -> str | None:
    """The deciding setting whose tables set ``name``; None if no table does."""
    found = (d for d, tables in trial.when.items() if any(name in t for t in tables.values()))
    return next(found, None)


def problems(trial: TrialSection) -> list[Problem]:
    """Everything that is wrong with the tables under ``when``."""
    if found := [*_decider_problems(trial)]:
        return found
    count = math.prod(len(setting.values) for setting in deciders(trial).values())
    if count <= MAX_BRANCHES:
        return []
    text = f"found {count:,} combinations of deciding choices, expected at most {MAX_BRANCHES:,}"
    return [(("trial", "when"), text)]


def _decider_problems(trial: TrialSection) -> Iterator[Problem]:
    setters: dict[str, str] = {}
    for decider, tables in trial.when.items():
        key: Key = ("trial", "when", decider)
        setting = getattr(trial, decider, None)
        if decider not in setting_names():
            hint = did_you_mean(decider, setting_names())
            yield key, f"unknown key, expected a key of [trial]{hint}"
        elif not isinstance(setting, Choices):
            kind = "a range" if isinstance(setting, Range) else shown(setting)
            text = f"trial.{decider} is {kind}; only a list of choices can decide on other settings"
            yield key, text
        else:
            yield from _table_problems(trial, decider, setting, tables)
        for name in dict.fromkeys(name for table in tables.values() for name in table):
            if setters.setdefault(name, decider) != decider:
                text = f"{name} is also set under {setters[name]}, and both may apply at once"
                yield key, f"{text}; set it under one of them"


def _table_problems(
    trial: TrialSection, decider: str, setting: Choices, tables: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    choices = [str(value) for value in setting.values]
    for choice, table in tables.items():
        key: Key = ("trial", "when", decider, choice)
        if choice not in choices:
            hint = did_you_mean(choice, choices)
            yield key, f"trial.{decider} has no such choice{hint}"
        for name, raw in table.items():
            if name not in setting_names():
                hint = did_you_mean(name, setting_names())
                yield (*key, name), f"unknown key, expected a key of [trial]{hint}"
            elif name in trial.when:
                yield (*key, name), f"other settings depend on {name}; set it in [trial] only"
            else:
                try:
                    kind_of(name).parse(raw)
                except ValueError as error:
                    yield (*key, name), str(error)


def program_count(trial: TrialSection) -> int:
    """The largest number of distinct programs that a study of this section can compile."""
    total = 0
    for part in (branch.trial for branch in branches(trial)):
        structures = [len(values_of(getattr(part, name)) or []) for name in STRUCTURAL]
        switches = [_switch_states(getattr(part, name)) for name in SWITCHES]
        total += math.prod(structures + switches)
    return total


def structures(trial: TrialSection, known: Mapping[str, Value]) -> Iterator[dict[str, Value]]:
    """One point of the search for each program that agrees with the ``known`` parameters, under
    Optuna's names. A switch that is a range counts as on, which it nearly always is."""
    for given, part, names in branches(trial):
        fixed = {**known, **given}
        if all(known.get(name, value) == value for name, value in given.items()):
            searched = {names.get(name, name): name for name in part.searched()}
            values = [
                [fixed[key]] if key in fixed else _alternatives(name, getattr(part, name))
                for key, name in searched.items()
            ]
            yield from (
                given | dict(zip(searched, v, strict=True)) for v in itertools.product(*values)
            )


def _alternatives(name: str, setting: Choices | Range) -> Sequence[Value]:
    """The values of a searched setting that give different programs."""
    if isinstance(setting, Range) and name not in STRUCTURAL:
        return [setting.high]
    values = values_of(setting) or []
    if name in SWITCHES:
        return list({bool(value): value for value in values}.values())
    return values if name in STRUCTURAL else values[:1]


def _switch_states(switch: Setting) -> int:
    """2 if the search covers both zero and other numbers, else 1."""
    values = values_of(switch)
    if isinstance(switch, Range):
        return 2 if switch.low == 0 and (values is None or len(values) > 1) else 1
    return len({bool(value) for value in values or []})
