"""Adversarial losses, computed stably from logits.

``tuner.spec.traits.LOSSES`` lists their names, and what each needs and allows.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.nn import relu, softplus


class AdversarialLoss(NamedTuple):
    """The losses of D and G, and how their balance is measured.

    ``discriminator`` maps the logits of a real and of a fake batch, and the label smoothing, to D's
    loss. ``generator`` maps the logits of a fake and of a real batch to G's loss; it reads the real
    ones only if the loss is ``relative``. ``generator_measure`` has the same arguments and measures
    how well G does; it may differ from the loss that G minimises. ``indifference`` holds the values
    of D's loss and of the measure when D cannot tell real from fake; None if there are none.
    ``penalty_points`` says where the gradient penalty is taken: between real and fake images, or
    around real ones.
    """

    discriminator: Callable[[Array, Array, Array | float], Array]
    generator: Callable[[Array, Array], Array]
    generator_measure: Callable[[Array, Array], Array]
    indifference: tuple[float, float] | None
    relative: bool = False
    penalty_points: Literal["between", "around"] = "between"


def _cross_entropy_d(real: Array, fake: Array, smoothing: Array | float) -> Array:
    """-E[log D(x)] - E[log(1 - D(G(z)))], D the logit's sigmoid (Goodfellow et al. 2014, eq. 1).

    The real images' target is 1 - ``smoothing`` (Salimans et al. 2016, section 3.4).
    """
    return jnp.mean(softplus(-real) + smoothing * real) + jnp.mean(softplus(fake))


def _minimax_g(fake: Array, real: Array) -> Array:
    """E[log(1 - D(G(z)))] (Goodfellow et al. 2014, eq. 1)."""
    return -jnp.mean(softplus(fake))


def _non_saturating_g(fake: Array, real: Array) -> Array:
    """-E[log D(G(z))] (Goodfellow et al. 2014, section 3)."""
    return jnp.mean(softplus(-fake))


def _least_squares_d(real: Array, fake: Array, smoothing: Array | float) -> Array:
    """E[(D(x) - 1)^2] / 2 + E[D(G(z))^2] / 2 (Mao et al. 2017, eq. 9).

    The real images' target is 1 - ``smoothing``.
    """
    target = 1.0 - smoothing
    return (jnp.mean(jnp.square(real - target)) + jnp.mean(jnp.square(fake))) / 2


def _least_squares_g(fake: Array, real: Array) -> Array:
    """E[(D(G(z)) - 1)^2] / 2 (Mao et al. 2017, eq. 9)."""
    return jnp.mean(jnp.square(fake - 1.0)) / 2


def _hinge_d(real: Array, fake: Array, smoothing: Array | float) -> Array:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))] (Lim and Ye 2017; Miyato et al. 2018)."""
    return jnp.mean(relu(1.0 - real)) + jnp.mean(relu(1.0 + fake))


def _wasserstein_d(real: Array, fake: Array, smoothing: Array | float) -> Array:
    """E[D(G(z))] - E[D(x)] (Arjovsky et al. 2017, eq. 2)."""
    return jnp.mean(fake) - jnp.mean(real)


def _mean_critic_g(fake: Array, real: Array) -> Array:
    """-E[D(G(z))], for the hinge and the Wasserstein loss."""
    return -jnp.mean(fake)


def _relativistic_d(real: Array, fake: Array, smoothing: Array | float) -> Array:
    """E[softplus(D(G(z)) - D(x))] over pairs (RpGAN).

    Jolicoeur-Martineau 2019; Huang et al. 2024.
    """
    return jnp.mean(softplus(fake - real))


def _relativistic_g(fake: Array, real: Array) -> Array:
    """E[softplus(D(x) - D(G(z)))] over pairs."""
    return jnp.mean(softplus(real - fake))


_NON_SATURATING = AdversarialLoss(
    _cross_entropy_d, _non_saturating_g, _non_saturating_g, (2 * math.log(2), math.log(2))
)
_WASSERSTEIN = AdversarialLoss(_wasserstein_d, _mean_critic_g, _mean_critic_g, None)

# As D wins, G's minimax loss approaches its best value while its gradient vanishes, so a dead
# generator would look healthy. Its balance is therefore measured by the non-saturating loss.
LOSSES = {
    "minimax": _NON_SATURATING._replace(generator=_minimax_g),
    "non_saturating": _NON_SATURATING,
    # At indifference D's best answer is 1/2 for everything (Mao et al. 2017, section 3.3).
    "least_squares": AdversarialLoss(
        _least_squares_d, _least_squares_g, _least_squares_g, (1 / 4, 1 / 8)
    ),
    "hinge": AdversarialLoss(_hinge_d, _mean_critic_g, _mean_critic_g, None),
    "wasserstein": _WASSERSTEIN,  # with D's weights clipped
    "wasserstein_gp": _WASSERSTEIN,  # with a gradient penalty
    "dragan": _NON_SATURATING._replace(penalty_points="around"),
    "relativistic": AdversarialLoss(
        _relativistic_d, _relativistic_g, _relativistic_g, (math.log(2), math.log(2)), relative=True
    ),
    # On logits normalised by their gradients: see gradient_penalties.normalised.
    "gradient_normalized": _NON_SATURATING,
}
