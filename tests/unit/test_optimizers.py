"""Optimizers against their published updates, and learning rate schedules."""

import functools
from collections.abc import Callable
from itertools import pairwise

import jax
import numpy as np
import optax
import pytest
from builders import hyperparameters

from tuner.gan.optimizers import clip_global_norm, make_optimizer, rate_factor
from tuner.spec.traits import OPTIMIZERS
from tuner.trial import Hyperparameters, Program

Tree = dict[str, np.ndarray]
Rule = Callable[[np.ndarray, list[np.ndarray], float, Hyperparameters], np.ndarray]
DEFAULT = hyperparameters()
rng = np.random.default_rng(0)
START: Tree = {"a": rng.normal(size=(2, 3)), "b": rng.normal(size=4)}
GRADIENTS: list[Tree] = [{k: rng.normal(size=v.shape) for k, v in START.items()} for _ in range(3)]


@functools.partial(jax.jit, static_argnums=0)
def steps(
    kind: str, rate: float, h: Hyperparameters, params: Tree, gradients: list[Tree]
) -> optax.Params:
    program = PROGRAM._replace(generator_optimizer=kind, clips=True)
    optimizer = make_optimizer(program, h._replace(generator_learning_rate=rate), "generator")
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def single(tree: Tree) -> Tree:
    return {name: values.astype(np.float32) for name, values in tree.items()}


def run(kind: str, rate: float, h: Hyperparameters, gradients: list[Tree]) -> Tree:
    """Parameters after one step for each gradient."""
    return dict(steps(kind, rate, h, single(START), [single(tree) for tree in gradients]))


def adam(x: np.ndarray, gradients: list[np.ndarray], rate: float, h: Hyperparameters) -> np.ndarray:
    mean = square = np.zeros_like(x)
    for t, g in enumerate(gradients, 1):
        mean = h.generator_beta1 * mean + (1 - h.generator_beta1) * g
        square = h.generator_beta2 * square + (1 - h.generator_beta2) * g**2
        unbiased = mean / (1 - h.generator_beta1**t), square / (1 - h.generator_beta2**t)
        x = x - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-7)
    return x


def sgd(x: np.ndarray, gradients: list[np.ndarray], rate: float, h: Hyperparameters) -> np.ndarray:
    velocity = np.zeros_like(x)
    for g in gradients:
        velocity = h.momentum * velocity + g
        x = x - rate * velocity
    return x


def rmsprop(
    x: np.ndarray, gradients: list[np.ndarray], rate: float, h: Hyperparameters
) -> np.ndarray:
    square = np.zeros_like(x)
    for g in gradients:
        square = h.rms_decay * square + (1 - h.rms_decay) * g**2
        x = x - rate * g / np.sqrt(square + 1e-7)
    return x


def adamw(
    x: np.ndarray, gradients: list[np.ndarray], rate: float, h: Hyperparameters
) -> np.ndarray:
    """Loshchilov and Hutter 2019, algorithm 2: weight decay is not divided by the denominator."""
    for t in range(1, len(gradients) + 1):
        before = adam(0 * x, gradients[: t - 1], 1.0, h)
        x = x + rate * (adam(0 * x, gradients[:t], 1.0, h) - before - h.weight_decay * x)
    return x


def lion(x: np.ndarray, gradients: list[np.ndarray], rate: float, h: Hyperparameters) -> np.ndarray:
    """Chen et al. 2023, algorithm 2."""
    mean = np.zeros_like(x)
    b1, b2 = h.generator_beta1, h.generator_beta2
    for g in gradients:
        x = x - rate * (np.sign(b1 * mean + (1 - b1) * g) + h.weight_decay * x)
        mean = b2 * mean + (1 - b2) * g
    return x


def optimistic_adam(
    x: np.ndarray, gradients: list[np.ndarray], rate: float, h: Hyperparameters
) -> np.ndarray:
    """Daskalakis et al. 2018, algorithm 1: twice the current update minus the previous one. The
    first update is applied once."""
    totals = [adam(0 * x, gradients[:t], 1.0, h) for t in range(len(gradients) + 1)]
    moves = [after - before for before, after in pairwise(totals)]
    for t, move in enumerate(moves):
        x = x + rate * (2 * move - moves[max(t - 1, 0)])
    return x


RULES: dict[str, Rule] = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
    "rmsprop": rmsprop,
    "lion": lion,
    "optimistic_adam": optimistic_adam,
}


def test_every_optimizer_that_a_study_can_name_is_tested() -> None:
    assert tuple(RULES) == tuple(OPTIMIZERS)


@pytest.mark.parametrize(("kind", "rule"), RULES.items())
@pytest.mark.parametrize(
    "h",
    [
        DEFAULT._replace(weight_decay=0.1),
        DEFAULT._replace(generator_beta1=0.0, generator_beta2=0.9, momentum=0.0, rms_decay=0.0),
        DEFAULT._replace(generator_beta1=0.9, generator_beta2=0.0, momentum=0.5, rms_decay=0.99),
    ],
)
@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_three_steps_follow_the_published_rule(
    kind: str, rule: Rule, h: Hyperparameters, rate: float
) -> None:
    found = run(kind, rate, h, GRADIENTS)
    for name, start in START.items():
        expected = rule(start, [g[name] for g in GRADIENTS], rate, h)
        np.testing.assert_allclose(found[name] - start, expected - start, rtol=1e-4, atol=1e-6)


def test_a_rate_of_0_changes_nothing() -> None:
    for kind in OPTIMIZERS:
        for name, values in run(kind, 0.0, DEFAULT, GRADIENTS).items():
            np.testing.assert_array_equal(values, np.float32(START[name]))


def test_the_norm_is_clipped_before_the_step() -> None:
    h = DEFAULT._replace(clip_norm=0.5, momentum=0.0)
    found = run("sgd", 0.1, h, GRADIENTS[:1])
    moved = np.concatenate([(found[name] - START[name]).ravel() for name in START])
    assert np.linalg.norm(moved) == pytest.approx(0.05, rel=1e-5)


@jax.jit
def clip(max_norm: float, tree: Tree) -> optax.Updates:
    clipper = clip_global_norm(max_norm)
    return clipper.update(tree, clipper.init(tree))[0]


TREE = single({"a": np.array([[3.0, 0.0]]), "b": np.array([-4.0])})  # norm 5


@pytest.mark.parametrize("limit", [0.0, 5.0, 5.1, 1e30])
def test_small_norms_are_not_clipped(limit: float) -> None:
    for name, values in dict(clip(limit, TREE)).items():
        np.testing.assert_array_equal(values, TREE[name])


@pytest.mark.parametrize("limit", [1e-6, 0.1, 1.0, 4.9])
def test_clipping_scales_to_the_limit(limit: float) -> None:
    found = dict(clip(limit, TREE))
    for name, values in found.items():
        np.testing.assert_allclose(values, TREE[name] * limit / 5, rtol=1e-6)


@pytest.mark.parametrize("limit", [0.0, 1e-6, 1.0])
def test_clipping_zero_gradients_stays_finite(limit: float) -> None:
    for values in dict(clip(limit, {k: 0 * v for k, v in TREE.items()})).values():
        np.testing.assert_array_equal(values, 0 * values)
        assert np.isfinite(values).all()


def test_clipping_does_not_hide_divergence() -> None:
    updates, _ = clip_global_norm(1.0).update(
        {"a": np.array([1e25, 1.0], np.float32)}, optax.EmptyState()
    )
    assert np.isnan(updates["a"]).all()


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
