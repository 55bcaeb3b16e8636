"""Augmentation of the images that the discriminator sees: DiffAugment, ADA, flips and noise."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from tuner.gan.state import AdaptiveAugmentation
from tuner.trial import Hyperparameters, Program

_ADAPTED_EVERY = 4  # updates of the generator


def differentiable(
    images: Array, policies: Sequence[str], key: Array, probability: Array | float | None = None
) -> Array:
    """DiffAugment of images (batch, h, w, c) in [-1, 1], each image independently.

    ``color`` shifts brightness by up to 0.5 and scales saturation by 0 to 2 and contrast by 0.5 to
    1.5. ``translation`` shifts by up to an eighth of the size and fills with grey. ``cutout``
    covers a square of half the size with grey. The ``policies`` are applied in this order (Zhao et
    al. 2020, section 3.2 and appendix). Given a ``probability``, all of them are applied to an
    image with this probability, and none otherwise.
    """
    kinds = {"color": _color, "translation": _translation, "cutout": _cutout}
    changed = images
    for i, (name, change) in enumerate(kinds.items()):
        if name in policies:
            changed = change(changed, jax.random.fold_in(key, i))
    if probability is None:
        return changed
    folded = jax.random.fold_in(key, len(kinds))
    return jnp.where(
        jax.random.bernoulli(folded, probability, (len(images), 1, 1, 1)), changed, images
    )


def adapted(
    program: Program, h: Hyperparameters, now: AdaptiveAugmentation, sign: Array, step: Array
) -> AdaptiveAugmentation:
    """The probability after generator update ``step``, in which the mean sign of D's logits on real
    images was ``sign``.

    Adaptive discriminator augmentation (Karras et al. 2020, section 3.2, with the heuristic r_t):
    every four updates the probability rises if the average sign in these updates is above
    ``augment_target``, which indicates that D overfits, and falls otherwise. It can rise from 0 to
    1 within ``augment_images`` real images.
    """
    signs = now.signs + sign
    images = _ADAPTED_EVERY * program.batch_size * program.d_steps
    change = jnp.sign(signs / _ADAPTED_EVERY - h.augment_target) * (images / h.augment_images)
    due = (step + 1) % _ADAPTED_EVERY == 0
    return AdaptiveAugmentation(
        jnp.where(due, jnp.clip(now.probability + change, 0.0, 1.0), now.probability),
        jnp.where(due, 0.0, signs),
    )


def _color(images: Array, key: Array) -> Array:
    brightness, saturation, contrast = jax.random.uniform(key, (3, len(images), 1, 1, 1))
    images = images + (brightness - 0.5)
    grey = images.mean(3, keepdims=True)
    images = (images - grey) * (2.0 * saturation) + grey
    mean = images.mean((1, 2, 3), keepdims=True)
    changed: Array = (images - mean) * (contrast + 0.5) + mean
    return changed


def _translation(images: Array, key: Array) -> Array:
    batch, height, width, _ = images.shape
    rows, columns = (int(n / 8 + 0.5) for n in (height, width))
    row_key, column_key = jax.random.split(key)
    down = jax.random.randint(row_key, (batch, 1), -rows, rows + 1)
    right = jax.random.randint(column_key, (batch, 1), -columns, columns + 1)
    # Multiply by one-hot shift matrices, because the gradient of a gather is slow.
    exact = functools.partial(jnp.einsum, precision="highest")
    moved = exact("bij,bjwc->biwc", _shift(height, down, images.dtype), images)
    return exact("bij,bhjc->bhic", _shift(width, right, images.dtype), moved)


def _shift(size: int, by: Array, kind: jnp.dtype) -> Array:
    """Matrices (batch, size, size) that shift a line ``by`` pixels and fill with zeros."""
    to, origin = jnp.arange(size)[None, :, None], jnp.arange(size)[None, None, :]
    return (to - origin == by[:, :, None]).astype(kind)


def _cutout(images: Array, key: Array) -> Array:
    batch, height, width, _ = images.shape
    sides = [int(n / 2 + 0.5) for n in (height, width)]
    inside = []
    for size, side, axis_key in zip((height, width), sides, jax.random.split(key), strict=True):
        centre = jax.random.randint(axis_key, (batch, 1), 0, size + (1 - side % 2))
        offset = jnp.arange(size) - centre + side // 2
        inside.append((offset >= 0) & (offset < side))
    rows, columns = inside
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], 0.0, images)


def flipped(images: Array, key: Array) -> Array:
    """Flip each image left to right with probability one half."""
    mirror = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirror, images[:, :, ::-1], images)


def noisy(images: Array, deviation: Array, key: Array) -> Array:
    """Add Gaussian noise to images: instance noise (Sønderby et al. 2017)."""
    return images + deviation * jax.random.normal(key, images.shape)
