"""Losses, penalties, labels, regularisers, rates and precision of a training step.

The networks learn by plain gradient descent, so their weights' changes show what they minimised.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import hyperparameters
from jax import Array
from steps_by_hand import (
    FAST,
    LinearGenerator,
    StepInputs,
    TwoLayerDiscriminator,
    Weights,
    step_by_hand,
)

from tuner.gan.networks import DISCRIMINATORS, GENERATORS
from tuner.gan.state import GanState, init_state
from tuner.gan.step import Batch, StepLosses, _generator_loss, _StepContext, train_step
from tuner.trial import Hyperparameters, Program

BATCH, CLASSES = 4, 3
REALS = jnp.float32(np.random.default_rng(0).uniform(-1, 1, (2, BATCH, 4, 4, 3)))
LABELS = jnp.int32([[0, 1, 2, 1], [2, 0, 0, 1]])
PLAIN = Program(
    *("linear", "two_layers", 5, 6, (4, 4, 3), BATCH, "non_saturating", "sgd", "sgd", 1, False),
    classes=CLASSES,
)
# The cases share few programs, because each takes a second or more to compile.
REGULARISED = PLAIN._replace(
    penalties=("r1", "r2"), flips=True, instance_noise=True, schedule="linear"
)
PAIRED = PLAIN._replace(loss="relativistic", augment=("color",))
CLIPPED = PLAIN._replace(loss="wasserstein", d_steps=2)
BETWEEN = PLAIN._replace(loss="wasserstein_gp", penalties=("gradient_penalty",))
AROUND = BETWEEN._replace(loss="dragan")
NUMBERS = hyperparameters(
    generator_learning_rate=0.5,
    discriminator_learning_rate=0.25,
    momentum=0.0,
    final_rate=1.0,
    dropout=0.0,
    weight_clip=0.3,
)
step = jax.jit(train_step, static_argnums=0, compiler_options=FAST)


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GENERATORS, "linear", LinearGenerator)
    monkeypatch.setitem(DISCRIMINATORS, "two_layers", TwoLayerDiscriminator)


@functools.cache
def initial_state() -> GanState:
    """The initial state, which is the same for all programs."""
    return init_state(PLAIN, NUMBERS, 0)


class Case(NamedTuple):
    """A step: its hyperparameters, its index, and the rate factor and noise expected there."""

    program: Program
    numbers: dict[str, float]
    step: int = 3  # 12 images seen
    rate_factor: float = 1.0  # of the learning rates
    deviation: float = 0.0  # of the instance noise


NOISE = {"instance_noise": 0.4, "total_images": 48.0}
FALL = {"warmup_images": 4.0, "decay_images": 32.0, "final_rate": 0.2}
LONG = {"instance_noise": 0.4, "total_images": 2.0**33}
CASES = {
    "r1 and r2": Case(REGULARISED, {"r1": 0.3, "r2": 0.7}),
    "smoothed labels": Case(REGULARISED, {"label_smoothing": 0.2}),
    "noise at first": Case(REGULARISED, NOISE, 0, deviation=0.4),
    "noise that fades": Case(REGULARISED, {**NOISE, "r1": 0.3}, deviation=0.3),
    "noise at the end": Case(REGULARISED, NOISE, 13),
    "noise after 2**31 images": Case(REGULARISED, LONG, 2**29, deviation=0.3),
    "warm-up": Case(REGULARISED, {"warmup_images": 32.0}, rate_factor=0.5),
    "rates that fall": Case(REGULARISED, FALL, rate_factor=0.8),
    "rates that have fallen": Case(REGULARISED, FALL, 10, rate_factor=0.2),
    "pairs, augmented": Case(PAIRED, {}),
    "weights clipped": Case(CLIPPED, {}),
    "a penalty between": Case(BETWEEN, {"gradient_penalty": 2.0}),
    "a penalty around": Case(AROUND, {"gradient_penalty": 2.0}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_step_matches_the_step_by_hand(case: Case) -> None:
    program, h = case.program, traced(**case.numbers)
    state = initial_state()._replace(step=jnp.int32(case.step))
    batches = REALS[: program.d_steps], LABELS[: program.d_steps]
    new, losses = step(program, state, h, *batches)
    inputs = StepInputs(h, case.rate_factor, case.deviation, *batches)
    generator, discriminator, expected = step_by_hand(program, inputs, state)
    for name, value in expected._asdict().items():
        assert float(getattr(losses, name)) == pytest.approx(float(value), rel=1e-4), name
    assert_moved(state.generator, new.generator, generator)
    assert_moved(state.discriminator, new.discriminator, discriminator)


def traced(**changes: float) -> Hyperparameters:
    return Hyperparameters(*map(jnp.float32, NUMBERS._replace(**changes)))


def assert_moved(before: Any, after: Any, expected: Weights) -> None:
    """Compare weights to within a thousandth of the largest change in their layer."""
    changes = zip(jax.tree.leaves(before), jax.tree.leaves(after), expected, strict=True)
    for was, found, target in changes:
        longest = np.abs(np.asarray(target) - was).max()
        assert longest > 1e-3
        np.testing.assert_allclose(found, target, rtol=0, atol=1e-3 * longest)


def test_real_and_fake_images_are_augmented_independently() -> None:
    """The relativistic loss of equal images is ln 2, unless they are augmented differently."""
    key, state = jax.random.key(0), initial_state()
    for program, equal in ((PAIRED._replace(augment=()), True), (PAIRED, False)):
        context = _StepContext(program, traced(), jnp.int32(0))
        fakes = context.generate(state.generator, LABELS[0], jax.random.split(key)[0])
        batch = Batch(fakes, LABELS[0])
        loss, _ = _generator_loss(context, state, batch, key, state.generator)
        assert (float(loss) == pytest.approx(math.log(2), abs=1e-6)) == equal


def still_step(program: Program, weights: Any, reals: Array) -> tuple[GanState, StepLosses]:
    """Take a step with learning rates of 0."""
    state = initial_state()._replace(generator=weights[0], discriminator=weights[1])
    h = traced(generator_learning_rate=0.0, discriminator_learning_rate=0.0, weight_clip=10.0)
    found: tuple[GanState, StepLosses] = step(program, state, h, reals, LABELS)
    return found


@pytest.mark.parametrize("part", [0, 1, 2], ids=["generator", "discriminator", "images"])
def test_networks_compute_in_bfloat16(part: int) -> None:
    """A change in the eleventh bit is lost in bfloat16, but not in float32 or in the weights."""
    whole = initial_state().generator, initial_state().discriminator, REALS
    coarse = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), whole)
    fine = list(coarse)
    fine[part] = jax.tree.map(lambda x: x * (1 + 2.0**-11), coarse[part])
    for program, same in ((CLIPPED, False), (CLIPPED._replace(precision="bfloat16"), True)):
        (_, at_coarse), (state, at_fine) = (
            still_step(program, weights, reals) for *weights, reals in (coarse, fine)
        )
        assert (float(at_coarse.d_loss) == float(at_fine.d_loss)) == same
        kept, given = (
            jax.tree.leaves(x) for x in ((state.generator, state.discriminator), fine[:2])
        )
        assert all(np.array_equal(a, b) for a, b in zip(kept, given, strict=True))
        assert {x.dtype for x in kept} == {np.dtype(np.float32)}
