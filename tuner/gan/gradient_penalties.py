"""Penalties on, and normalisation by, the gradient of a discriminator at images.

A critic is a function from images (batch, h, w, c) to logits (batch,) and auxiliary output. Each
logit depends on its own image only. Slopes are the gradients of the logits at the images.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Critic = Callable[[Array], tuple[Array, Any]]

_SMALL = 1e-12  # added under square roots, whose gradient is infinite at 0


def with_slopes(critic: Critic, images: Array) -> tuple[Array, Any, Array]:
    """Logits (batch,), auxiliary output and slopes (batch, h, w, c), in one pass."""

    def total(images: Array) -> tuple[Array, tuple[Array, Any]]:
        logits, auxiliary = critic(images)
        return logits.sum(), (logits, auxiliary)

    slopes, (logits, auxiliary) = jax.grad(total, has_aux=True)(images)
    return logits, auxiliary, slopes


def normalised(critic: Critic) -> Critic:
    """The critic f / (|grad f| + |f|), with bounded slopes and logits from -1 to 1.

    GN-GAN: Wu et al. 2021.
    """

    def bounded(images: Array) -> tuple[Array, Any]:
        logits, auxiliary, slopes = with_slopes(critic, images)
        return logits / (_norms(slopes) + jnp.abs(logits)), auxiliary

    return bounded


def gradient_penalty(critic: Critic, points: Array) -> Array:
    """E[(|grad f| - 1)^2] at ``points`` (Gulrajani et al. 2017, eq. 3)."""
    return jnp.mean(jnp.square(_norms(with_slopes(critic, points)[2]) - 1.0))


def squared_slope(slopes: Array) -> Array:
    """E[|grad f|^2] / 2: R1 at real images, R2 at fake ones.

    Mescheder et al. 2018, equations 9 and 10.
    """
    return jnp.mean(jnp.sum(jnp.square(slopes), axis=range(1, slopes.ndim))) / 2


def between(real: Array, fake: Array, key: Array) -> Array:
    """A random point on the line from each real image to a fake one.

    Gulrajani et al. 2017, section 4.
    """
    share = _shares(real, key)
    return share * real + (1.0 - share) * fake


def around(real: Array, key: Array) -> Array:
    """A random point on the line from each real image to a perturbed copy of it.

    The perturbation raises each pixel by up to half of the batch's standard deviation (Kodali et
    al. 2017, as run by Lucic et al. 2018). They penalise the slopes of D's probability; this
    penalises those of its logit.
    """
    noise_key, share_key = jax.random.split(key)
    noise = 0.5 * real.std() * jax.random.uniform(noise_key, real.shape)
    return real + _shares(real, share_key) * noise


def _shares(images: Array, key: Array) -> Array:
    """Uniform positions on the lines, one per image: (batch, 1, 1, 1) from 0 to 1."""
    return jax.random.uniform(key, (len(images), *[1] * (images.ndim - 1)))


def _norms(slopes: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(slopes), axis=range(1, slopes.ndim)) + _SMALL)
