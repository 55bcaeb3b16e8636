"""Which settings of ``[trial]`` make no sense together; what kinds and values they have."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from tuner.settings import Choices, Kind, Range, Setting, Value, is_own_network
from tuner.spec import (
    CONDITIONAL,
    DROPPING,
    OWN_NORMS,
    PENALISED,
    PENALTIES,
    SMOOTHED,
    TrialSection,
)

_NETWORKS = ("generator", "discriminator")
_APART = ("optimizer", "learning_rate", "beta1", "beta2")  # may be set for each network apart
_ADAMS = ("adam", "adamw", "lion", "optimistic_adam")
_BETAS = [f"{of}{beta}" for of in ("", "generator_", "discriminator_") for beta in _APART[2:]]
_BELONGS_TO_OPTIMIZER = {
    **dict.fromkeys(_BETAS, _ADAMS),
    "momentum": ("sgd",),
    "rms_decay": ("rmsprop",),
    "weight_decay": ("adamw", "lion"),
}
_BELONGS_TO = {
    "weight_clip": ("loss", ("wasserstein",)),
    "label_smoothing": ("loss", SMOOTHED),
    "decay_images": ("schedule", ("linear", "cosine")),
    "final_rate": ("schedule", ("linear", "cosine")),
    "dropout": ("discriminator", DROPPING),
}
# What decides whether a setting is used.
DECIDING_USE = (
    *("loss", "schedule", "discriminator", "optimizer"),
    *(f"{network}_{name}" for network in _NETWORKS for name in _APART),
)
# What the rules below look at.
_DECISIVE = (
    *("generator", "discriminator", "generator_norm", "discriminator_norm", "conditional", "loss"),
    *("gradient_penalty", "r1", "r2", "label_smoothing"),
)


def senseless(trial: TrialSection) -> Iterator[tuple[str, str, list[str]]]:
    """Every contradiction that a trial can run into: the key, what is wrong, and between which
    keys."""
    found: dict[tuple[str, ...], tuple[str, str]] = {}
    settings = [_extremes(getattr(trial, name)) for name in _DECISIVE]
    for values in itertools.product(*settings):
        for names, text in _contradictions(dict(zip(_DECISIVE, values, strict=True))):
            found.setdefault(tuple(names), (names[0], text))
    for between, (key, text) in found.items():
        yield key, text, list(between)


def _extremes(setting: Setting) -> Sequence[Value]:
    return [setting.low, setting.high] if isinstance(setting, Range) else values_of(setting) or []


def _contradictions(at: Mapping[str, Any]) -> Iterator[tuple[list[str], str]]:
    """What is wrong with the settings ``at`` one point: the keys, the first of which is to blame,
    and why."""
    loss, network = at["loss"], at["discriminator"]
    norm = at["discriminator_norm"] or OWN_NORMS.get(network, ("none", "none"))[1]
    penalties = [name for name in PENALTIES if at[name]]
    with_loss = f"found {norm!r} with loss = {loss!r}"
    slopes = "its slopes at an image would depend on the batch; expected 'none', 'layer' or"
    if norm == "batch" and loss in (*PENALISED, "gradient_normalized"):
        names = ["discriminator_norm", "loss", "discriminator"]
        yield names, f"{with_loss}: {slopes} 'spectral'"
    for name in penalties if norm == "batch" else []:
        names = ["discriminator_norm", name, "discriminator"]
        yield names, f"found 'batch' with {name} = {at[name]:g}: {slopes} 'spectral'"
    for name in penalties if loss == "gradient_normalized" else []:
        text = f"found {at[name]:g} with loss = {loss!r}, which bounds D's slopes itself"
        yield [name, "loss"], f"{text}; expected 0"
    if loss in PENALISED and at["gradient_penalty"] == 0:
        text = f"found 0 with loss = {loss!r}, whose point it is; expected a weight above 0"
        yield ["gradient_penalty", "loss"], text
    if at["label_smoothing"] and loss not in SMOOTHED:
        text = f"found {at['label_smoothing']:g} with loss = {loss!r}, which has no target"
        yield ["label_smoothing", "loss"], f"{text} to smooth; expected 0"
    yield from _networks(at)


def _networks(at: Mapping[str, Any]) -> Iterator[tuple[list[str], str]]:
    """What is wrong with a network and its norm, or with telling it the labels."""
    for name in ("generator", "discriminator"):
        network, norm = at[name], at[f"{name}_norm"]
        if network == "r3gan" and norm not in (None, "none"):
            text = f"found {norm!r} with {name} = 'r3gan', whose depth relies on none"
            yield [f"{name}_norm", name], f"{text}; expected 'none'"
        told = at["conditional"] == "on"
        if told and not is_own_network(network) and network not in CONDITIONAL:
            text = f"found 'on' with {name} = {network!r}, which takes no labels"
            yield ["conditional", name], f"{text}; expected one of {', '.join(CONDITIONAL)}"
    generator = at["generator"]
    by_norm = generator in CONDITIONAL and generator != "r3gan"
    if at["conditional"] == "on" and at["generator_norm"] == "none" and by_norm:
        text = f"found 'none' with conditional = 'on': {generator} is told labels by its norm"
        yield ["generator_norm", "conditional", "generator"], f"{text}; expected 'batch'"


def idle(trial: TrialSection) -> dict[str, str]:
    """Settings that are searched and change nothing would waste the search: why, by name."""
    searched = trial.searched()
    return {
        name: f"found a search that {cause} leaves idle"
        for name, cause in _causes(trial)
        if name in searched
    }


def _causes(trial: TrialSection) -> Iterator[tuple[str, str]]:
    """Every setting that changes nothing, searched or not, and what leaves it idle."""
    for name, (decider, of) in _BELONGS_TO.items():
        values = values_of(getattr(trial, decider)) or []
        if not any(value in of or is_own_network(value) for value in values):
            yield name, f"{decider} = {_listed(values)}"
    for name, of in _BELONGS_TO_OPTIMIZER.items():
        users = _users(trial, name)
        kinds = [kind for network in users for kind in _optimizers(trial, network)]
        if users and not set(of) & set(kinds):
            whose = "" if len(users) == len(_NETWORKS) else f"the {users[0]}'s "
            yield name, f"{whose}optimizer = {_listed(kinds)}"
    for name in _APART:
        if not _users(trial, name):
            yield name, f"a separate {name} for each network"


def _users(trial: TrialSection, name: str) -> list[str]:
    """The networks that go by an optimizer's setting: one that is of a network alone is that
    network's, any other is of those without their own."""
    for network in _NETWORKS:
        if name.startswith(network):
            return [network]
    return [n for n in _NETWORKS if getattr(trial, f"{n}_{name}", None) is None]


def _optimizers(trial: TrialSection, network: str) -> Sequence[Value]:
    """All that a network may be trained with."""
    own = getattr(trial, f"{network}_optimizer")
    return values_of(trial.optimizer if own is None else own) or []


def _listed(values: Sequence[Value]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def kind_of(name: str) -> Kind:
    """What values the trial's setting ``name`` may have."""
    kinds = [m for m in TrialSection.model_fields[name].metadata if isinstance(m, Kind)]
    return kinds[0]


def values_of(setting: Setting) -> Sequence[Value] | None:
    """Every value the setting can take, in order, or None where they are a continuum."""
    if isinstance(setting, Choices):
        return setting.values
    if not isinstance(setting, Range):
        return [setting]
    low, high, _, step = setting
    if isinstance(low, int):
        return range(low, int(high) + 1, int(step or 1))
    if step is None:
        return None
    # In decimal, as the file is written: 0.1 * 3 is to be 0.3.
    start, end, width = (Decimal(str(number)) for number in (low, high, step))
    return [float(start + i * width) for i in range(int((end - start) / width) + 1)]
