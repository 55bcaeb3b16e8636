"""Optimizers as optax chains, built inside the traced code so that every rate may be traced."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax import Array

from tuner.trial import Hyperparameters, Program

ADAM_EPSILON = 1e-7  # Keras' default, and RMSprop's
_PI = 3.141592653589793


class Side(NamedTuple):
    """One network's own settings."""

    kind: str
    learning_rate: Array | float
    beta1: Array | float
    beta2: Array | float


def make_optimizers(
    program: Program, h: Hyperparameters
) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """The generator's optimizer, and the discriminator's. Neither has a schedule: see
    ``rate_factor``."""
    generator = Side(
        program.generator_optimizer,
        *(h.generator_learning_rate, h.generator_beta1, h.generator_beta2),
    )
    discriminator = Side(
        program.discriminator_optimizer,
        *(h.discriminator_learning_rate, h.discriminator_beta1, h.discriminator_beta2),
    )
    return make_optimizer(generator, h), make_optimizer(discriminator, h)


def make_optimizer(side: Side, h: Hyperparameters) -> optax.GradientTransformation:
    """Clip the gradient's global norm, then take a step of ``side.kind``.

    adam: Kingma and Ba 2015; adamw: with decoupled weight decay (Loshchilov and Hutter 2019); sgd:
    with momentum; rmsprop; lion: Chen et al. 2023, decay as adamw's; optimistic_adam: Daskalakis
    et al. 2018.
    """
    adam = optax.scale_by_adam(side.beta1, side.beta2, eps=ADAM_EPSILON)
    decay = optax.add_decayed_weights(h.weight_decay)
    direction = {
        "adam": [adam],
        "adamw": [adam, decay],
        "sgd": [optax.trace(decay=h.momentum)],
        "rmsprop": [optax.scale_by_rms(h.rms_decay, eps=ADAM_EPSILON)],
        "lion": [optax.scale_by_lion(side.beta1, side.beta2), decay],
        "optimistic_adam": [adam, optax.scale_by_optimistic_gradient()],
    }[side.kind]
    step = optax.scale(-side.learning_rate)
    return optax.chain(clip_global_norm(h.clip_norm), *direction, step)


def rate_factor(program: Program, h: Hyperparameters, step: Array) -> Array:
    """What share of the learning rates holds at generator update ``step``, counted from 0.

    The rates rise evenly over ``warmup_images`` real images, then fall to ``final_rate`` of
    themselves over ``decay_images``: evenly (linear) or as half a cosine (Loshchilov and Hutter
    2017). (optax's own schedules refuse traced lengths.)
    """
    after = images_seen(program, step + 1.0)
    rising = jnp.minimum(1.0, after / jnp.maximum(h.warmup_images, images_seen(program, 1)))
    if program.schedule == "constant":
        return rising
    passed = (images_seen(program, step) - h.warmup_images) / jnp.maximum(h.decay_images, 1.0)
    passed = jnp.clip(passed, 0.0, 1.0)
    left = 1.0 - passed if program.schedule == "linear" else (1.0 + jnp.cos(_PI * passed)) / 2
    return rising * (h.final_rate + (1.0 - h.final_rate) * left)


def images_seen(program: Program, step: Array | float) -> Array:
    """Real images that ``step`` generator updates, and D's that go with them, have seen: float32.

    A whole number of 32 bits would overflow: after 2**25 updates with batches of 64. Up to 2**24
    images the number is exact, and so it is up to 2**24 updates where each sees a power of two;
    beyond, it is off by a share of 1.2e-7 at most.
    """
    images: Array = jnp.float32(step) * (program.batch_size * program.d_steps)
    return images


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
