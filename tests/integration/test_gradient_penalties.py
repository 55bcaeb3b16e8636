"""Gradients, penalties and normalisation of critics with known gradients."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from tuner.gan.gradient_penalties import (
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
    return (images * weights).sum((1, 2, 3)), "auxiliary"


def curved(images: Array, weights: Array = WEIGHTS) -> tuple[Array, str]:
    """sum of w x^3 / 3, whose slope is w x^2."""
    return (images**3 * weights).sum((1, 2, 3)) / 3, "auxiliary"


def test_gradients_come_with_logits_and_auxiliary_output() -> None:
    logits, aux, slopes = with_slopes(curved, IMAGES)
    np.testing.assert_allclose(logits, curved(IMAGES)[0], rtol=1e-6)
    np.testing.assert_allclose(slopes, WEIGHTS * IMAGES**2, rtol=1e-5)
    assert aux == "auxiliary"


def test_penalties_agree_with_the_formulas() -> None:
    slopes = np.float64(WEIGHTS * IMAGES**2).reshape(3, -1)
    norms = np.sqrt((slopes**2).sum(1))
    assert float(gradient_penalty(curved, IMAGES)) == pytest.approx(((norms - 1) ** 2).mean(), 1e-5)
    found = squared_slope(with_slopes(curved, IMAGES)[2])
    assert float(found) == pytest.approx((norms**2).mean() / 2, rel=1e-5)


def test_a_linear_critic_is_normalised_by_its_weights() -> None:
    """f = w . x gives f / (|w| + |f|): between -1 and 1, and the slope at f = 0 is w / |w|."""
    logits, aux = normalised(linear)(IMAGES)
    f = np.float64(linear(IMAGES)[0])
    norm = np.linalg.norm(np.float64(WEIGHTS))
    np.testing.assert_allclose(logits, f / (norm + np.abs(f)), rtol=1e-5)
    assert aux == "auxiliary"
    at_zero = jnp.zeros((1, 2, 2, 1))
    _, _, slopes = with_slopes(normalised(linear), at_zero + 1e-7 * WEIGHTS)
    assert float(jnp.linalg.norm(slopes)) == pytest.approx(1, rel=1e-4)


def squared(critic: Critic, images: Array) -> Array:
    return squared_slope(with_slopes(critic, images)[2])


def cross_entropy(critic: Critic, images: Array) -> Array:
    return jnp.mean(jax.nn.softplus(-normalised(critic)(images)[0]))


@pytest.mark.parametrize("loss", [gradient_penalty, squared, cross_entropy])
def test_second_derivatives_agree_with_finite_differences(
    loss: Callable[[Critic, Array], Array],
) -> None:
    """With respect to the critic's weights, on which its slopes depend."""
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


def test_between_interpolates_real_and_fake_images() -> None:
    real, fake = jnp.zeros((500, 2, 2, 1)), jnp.ones((500, 2, 2, 1))
    points = np.asarray(between(real, fake, jax.random.key(0)))
    assert (points == points[:, :1, :1]).all()  # one interpolation weight per image
    assert (points.min(), points.max()) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.02))
    assert points.mean() == pytest.approx(0.5, abs=0.05)


def test_around_perturbs_images_as_dragan_does() -> None:
    """x + a (x_p - x) with x_p = x + std / 2 u, a uniform for each image, u for each pixel.

    Over the pixels of an image the offset, in units of std / 2, has mean a / 2 and variance
    a^2 / 12; over all images it has mean 1 / 4 and variance 1 / 9 - 1 / 16.
    """
    real = jnp.float32(RNG.normal(scale=3, size=(500, 20, 20, 1)))
    difference = np.asarray(around(real, jax.random.key(0)) - real, np.float64)
    offsets = difference.reshape(500, -1) / (0.5 * np.std(real))
    assert offsets.min() >= -1e-6
    assert offsets.mean() == pytest.approx(1 / 4, abs=0.025)
    assert offsets.var() == pytest.approx(1 / 9 - 1 / 16, rel=0.1)
    scales = 2 * offsets.mean(1)
    assert (scales.min(), scales.max()) == (pytest.approx(0, abs=0.02), pytest.approx(1, abs=0.1))
    np.testing.assert_allclose(np.quantile(scales, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.1)
    np.testing.assert_allclose(offsets.std(1), scales / np.sqrt(12), rtol=0.12, atol=1e-3)
    np.testing.assert_allclose(offsets.max(1), scales, rtol=0.13, atol=1e-3)  # of 400 pixels


def test_a_flat_critic_has_a_finite_penalty_and_gradient() -> None:
    def value(weights: Array) -> Array:
        return gradient_penalty(functools.partial(linear, weights=weights), IMAGES)

    found, gradient = jax.value_and_grad(value)(jnp.zeros_like(WEIGHTS))
    assert float(found) == pytest.approx(1, rel=1e-4)
    assert np.isfinite(gradient).all()
