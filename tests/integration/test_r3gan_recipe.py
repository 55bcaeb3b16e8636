"""A short training by R3GAN's recipe, compared with its definition at every step.

The networks have one or two layers, see ``steps_by_hand``. Six updates of burn-in, then three.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from builders import hyperparameters
from jax import Array
from r3gan_recipe import ema_decay, scheduled
from steps_by_hand import FAST, LinearGenerator, TwoLayerDiscriminator

from tuner.gan.networks import DISCRIMINATORS, GENERATORS
from tuner.gan.state import GanState, init_state
from tuner.gan.step import StepLosses, train_step
from tuner.spec.traits import SCHEDULED
from tuner.trial import Hyperparameters, Program

BATCH, CLASSES, UPDATES, BURN_IN = 4, 3, 9, 24.0
CONSTANT = Program(
    *("linear", "two_layers", 5, 6, (4, 4, 3), BATCH, "relativistic", "adam", "adam", 1, True),
    classes=CLASSES,
    penalties=("r1", "r2"),
    augment=("color",),
    augment_some=True,
)
RECIPE = CONSTANT._replace(schedule="cosine", scheduled=SCHEDULED)
ENDS = {
    "r1": (0.5, 0.05),
    "r2": (0.2, 0.02),
    "beta2": (0.9, 0.99),
    "ema_half_life": (0.0, 20.0),
    "augment_probability": (0.0, 0.9),
    "rate": (0.02, 0.005),
}
BETA2 = ("generator_beta2", "discriminator_beta2")
RATES = ("generator_learning_rate", "discriminator_learning_rate")
NUMBERS = hyperparameters(
    **{name: ENDS[name][0] for name in SCHEDULED if name != "beta2"},
    **{f"{name}_final": ENDS[name][1] for name in SCHEDULED},
    **dict.fromkeys(BETA2, 0.9),
    **dict.fromkeys(RATES, 0.02),
    generator_beta1=0.0,
    discriminator_beta1=0.0,
    dropout=0.0,
    decay_images=BURN_IN,
    final_rate=0.25,
)
rng = np.random.default_rng(0)
REALS = jnp.float32(rng.uniform(-1, 1, (UPDATES, 1, BATCH, 4, 4, 3)))
LABELS = jnp.int32(rng.integers(0, CLASSES, (UPDATES, 1, BATCH)))
step = jax.jit(train_step, static_argnums=0, compiler_options=FAST)


class Update(NamedTuple):
    """One update of the training: the state before and after it, and the values due then."""

    before: GanState
    after: GanState
    losses: StepLosses
    due: dict[str, float]
    number: int


def traced(numbers: Hyperparameters) -> Hyperparameters:
    return Hyperparameters(*map(jnp.float32, numbers))


def small_networks(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(GENERATORS, "linear", LinearGenerator)
    patch.setitem(DISCRIMINATORS, "two_layers", TwoLayerDiscriminator)


@pytest.fixture(scope="module")
def updates() -> Iterator[list[Update]]:
    with pytest.MonkeyPatch.context() as patch:
        small_networks(patch)
        state, found = init_state(RECIPE, NUMBERS, 0), []
        for t in range(UPDATES):
            due = {name: scheduled(*ends, t * BATCH, BURN_IN) for name, ends in ENDS.items()}
            after, losses = step(RECIPE, state, traced(NUMBERS), REALS[t], LABELS[t])
            found.append(Update(state, after, losses, due, t))
            state = after
        yield found


def adam_of(optimizer: Any) -> optax.ScaleByAdamState:
    [found] = [part for part in optimizer if isinstance(part, optax.ScaleByAdamState)]
    return found


def arrays(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]


def test_every_update_is_that_of_a_constant_program_with_the_values_due(
    updates: list[Update],
) -> None:
    for update in updates:
        due = update.due
        h = NUMBERS._replace(
            **{name: due[name] for name in ("r1", "r2", "augment_probability")},
            **dict.fromkeys(BETA2, due["beta2"]),
            **dict.fromkeys(RATES, due["rate"]),
        )
        batch = REALS[update.number], LABELS[update.number]
        expected, losses = step(CONSTANT, update.before, traced(h), *batch)
        np.testing.assert_allclose(update.losses, losses, rtol=1e-5)
        for part in ("generator", "discriminator"):
            pairs = zip(*(arrays(getattr(s, part)) for s in (update.after, expected)), strict=True)
            for ours, theirs in pairs:
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", ["generator", "discriminator"])
def test_adam_moves_by_the_rate_and_beta2_due(updates: list[Update], side: str) -> None:
    """With beta1 = 0 its first moment is the gradient, so that the rest can be computed from it."""
    square = [0 * x for x in arrays(getattr(updates[0].before, side))]
    for t, update in enumerate(updates, 1):
        beta2, rate = update.due["beta2"], update.due["rate"]
        adam = adam_of(getattr(update.after, f"{side}_optimizer"))
        gradients = arrays(adam.mu)
        square = [beta2 * s + (1 - beta2) * g**2 for s, g in zip(square, gradients, strict=True)]
        weights = (arrays(getattr(s, side)) for s in (update.before, update.after))
        for old, new, s, nu, g in zip(*weights, square, arrays(adam.nu), gradients, strict=True):
            np.testing.assert_allclose(nu, s, rtol=1e-4, atol=1e-12)
            move = rate * g / (np.sqrt(s / (1 - beta2**t)) + 1e-7)
            np.testing.assert_allclose(old - new, move, rtol=1e-3, atol=1e-6)


def test_the_average_follows_the_half_life_due(updates: list[Update]) -> None:
    average = arrays(updates[0].before.generator)
    for update in updates:
        decay = ema_decay(update.due["ema_half_life"], BATCH)
        new = arrays(update.after.generator)
        average = [decay * a + (1 - decay) * b for a, b in zip(average, new, strict=True)]
        for ours, expected in zip(arrays(update.after.ema), average, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    first, last = updates[0].after, updates[-1].after
    assert all(
        np.array_equal(a, b)
        for a, b in zip(arrays(first.ema), arrays(first.generator), strict=True)
    ), "a half-life of 0 keeps nothing of the past"
    assert not np.allclose(arrays(last.ema)[0], arrays(last.generator)[0])


def test_final_values_are_ignored_unless_scheduled(monkeypatch: pytest.MonkeyPatch) -> None:
    small_networks(monkeypatch)
    start = init_state(CONSTANT, NUMBERS, 0)
    other = NUMBERS._replace(**{f"{name}_final": 0.123 for name in SCHEDULED}, ema_half_life=1e9)
    found = [step(CONSTANT, start, traced(h), REALS[0], LABELS[0]) for h in (NUMBERS, other)]
    ours, theirs = ([np.asarray(x) for x in leaves(part)] for part in found)
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def leaves(trained: tuple[GanState, StepLosses]) -> list[Array]:
    state, losses = trained
    found: list[Array] = jax.tree.leaves(
        (state._replace(key=jax.random.key_data(state.key)), losses)
    )
    return found
