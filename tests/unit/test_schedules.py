"""Schedules of the learning rates and of other settings."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import r3gan_recipe
from builders import hyperparameters
from r3gan_recipe import PRESETS, Preset, scheduled

from tuner.gan.schedules import at_step, ema_decay, rate_factor
from tuner.spec.traits import SCHEDULED
from tuner.trial import Hyperparameters, Program

PROGRAM = Program(
    *("dcgan", "dcgan", 2, 9, (32, 32, 1), 10, "minimax", "sgd", "sgd"), d_steps=2, ema=False
)  # 20 images per update


@functools.partial(jax.jit, static_argnums=0)
def factors(program: Program, h: Hyperparameters, steps: np.ndarray) -> jax.Array:
    found: jax.Array = jax.vmap(lambda step: rate_factor(program, h, step))(steps)
    return found


def factor(
    schedule: str, steps: list[int], program: Program = PROGRAM, **changes: float
) -> np.ndarray:
    """Factors of the learning rates at these generator updates."""
    h = hyperparameters(
        **{"warmup_images": 0.0, "decay_images": 200.0, "final_rate": 0.0} | changes
    )
    return np.asarray(factors(program._replace(schedule=schedule), h, np.array(steps)))


def test_a_constant_schedule_is_exactly_one() -> None:
    assert (factor("constant", [0, 1, 5, 100_000]) == 1).all()


def test_rates_rise_evenly_over_the_warm_up() -> None:
    """A warm-up of 100 images takes 5 updates."""
    found = factor("constant", [0, 1, 3, 4, 5, 50], warmup_images=100.0)
    np.testing.assert_allclose(found, [0.2, 0.4, 0.8, 1, 1, 1], rtol=1e-6)


def test_rates_fall_once_they_have_risen() -> None:
    """A decay over 200 images takes 10 updates, as in optax's schedules."""
    steps = np.arange(0, 30)
    fall = np.maximum(steps - 5, 0)
    cosine = np.array([optax.cosine_decay_schedule(1.0, 10, alpha=0.1)(n) for n in fall])
    linear = np.array([optax.linear_schedule(1.0, 0.1, 10)(n) for n in fall])
    rise = np.minimum(1, (steps + 1) / 5)
    for name, expected in (("cosine", cosine), ("linear", linear)):
        found = factor(name, list(steps), warmup_images=100.0, final_rate=0.1)
        np.testing.assert_allclose(found, expected * rise, rtol=1e-5)


def test_cosine_with_warm_up_step_by_step() -> None:
    """Five warm-up updates, then ten of a cosine decay to 0.1: as literal values, in closed form,
    and by optax, whose warm-up starts at 0 one update earlier."""
    found = factor("cosine", list(range(18)), warmup_images=100.0, final_rate=0.1)
    literal = [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 0.97797540, 0.91405765, 0.81450334, 0.68905765]
    literal += [0.55, 0.41094235, 0.28549666, 0.18594235, 0.12202460, 0.1, 0.1, 0.1]
    np.testing.assert_allclose(found, literal, rtol=1e-6)
    closed = 0.1 + 0.9 * (1 + np.cos(np.pi * np.arange(11) / 10)) / 2
    np.testing.assert_allclose(found[5:16], closed, rtol=1e-6)
    by_optax = optax.warmup_cosine_decay_schedule(0.0, 1.0, 5, 15, end_value=0.1)
    np.testing.assert_allclose(found[5:], [by_optax(n) for n in range(5, 18)], rtol=1e-6)
    np.testing.assert_allclose(found[:5], [by_optax(n + 1) for n in range(5)], rtol=1e-6)


def test_rates_hold_beyond_32_bits_of_images() -> None:
    """32-bit counts of images would overflow at update 2**25."""
    program = PROGRAM._replace(batch_size=32)  # 64 images per update
    steps = [2**25 - 1, 2**25, 2**25 + 1, 2**27, 2**31 - 1]
    for warm_up in (0.0, 1000.0):
        assert (factor("constant", steps, program, warmup_images=warm_up) == 1).all()
    passed = np.minimum(np.array(steps) / 2**28, 1)
    lengths = {"warmup_images": 0.0, "decay_images": 64.0 * 2**28}
    found = factor("linear", steps, program, **lengths)
    np.testing.assert_allclose(found, 1 - passed, rtol=1e-6)
    found = factor("cosine", steps, program, **lengths)
    np.testing.assert_allclose(found, (1 + np.cos(np.pi * passed)) / 2, rtol=1e-6, atol=1e-6)


