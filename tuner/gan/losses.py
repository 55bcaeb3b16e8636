"""Adversarial losses, computed stably from logits."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.nn import softplus


class AdversarialLoss(NamedTuple):
    """What D and G minimise, and how their balance is measured.

    ``discriminator`` maps logits of a real and a fake batch to D's loss, ``generator`` logits of
    a fake batch to G's. ``generator_measure`` is the loss by which G's standing is measured: not
    always what G minimises. ``indifference`` holds the values of D's loss and of the measure where
    D outputs 0 for everything, and is None where they say nothing.
    """

    discriminator: Callable[[Array, Array], Array]
    generator: Callable[[Array], Array]
    generator_measure: Callable[[Array], Array]
    indifference: tuple[float, float] | None


def _cross_entropy_d(real: Array, fake: Array) -> Array:
    """-E[log D(x)] - E[log(1 - D(G(z)))], D the logit's sigmoid (Goodfellow et al. 2014, eq. 1)."""
    return jnp.mean(softplus(-real)) + jnp.mean(softplus(fake))


def _minimax_g(fake: Array) -> Array:
    """E[log(1 - D(G(z)))] (Goodfellow et al. 2014, eq. 1)."""
    return -jnp.mean(softplus(fake))


def _non_saturating_g(fake: Array) -> Array:
    """-E[log D(G(z))] (Goodfellow et al. 2014, section 3)."""
    return jnp.mean(softplus(-fake))


_CROSS_ENTROPY_INDIFFERENCE = (2 * math.log(2), math.log(2))

# The minimax loss of G goes to its best value, 0, as D wins and G's gradient dies, so its balance
# is measured by the non-saturating loss: else a dead generator looks healthy.
LOSSES = {
    "minimax": AdversarialLoss(
        _cross_entropy_d, _minimax_g, _non_saturating_g, _CROSS_ENTROPY_INDIFFERENCE
    ),
    "non_saturating": AdversarialLoss(
        _cross_entropy_d, _non_saturating_g, _non_saturating_g, _CROSS_ENTROPY_INDIFFERENCE
    ),
}
