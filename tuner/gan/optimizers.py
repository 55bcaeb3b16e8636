"""Optimizers as optax chains, built inside the traced code so that every rate may be traced."""

import jax.numpy as jnp
import optax
from jax import Array

from tuner.trial import Hyperparameters

ADAM_EPSILON = 1e-7  # Keras' default, and RMSprop's


def make_optimizer(
    kind: str, learning_rate: float | Array, hyperparameters: Hyperparameters
) -> optax.GradientTransformation:
    """Clip the gradient's global norm, then take a step of ``kind``: adam, sgd or rmsprop."""
    h = hyperparameters
    direction = {
        "adam": lambda: optax.scale_by_adam(h.beta1, h.beta2, eps=ADAM_EPSILON),
        "sgd": lambda: optax.trace(decay=h.momentum),
        "rmsprop": lambda: optax.scale_by_rms(h.rms_decay, eps=ADAM_EPSILON),
    }[kind]()
    return optax.chain(clip_global_norm(h.clip_norm), direction, optax.scale(-learning_rate))


def clip_global_norm(max_norm: float | Array) -> optax.GradientTransformation:
    """Scale gradients down to a joint Euclidean norm of at most ``max_norm``; 0 leaves them alone.

    (optax's own would, given a traced 0, zero them.)
    """

    def update(
        updates: optax.Updates, state: optax.EmptyState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        norm = optax.tree.norm(updates)
        factor = jnp.minimum(1.0, max_norm / jnp.maximum(norm, 1e-30))
        factor = jnp.where(jnp.isfinite(norm), factor, jnp.nan)  # diverged: not to be hidden
        factor = jnp.where(max_norm > 0, factor, 1.0)
        return optax.tree.scale(factor, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
