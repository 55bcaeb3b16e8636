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
    al. 2018. There is no schedule: the caller scales the updates by ``rate_factor``.
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


def rate_factor(program: Program, h: Hyperparameters, step: Array) -> Array:
    """The factor of the learning rates at generator update ``step``, counted from 0.

    The rates rise linearly over ``warmup_images`` real images, then decay to ``final_rate`` of
    their full value over ``decay_images``: linearly, or as half a cosine (Loshchilov and Hutter
    2017). The schedules of optax do not accept traced lengths.
    """
    after = images_seen(program, step + 1.0)
    rising = jnp.minimum(1.0, after / jnp.maximum(h.warmup_images, images_seen(program, 1)))
    if program.schedule == "constant":
        return rising
    passed = (images_seen(program, step) - h.warmup_images) / jnp.maximum(h.decay_images, 1.0)
    passed = jnp.clip(passed, 0.0, 1.0)
    left = 1.0 - passed if program.schedule == "linear" else (1.0 + jnp.cos(jnp.pi * passed)) / 2
    return rising * (h.final_rate + (1.0 - h.final_rate) * left)


def images_seen(program: Program, step: Array | float) -> Array:
    """Real images seen in ``step`` iterations: float32.

    int32 would overflow after 2**25 updates with batches of 64. The number is exact up to 2**24
    images, and up to 2**24 updates if each sees a power of two; beyond that, its relative error is
    at most 1.2e-7.
    """
    images: Array = jnp.float32(step) * (program.batch_size * program.d_steps)
    return images


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
