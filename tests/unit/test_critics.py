"""Slopes, penalties and normalisation of critics whose gradients are known in closed form."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from tuner.gan.critics import (
    Critic,
    around,
    between,
    gradient_penalty,
    normalised,
    squared_slope,
    with_slopes,
)

RNG = np.random.default_rng(0)
IMAGES = jnp.float32(RNG.normal(size=(3, 2, 2, 1)))
WEIGHTS = jnp.float32(RNG.normal(size=(2, 2, 1)))


def linear(images: Array, weights: Array = WEIGHTS) -> tuple[Array, str]:
    """w . x, whose slope is w everywhere."""
    return (images * weights).sum((1, 2, 3)), "said"


def curved(images: Array, weights: Array = WEIGHTS) -> tuple[Array, str]:
    """sum of w x^3 / 3, whose slope is w x^2."""
    return (images**3 * weights).sum((1, 2, 3)) / 3, "said"


def test_slopes_come_with_the_logits_and_what_else_is_said() -> None:
    logits, said, slopes = with_slopes(curved, IMAGES)
    np.testing.assert_allclose(logits, curved(IMAGES)[0], rtol=1e-6)
    np.testing.assert_allclose(slopes, WEIGHTS * IMAGES**2, rtol=1e-5)
    assert said == "said"


def test_penalties_by_hand() -> None:
    slopes = np.float64(WEIGHTS * IMAGES**2).reshape(3, -1)
    norms = np.sqrt((slopes**2).sum(1))
    assert float(gradient_penalty(curved, IMAGES)) == pytest.approx(((norms - 1) ** 2).mean(), 1e-5)
    found = squared_slope(with_slopes(curved, IMAGES)[2])
    assert float(found) == pytest.approx((norms**2).mean() / 2, rel=1e-5)


def test_a_linear_critic_is_normalised_by_its_weights() -> None:
    """f = w . x gives f / (|w| + |f|): between -1 and 1, and the slope at f = 0 is w / |w|."""
    logits, said = normalised(linear)(IMAGES)
    f = np.float64(linear(IMAGES)[0])
    norm = np.linalg.norm(np.float64(WEIGHTS))
    np.testing.assert_allclose(logits, f / (norm + np.abs(f)), rtol=1e-5)
    assert said == "said"
    on_the_edge = jnp.zeros((1, 2, 2, 1))
    _, _, slopes = with_slopes(normalised(linear), on_the_edge + 1e-7 * WEIGHTS)
    assert float(jnp.linalg.norm(slopes)) == pytest.approx(1, rel=1e-4)


def squared(critic: Critic, images: Array) -> Array:
    return squared_slope(with_slopes(critic, images)[2])


def cross_entropy(critic: Critic, images: Array) -> Array:
    return jnp.mean(jax.nn.softplus(-normalised(critic)(images)[0]))


@pytest.mark.parametrize("loss", [gradient_penalty, squared, cross_entropy])
def test_second_derivatives_are_those_of_finite_differences(
    loss: Callable[[Critic, Array], Array],
) -> None:
    """In the critic's own weights, which enter through its slopes."""
    with jax.enable_x64(True):
        weights, images = (jnp.asarray(np.float64(x)) for x in (WEIGHTS, IMAGES))

        def value(weights: Array) -> Array:
            return loss(functools.partial(curved, weights=weights), images)

        gradient = np.asarray(jax.grad(value)(weights))
        for place in np.ndindex(weights.shape):
            step = jnp.zeros_like(weights).at[place].set(1e-4)
            expected = (value(weights + step) - value(weights - step)) / 2e-4
            assert gradient[place] == pytest.approx(float(expected), rel=1e-5, abs=1e-7)
    assert np.abs(gradient).max() > 1e-3


def test_points_between() -> None:
    real, fake = jnp.zeros((500, 2, 2, 1)), jnp.ones((500, 2, 2, 1))
    points = np.asarray(between(real, fake, jax.random.key(0)))
    assert (points == points[:, :1, :1]).all()  # one share for an image
    assert (points.min(), points.max()) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.02))
    assert points.mean() == pytest.approx(0.5, abs=0.05)


def test_points_around() -> None:
    """x + a (x_p - x), with x_p = x + std / 2 u: a is one number an image, u one a pixel, both
    evenly from 0 to 1. So over pixels an image's moves, in units of std / 2, have mean a / 2 and
    variance a^2 / 12; over all, a u has mean 1 / 4 and variance 1 / 9 - 1 / 16."""
    real = jnp.float32(RNG.normal(scale=3, size=(500, 20, 20, 1)))
    moved = np.asarray(around(real, jax.random.key(0)) - real, np.float64)
    moves = moved.reshape(500, -1) / (0.5 * np.std(real))
    assert moves.min() >= -1e-6
    assert moves.mean() == pytest.approx(1 / 4, abs=0.025)
    assert moves.var() == pytest.approx(1 / 9 - 1 / 16, rel=0.1)
    shares = 2 * moves.mean(1)
    assert (shares.min(), shares.max()) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.1))
    np.testing.assert_allclose(np.quantile(shares, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.1)
    np.testing.assert_allclose(moves.std(1), shares / np.sqrt(12), rtol=0.12, atol=1e-3)
    np.testing.assert_allclose(moves.max(1), shares, rtol=0.13, atol=1e-3)  # of 400 pixels


def test_a_flat_critic_has_a_finite_penalty_and_gradient() -> None:
    def value(weights: Array) -> Array:
        return gradient_penalty(functools.partial(linear, weights=weights), IMAGES)

    found, gradient = jax.value_and_grad(value)(jnp.zeros_like(WEIGHTS))
    assert float(found) == pytest.approx(1, rel=1e-4)
    assert np.isfinite(gradient).all()
