"""Conflicts between settings of ``[trial]``, and settings without effect."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tuner.spec.kinds import is_custom_network
from tuner.spec.parameters import Range, Setting, Value, values_of
from tuner.spec.traits import (
    CONDITIONAL,
    DECIDING,
    FINAL,
    LOSSES,
    NETWORKS,
    OPTIMIZERS,
    PENALTIES,
)
from tuner.spec.trial import TrialSection

_SIDES = ("generator", "discriminator")
_PER_NETWORK = ("optimizer", "learning_rate", "beta1", "beta2")  # may be set for each separately
# The settings whose choices decide whether others have an effect.
DECIDING_SETTINGS = (
    *(*DECIDING, "r1", "r2"),
    *(f"{side}_{name}" for side in _SIDES for name in _PER_NETWORK),
)
# These settings are refused if they have no effect, even if they are not searched: they are never
# set by default, so a user who sets one expects a change.
_NEVER_IDLE = (*FINAL, "augment_probability", "augment_target", "augment_images", "burn_in")
# The settings that the functions named ``_..._rules`` read.
_NETWORK_KEYS = (
    "generator",
    "discriminator",
    "generator_norm",
    "discriminator_norm",
    "conditional",
)
_LOSS_KEYS = ("discriminator", "discriminator_norm", "loss", "label_smoothing", *PENALTIES)
_AUGMENT_KEYS = ("augment_target", "augment_probability", "augment_probability_final")
_SCHEDULE_KEYS = ("decay_images", "burn_in", "ema_decay", "ema_half_life", "ema_half_life_final")

Conflict = tuple[tuple[str, ...], str]  # settings, the first of which is reported, and a message


def conflicts(trial: TrialSection) -> list[Conflict]:
    """Every conflict that some trial of the study can have."""
    found: dict[tuple[str, ...], str] = {}
    for names, rules in (
        (_LOSS_KEYS, _loss_rules),
        (_NETWORK_KEYS, _network_rules),
        (_SCHEDULE_KEYS, _schedule_rules),
        (_AUGMENT_KEYS, _augment_rules),
    ):
        settings = [_representatives(getattr(trial, name)) for name in names]
        for values in itertools.product(*settings):
            for involved, text in rules(dict(zip(names, values, strict=True))):
                found.setdefault(involved, text)
    return [*found.items()]


def _representatives(setting: Setting) -> list[Value | None]:
    """One value of each class that the rules distinguish.

    The classes are zero, other numbers, custom networks, and each name. A search over a thousand
    numbers is thus checked as quickly as one over two.
    """
    ends = (setting.low, setting.high) if isinstance(setting, Range) else values_of(setting) or ()
    found: dict[Any, Value | None] = {}
    for value in ends:
        name = "custom" if is_custom_network(value) else value
        found.setdefault(bool(value) if isinstance(value, int | float) else name, value)
    return list(found.values())


def _loss_rules(point: Mapping[str, Any]) -> Iterator[Conflict]:
    """Conflicts of the loss with D's norm and with penalties, at one point."""
    loss, network = point["loss"], point["discriminator"]
    traits = LOSSES[loss]
    default = NETWORKS[network].norms[1] if network in NETWORKS else "none"
    norm = point["discriminator_norm"] or default
    penalties = [name for name in PENALTIES if point[name]]
    batch = 'with "batch" D\'s gradient at an image depends on the whole batch'
    remedy = 'use "none", "layer" or "spectral"'
    if norm == "batch" and (traits.penalised or traits.bounds_gradients):
        text = f'{batch}, which loss = "{loss}" does not allow; {remedy}'
        yield ("discriminator_norm", "loss", "discriminator"), text
    for name in penalties if norm == "batch" else []:
        text = f"{batch}, which {name} = {point[name]:g} does not allow; {remedy}"
        yield ("discriminator_norm", name, "discriminator"), text
    for name in penalties if traits.bounds_gradients else []:
        text = f'found {point[name]:g}, but loss = "{loss}" bounds D\'s gradients itself; use 0'
        yield (name, "loss"), text
    if traits.penalised and point["gradient_penalty"] == 0:
        text = f'found 0, but loss = "{loss}" needs a gradient penalty; use a weight above 0'
        yield ("gradient_penalty", "loss"), text
    smoothing = point["label_smoothing"]
    if smoothing and "label_smoothing" not in traits.uses:
        text = f'found {smoothing:g}, but loss = "{loss}" has no targets to smooth; use 0'
        yield ("label_smoothing", "loss"), text


