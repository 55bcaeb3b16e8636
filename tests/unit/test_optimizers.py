"""The optimizers against their textbook updates, every rate traced."""

import functools
from collections.abc import Callable

import jax
import numpy as np
import optax
import pytest

from tuner.gan.optimizers import clip_global_norm, make_optimizer
from tuner.trial import Hyperparameters

Tree = dict[str, np.ndarray]
Rule = Callable[[np.ndarray, list[np.ndarray], float, Hyperparameters], np.ndarray]
DEFAULT = Hyperparameters(0.01, 0.02, 0.5, 0.999, 0.9, 0.9, 0.0, 0.0, 0.0)
rng = np.random.default_rng(0)
START: Tree = {"a": rng.normal(size=(2, 3)), "b": rng.normal(size=4)}
GRADIENTS: list[Tree] = [{k: rng.normal(size=v.shape) for k, v in START.items()} for _ in range(3)]


@functools.partial(jax.jit, static_argnums=0)
def steps(
    kind: str, rate: float, h: Hyperparameters, params: Tree, gradients: list[Tree]
) -> optax.Params:
    optimizer = make_optimizer(kind, rate, h)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def single(tree: Tree) -> Tree:
    return {name: values.astype(np.float32) for name, values in tree.items()}


def run(kind: str, rate: float, h: Hyperparameters, gradients: list[Tree]) -> Tree:
    """Parameters after a step along each of ``gradients``."""
    return dict(steps(kind, rate, h, single(START), [single(tree) for tree in gradients]))


def adam(x: np.ndarray, gradients: list[np.ndarray], rate: float, h: Hyperparameters) -> np.ndarray:
    mean = square = np.zeros_like(x)
    for t, g in enumerate(gradients, 1):
        mean = h.beta1 * mean + (1 - h.beta1) * g
        square = h.beta2 * square + (1 - h.beta2) * g**2
        unbiased = mean / (1 - h.beta1**t), square / (1 - h.beta2**t)
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


@pytest.mark.parametrize(("kind", "rule"), [("adam", adam), ("sgd", sgd), ("rmsprop", rmsprop)])
@pytest.mark.parametrize(
    "h",
    [
        DEFAULT,
        DEFAULT._replace(beta1=0.0, beta2=0.9, momentum=0.0, rms_decay=0.0),
        DEFAULT._replace(beta1=0.9, beta2=0.0, momentum=0.5, rms_decay=0.99),
    ],
)
@pytest.mark.parametrize("rate", [0.01, 1.0])
def test_three_steps(kind: str, rule: Rule, h: Hyperparameters, rate: float) -> None:
    found = run(kind, rate, h, GRADIENTS)
    for name, start in START.items():
        expected = rule(start, [g[name] for g in GRADIENTS], rate, h)
        np.testing.assert_allclose(found[name] - start, expected - start, rtol=1e-4, atol=1e-6)


def test_a_rate_of_0_stands_still() -> None:
    for kind in ("adam", "sgd", "rmsprop"):
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
def test_clipping_leaves_alone(limit: float) -> None:
    for name, values in dict(clip(limit, TREE)).items():
        np.testing.assert_array_equal(values, TREE[name])


@pytest.mark.parametrize("limit", [1e-6, 0.1, 1.0, 4.9])
def test_clipping_scales_to_the_limit(limit: float) -> None:
    found = dict(clip(limit, TREE))
    for name, values in found.items():
        np.testing.assert_allclose(values, TREE[name] * limit / 5, rtol=1e-6)


@pytest.mark.parametrize("limit", [0.0, 1e-6, 1.0])
def test_clipping_nothing_stays_finite(limit: float) -> None:
    for values in dict(clip(limit, {k: 0 * v for k, v in TREE.items()})).values():
        np.testing.assert_array_equal(values, 0 * values)
        assert np.isfinite(values).all()


def test_clipping_does_not_hide_divergence() -> None:
    updates, _ = clip_global_norm(1.0).update(
        {"a": np.array([1e25, 1.0], np.float32)}, optax.EmptyState()
    )
    assert np.isnan(updates["a"]).all()