@functools.partial(jax.jit, static_argnums=0)
def values(program: Program, h: Hyperparameters, steps: np.ndarray) -> Any:
    """The hyperparameters at these generator updates, and the average's decay there."""

    def at(step: jax.Array) -> Any:
        now = at_step(program, h, step)
        return now, rate_factor(program, h, step), ema_decay(program, now, step)

    return jax.vmap(at)(jnp.asarray(steps))


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_the_authors_schedules_step_by_step(preset: Preset) -> None:
    program = PROGRAM._replace(
        batch_size=preset.batch, d_steps=1, schedule="cosine", scheduled=SCHEDULED
    )
    end = preset.burn_in / preset.batch
    steps = [0, 1, 2, 100, 1000, *(int(share * end) for share in (0.25, 0.5, 0.75, 1.0))]
    steps += [int(end) + 1, int(3 * end)]
    h = hyperparameters(
        **{
            f"{name}_final": getattr(preset, "r1" if name == "r2" else name)[1]
            for name in SCHEDULED
        },
        r1=preset.r1[0],
        r2=preset.r1[0],
        ema_half_life=0.0,
        augment_probability=0.0,
        generator_beta2=preset.beta2[0],
        discriminator_beta2=preset.beta2[0],
        decay_images=preset.burn_in,
        final_rate=0.25,
    )
    now, factor, decay = values(program, h, np.array(steps))
    found = now._asdict() | {"learning_rate": factor * preset.learning_rate[0]}
    same = {"r2": "r1", "generator_beta2": "beta2", "discriminator_beta2": "beta2"}
    names = ("r1", "ema_half_life", "augment_probability", "learning_rate", *same)
    for name in names:
        first, last = getattr(preset, same.get(name, name))
        expected = [scheduled(first, last, t * preset.batch, preset.burn_in) for t in steps]
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, err_msg=name)
    half_lives = [scheduled(*preset.ema_half_life, t * preset.batch, preset.burn_in) for t in steps]
    expected = [r3gan_recipe.ema_decay(x, preset.batch) for x in half_lives]
    # 1e-5 of the half-life is this much of the decay.
    np.testing.assert_allclose(decay, expected, rtol=1e-5, atol=1e-5)


def test_cifars_values_half_way_through_the_burn_in() -> None:
    """As literal values: half a cosine is halfway there."""
    preset = PRESETS["CIFAR-10"]
    halves = [scheduled(first, last, 1e7, 2e7) for first, last in preset[2:]]
    np.testing.assert_allclose(halves, [0.0275, 2.5e6, 0.275, 1.25e-4, 0.945], rtol=1e-12)


def test_a_linear_schedule_and_a_warm_up() -> None:
    """After five updates of warm-up, ten to the final value."""
    program = PROGRAM._replace(schedule="linear", scheduled=("r1",))
    h = hyperparameters(r1=2.0, r1_final=1.0, warmup_images=100.0, decay_images=200.0)
    now, *_ = values(program, h, np.array([0, 4, 5, 6, 10, 15, 16, 99]))
    np.testing.assert_allclose(now.r1, [2, 2, 2, 1.9, 1.5, 1, 1, 1], rtol=1e-6)
    assert (np.asarray(now.r2) == h.r2).all()


def test_without_a_scheduled_setting_nothing_is_computed() -> None:
    h = hyperparameters(r1=2.0, r1_final=1.0)
    assert at_step(PROGRAM._replace(schedule="cosine"), h, jnp.int32(3)) is h


def test_an_average_without_a_schedule_is_warmed_up() -> None:
    _, _, decay = values(PROGRAM, hyperparameters(ema_decay=0.5), np.array([0, 1, 5, 8, 9, 100]))
    np.testing.assert_allclose(decay, [1 / 10, 2 / 11, 6 / 15, 0.5, 0.5, 0.5], rtol=1e-6)