def _network_rules(point: Mapping[str, Any]) -> Iterator[Conflict]:
    """Conflicts of a network with its norm or with conditioning, at one point."""
    conditional = point["conditional"] == "on"
    for side in _SIDES:
        network, norm = point[side], point[f"{side}_norm"]
        if network not in NETWORKS:
            continue
        if NETWORKS[network].norms_fixed and norm not in (None, "none"):
            text = f'found "{norm}", but {side} = "{network}" takes no norm; use "none"'
            yield (f"{side}_norm", side), text
        if conditional and NETWORKS[network].labels is None:
            text = f'{side} = "{network}" cannot be conditioned on labels'
            yield ("conditional", side), f"{text}; use one of {', '.join(CONDITIONAL)}"
    generator = point["generator"]
    by_norm = generator in NETWORKS and NETWORKS[generator].labels == "norm"
    if conditional and point["generator_norm"] == "none" and by_norm:
        text = f'found "none", but {generator} is conditioned through its batch norm; use "batch"'
        yield ("generator_norm", "conditional", "generator"), text


def _schedule_rules(point: Mapping[str, Any]) -> Iterator[Conflict]:
    """Settings that specify the same length or the same average twice, at one point."""
    if None not in (point["burn_in"], point["decay_images"]):
        text = f"found {point['burn_in']:g}, but decay_images sets the same length; use one of them"
        yield ("burn_in", "decay_images"), text
    for name in ("ema_half_life", "ema_half_life_final"):
        if point[name] and point["ema_decay"]:
            text = f"found {point[name]:g}, but ema_decay = {point['ema_decay']:g}"
            yield (name, "ema_decay"), f"{text} sets the same average; use one of them"


def _augment_rules(point: Mapping[str, Any]) -> Iterator[Conflict]:
    """Settings that specify the probability of augmentation twice, at one point."""
    for name in ("augment_probability", "augment_probability_final"):
        if None not in (point[name], point["augment_target"]):
            text = f"found {point[name]:g}, but augment_target adapts the probability"
            yield (name, "augment_target"), f"{text}; use one of them"


def deliberate_settings(trial: TrialSection) -> dict[str, str]:
    """The settings that must have an effect, each with "searched" or "set"."""
    given = [name for name in _NEVER_IDLE if getattr(trial, name) is not None]
    return dict.fromkeys(given, "set") | dict.fromkeys(trial.searched(), "searched")


def unused(trial: TrialSection) -> dict[str, str]:
    """The settings of ``deliberate_settings`` that have no effect, each with the reason."""
    given = deliberate_settings(trial)
    return {
        name: f"{name} is {given[name]}, but {reason}"
        for name, reason in _without_effect(trial)
        if name in given
    }


def _without_effect(trial: TrialSection) -> Iterator[tuple[str, str]]:
    """Every setting without effect, searched or not, and the reason."""
    for decider, table in DECIDING.items():
        for name in dict.fromkeys(name for entry in table.values() for name in entry.uses):
            if decider == "optimizer":
                yield from _unused_by_optimizers(trial, name)
                continue
            values = values_of(getattr(trial, decider)) or []
            if not any(is_custom_network(v) or name in table[str(v)].uses for v in values):
                yield name, f"{decider} = {_listed(values)} ignores it"
    yield from _unused_by_optimizers(trial, "beta2_final")
    if trial.augment_target is None:
        yield "augment_images", "augment_target is not set"
    for name in ("r1", "r2"):
        if not any(_representatives(getattr(trial, name))):
            yield f"{name}_final", f"{name} = 0 turns the penalty off"
    for name in _PER_NETWORK:
        if not _users(trial, name):
            yield name, f"each network has its own {name}"


def _unused_by_optimizers(trial: TrialSection, name: str) -> Iterator[tuple[str, str]]:
    """An optimizer setting, common or of one network, that no possible optimizer uses."""
    separate = [f"{side}_{name}" for side in _SIDES] if name in _PER_NETWORK else []
    for setting in (name, *separate):
        users = _users(trial, setting)
        kinds = [kind for network in users for kind in _optimizers(trial, network)]
        base = name.removesuffix("_final")
        if users and not any(base in OPTIMIZERS[str(kind)].uses for kind in kinds):
            whose = "" if len(users) == len(_SIDES) else f"the {users[0]}'s "
            yield setting, f"{whose}optimizer = {_listed(kinds)} ignores it"


def _users(trial: TrialSection, name: str) -> list[str]:
    """The networks to which an optimizer setting applies.

    A common setting applies to the networks that do not set their own.
    """
    for side in _SIDES:
        if name.startswith(side):
            return [side]
    return [side for side in _SIDES if getattr(trial, f"{side}_{name}", None) is None]


def _optimizers(trial: TrialSection, side: str) -> Sequence[Value]:
    """The optimizers that a network may be trained with."""
    own = getattr(trial, f"{side}_optimizer")
    return values_of(trial.optimizer if own is None else own) or []


def _listed(values: Sequence[Value]) -> str:
    return " or ".join(f'"{value}"' for value in dict.fromkeys(values))
