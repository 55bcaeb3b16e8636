"""Input of the Inception network: images resized to 299x299 and scaled, by three conventions.

``pytorch-fid`` (Seitzer 2020) interpolates bilinearly between pixel centres and clamps at borders.
``torch-fidelity`` (Obukhov et al. 2020) follows TensorFlow 1: bilinear, with the first output pixel
aligned to the first input pixel. Neither applies an anti-aliasing filter. ``clean`` (Parmar et al.
2022) is Pillow's bicubic filter, which is anti-aliased, without intermediate rounding to integers.

Each convention is separable and linear, so it is computed as two matrix products whose matrices
depend on the sizes alone.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

CONVENTIONS = ("clean", "pytorch-fid", "torch-fidelity")
TARGET = 299  # pixels, each side

Positions = NDArray[np.floating]


def prepare(images: Array, convention: str) -> Array:
    """Convert uint8 ``images`` (n, h, w, 1 or 3) to float32 (n, 299, 299, 3) in [-1, 1].

    Grey images are repeated into three channels. May be traced. Only ``pytorch-fid`` reaches 1: the
    others compute (x - 128) / 128, as in the network's training.
    """
    height, width, channels = images.shape[1:]
    rows, columns = resize_matrix(convention, height), resize_matrix(convention, width)
    precision = lax.Precision.HIGHEST
    x = jnp.einsum("yh,nhwc->nywc", rows, images.astype(jnp.float32), precision=precision)
    x = jnp.einsum("xw,nywc->nyxc", columns, x, precision=precision)
    if channels == 1:
        x = jnp.repeat(x, 3, axis=-1)
    if convention == "pytorch-fid":
        return x / 127.5 - 1
    # The bicubic filter overshoots at edges; clean-fid clips the result.
    return (jnp.clip(x, 0, 255) - 128) / 128


def resize_bytes(images: Array, target: int) -> Array:
    """Resize uint8 ``images`` (n, h, w, 1 or 3) to float32 (n, target, target, 3) of whole numbers.

    Reproduces Pillow's bicubic filter for bytes, which rounds after each of its two passes, rows
    first; a value within rounding error of a half may be rounded to the other neighbour. Grey
    images are repeated into three channels. May be traced.
    """
    height, width, channels = images.shape[1:]
    rows, columns = resize_matrix("clean", height, target), resize_matrix("clean", width, target)
    precision = lax.Precision.HIGHEST
    x = jnp.einsum("xw,nywc->nyxc", columns, images.astype(jnp.float32), precision=precision)
    x = jnp.clip(jnp.floor(x + 0.5), 0, 255)
    x = jnp.einsum("yh,nhwc->nywc", rows, x, precision=precision)
    x = jnp.clip(jnp.floor(x + 0.5), 0, 255)
    return jnp.repeat(x, 3, axis=-1) if channels == 1 else x


@functools.lru_cache(maxsize=64)
def resize_matrix(convention: str, size: int, target: int = TARGET) -> NDArray[np.float32]:
    """Interpolation weights (target, size) of input pixels along one axis; rows sum to 1.

    Raises ValueError for a convention that is not one of ``CONVENTIONS``.
    """
    scale = size / target
    outputs = np.arange(target)
    match convention:
        case "clean":
            weights = _bicubic((outputs + 0.5) * scale, size, max(scale, 1.0))
        # Both packages compute positions in float32, so this must too.
        case "pytorch-fid":
            weights = _linear((outputs.astype(np.float32) + 0.5) * np.float32(scale) - 0.5, size)
        case "torch-fidelity":
            weights = _linear(outputs.astype(np.float32) * np.float32(scale), size)
        case _:
            raise ValueError(f"found {convention!r}, expected one of {', '.join(CONVENTIONS)}")
    return weights.astype(np.float32)


def _linear(positions: Positions, size: int) -> Positions:
    """Linear weights of the two pixels around each position, clamped to the border."""
    distances = positions.clip(0, size - 1)[:, None] - np.arange(size)
    weights: NDArray[np.floating] = (1 - np.abs(distances)).clip(min=0)
    return weights


def _bicubic(centres: Positions, size: int, stretch: float) -> Positions:
    """Cubic convolution (Keys 1981, eq. 15) with its support widened by ``stretch``.

    At borders the weights of the existing pixels are renormalised.
    """
    x = np.abs(centres[:, None] - (np.arange(size) + 0.5)) / stretch
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    normalised: NDArray[np.floating] = weights / weights.sum(axis=1, keepdims=True)
    return normalised
