"""Optimizers as optax chains, built inside the traced code so that every rate may be traced.

``tuner.spec.traits.OPTIMIZERS`` lists their names and the settings that each uses.
"""

from typing import Literal

import jax.numpy as jnp
import optax
from jax import Array

from tuner.trial import Hyperparameters, Program

ADAM_EPSILON = 1e-7  # Keras' default, also for RMSprop

Side = Literal["generator", "discriminator"]


def make_optimizer(
    program: Program, h: Hyperparameters, side: Side
) -> optax.GradientTransformation:
    """Clip the global norm of a network's gradient, then take a step of its optimizer.

    adam: Kingma and Ba 2015; adamw: decoupled weight decay, Loshchilov and Hutter 2019; sgd with
    momentum; rmsprop; lion: Chen et al. 2023, with adamw's decay; optimistic_adam: Daskalakis et
    al. 2018. There is no schedule: the caller scales the updates by ``schedules.rate_factor``, and
    passes the hyperparameters of the step. Adam's bias correction uses the ``beta2`` of the step.
    """
    kind = getattr(program, f"{side}_optimizer")
    rate, beta1, beta2 = (
        getattr(h, f"{side}_{name}") for name in ("learning_rate", "beta1", "beta2")
    )
    adam = optax.scale_by_adam(beta1, beta2, eps=ADAM_EPSILON)
    decay = optax.add_decayed_weights(h.weight_decay)
    direction = {
        "adam": [adam],
        "adamw": [adam, decay],
        "sgd": [optax.trace(decay=h.momentum)],
        "rmsprop": [optax.scale_by_rms(h.rms_decay, eps=ADAM_EPSILON)],
        "lion": [optax.scale_by_lion(beta1, beta2), decay],
        "optimistic_adam": [adam, optax.scale_by_optimistic_gradient()],
    }[kind]
    clipped = clip_global_norm(h.clip_norm) if program.clips else optax.identity()
    return optax.chain(clipped, *direction, optax.scale(-rate))


def clip_global_norm(max_norm: float | Array) -> optax.GradientTransformation:
    """Scale gradients down to a joint Euclidean norm of at most ``max_norm``; 0 disables it.

    Given a traced 0, optax's own version would zero the gradients.
    """

    def clip(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        norm = optax.tree.norm(updates)
        factor = jnp.minimum(1.0, max_norm / jnp.maximum(norm, 1e-30))
        factor = jnp.where(jnp.isfinite(norm), factor, jnp.nan)  # do not hide divergence
        factor = jnp.where(max_norm > 0, factor, 1.0)
        return optax.tree.scale(factor, updates)

    return optax.stateless(clip)
