"""Optimizers against their published updates."""

import functools
from collections.abc import Callable
from itertools import pairwise

import jax
import numpy as np
import optax
import pytest
from builders import hyperparameters

from tuner.gan.optimizers import clip_global_norm, make_optimizer
from tuner.spec.traits import OPTIMIZERS
from tuner.trial import Hyperparameters, Program

Tree = dict[str, np.ndarray]
Rule = Callable[[np.ndarray, list[np.ndarray], float, Hyperparameters], np.ndarray]
DEFAULT = hyperparameters()
PROGRAM = Program("dcgan", "dcgan", 2, 9, (32, 32, 1), 10, "minimax", "sgd", "sgd", 2, False)
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


def test_adam_with_a_scheduled_beta2_corrects_the_bias_with_the_current_one() -> None:
    """As in PyTorch, where a scheduler sets beta2 before each step: 1 - beta2**t, beta2 of step t.

    The weights of the gradients in the mean square then do not add up to that exactly.
    """
    betas = [0.9, 0.93, 0.96, 0.98, 0.99, 0.99]
    gradients = [GRADIENTS[t % 3] for t in range(len(betas))]
    found = dict(
        scheduled_steps(np.array(betas, np.float32), single(START), [*map(single, gradients)])
    )
    for name, x in START.items():
        square, moved = np.zeros_like(x), np.zeros_like(x)
        for t, (beta2, gradient) in enumerate(zip(betas, gradients, strict=True), 1):
            square = beta2 * square + (1 - beta2) * gradient[name] ** 2
            moved -= 0.01 * gradient[name] / (np.sqrt(square / (1 - beta2**t)) + 1e-7)
        np.testing.assert_allclose(found[name] - x, moved, rtol=1e-4, atol=1e-6)


@jax.jit
def scheduled_steps(betas: np.ndarray, params: Tree, gradients: list[Tree]) -> optax.Params:
    """Steps of Adam with beta1 = 0, each with its own beta2."""
    program = PROGRAM._replace(generator_optimizer="adam")
    state = make_optimizer(program, DEFAULT, "generator").init(params)
    numbers = {"generator_beta1": 0.0, "generator_learning_rate": 0.01}
    for t, gradient in enumerate(gradients):
        h = DEFAULT._replace(**numbers, generator_beta2=betas[t])
        updates, state = make_optimizer(program, h, "generator").update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


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
