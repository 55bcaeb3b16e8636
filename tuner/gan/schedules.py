"""Schedules: learning rates and other settings as functions of the generator update.

Everything follows from the step number, so a resumed trial continues its schedules. The schedules
of optax do not accept traced lengths.
"""

import jax.numpy as jnp
from jax import Array

from tuner.trial import Hyperparameters, Program


def images_seen(program: Program, step: Array | float) -> Array:
    """Real images seen in ``step`` iterations: float32.

    int32 would overflow after 2**25 updates with batches of 64. The number is exact up to 2**24
    images, and up to 2**24 updates if each sees a power of two; beyond that, its relative error is
    at most 1.2e-7.
    """
    images: Array = jnp.float32(step) * (program.batch_size * program.d_steps)
    return images


def rate_factor(program: Program, h: Hyperparameters, step: Array) -> Array:
    """The factor of the learning rates at generator update ``step``, counted from 0.

    The rates rise linearly over ``warmup_images`` real images, then decay to ``final_rate`` of
    their full value over ``decay_images``: linearly, or as half a cosine (Loshchilov and Hutter
    2017).
    """
    after = images_seen(program, step + 1.0)
    rising = jnp.minimum(1.0, after / jnp.maximum(h.warmup_images, images_seen(program, 1)))
    if program.schedule == "constant":
        return rising
    passed = _decay_progress(program, h, step)
    left = 1.0 - passed if program.schedule == "linear" else (1.0 + jnp.cos(jnp.pi * passed)) / 2
    return rising * (h.final_rate + (1.0 - h.final_rate) * left)


def at_step(program: Program, h: Hyperparameters, step: Array) -> Hyperparameters:
    """The hyperparameters at generator update ``step``, counted from 0.

    Settings in ``program.scheduled`` move from their value to their final one along the same curve
    as the decay of the learning rates (Huang et al. 2024: half a cosine), and then stay there.
    """
    if not program.scheduled:
        return h
    passed = _decay_progress(program, h, step)
    # (1 - cos(pi x)) / 2 = sin(pi x / 2)^2, which is also accurate near 0.
    linear = program.schedule == "linear"
    share = passed if linear else jnp.square(jnp.sin(jnp.pi / 2 * passed))
    now = {}
    for name in program.scheduled:
        final = getattr(h, f"{name}_final")
        for field in (f"generator_{name}", f"discriminator_{name}", name):
            if (initial := getattr(h, field, None)) is not None:
                now[field] = initial + share * (final - initial)
    return h._replace(**now)


def ema_decay(program: Program, h: Hyperparameters, step: Array) -> Array:
    """The decay of the generator's moving average at ``step``, given the hyperparameters there.

    With a scheduled half-life, the average forgets half of its content in that many images; a
    half-life that rises from 0 needs no warm-up. Otherwise min(``ema_decay``, (1 + t) / (10 + t)).
    """
    if "ema_half_life" in program.scheduled:
        return jnp.exp2(-images_seen(program, 1) / jnp.maximum(h.ema_half_life, 1e-6))
    return jnp.minimum(h.ema_decay, (1.0 + step) / (10.0 + step))


def _decay_progress(program: Program, h: Hyperparameters, step: Array) -> Array:
    """The share of the decay that has passed, from 0 to 1; the decay follows the warm-up."""
    passed = (images_seen(program, step) - h.warmup_images) / jnp.maximum(h.decay_images, 1.0)
    return jnp.clip(passed, 0.0, 1.0)
