"""Images as the Inception network takes them: resized to 299x299 and scaled, by three conventions.

``pytorch-fid`` (Seitzer 2020) interpolates linearly between pixel centres and clamps at the border.
``torch-fidelity`` (Obukhov et al. 2020) does as TensorFlow 1 did: also linearly, but the first
output pixel lies on the first input pixel. Neither smooths when it shrinks. ``clean`` (Parmar et
al. 2022) is Pillow's bicubic filter, which does, without rounding to whole numbers in between.

Each is a linear map of the rows times one of the columns, so each is two products with matrices
that depend on sizes alone.
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
    """The network's input (n, 299, 299, 3), float32 in [-1, 1], of uint8 ``images`` (n, h, w, c).

    c is 3, or 1 to be repeated. May be traced. The highest value is 1 only for ``pytorch-fid``:
    the others take 128 for grey and the step for 1/128, as the network was trained.
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
    # The bicubic filter swings beyond black and white at edges; clean-fid clips that.
    return (jnp.clip(x, 0, 255) - 128) / 128


@functools.lru_cache(maxsize=64)
def resize_matrix(convention: str, size: int, target: int = TARGET) -> NDArray[np.float32]:
    """(target, size): what each output pixel takes of each input pixel along one axis.

    Every row sums to 1. ValueError for a convention that is none of ``CONVENTIONS``.
    """
    scale = size / target
    outputs = np.arange(target)
    match convention:
        case "clean":
            weights = _bicubic((outputs + 0.5) * scale, size, max(scale, 1.0))
        # Both packages find their place in float32, and are to be agreed with.
        case "pytorch-fid":
            weights = _linear((outputs.astype(np.float32) + 0.5) * np.float32(scale) - 0.5, size)
        case "torch-fidelity":
            weights = _linear(outputs.astype(np.float32) * np.float32(scale), size)
        case _:
            raise ValueError(f"found {convention!r}, expected one of {', '.join(CONVENTIONS)}")
    return weights.astype(np.float32)


def _linear(positions: Positions, size: int) -> Positions:
    """Weights of the two input pixels around each position, of the last one beyond the border."""
    distances = positions.clip(0, size - 1)[:, None] - np.arange(size)
    weights: NDArray[np.floating] = (1 - np.abs(distances)).clip(min=0)
    return weights


def _bicubic(centres: Positions, size: int, stretch: float) -> Positions:
    """Keys' cubic convolution (1981, eq. 15), made ``stretch`` times as wide, over
    the pixels that there are: at the border what falls outside is left out."""
    x = np.abs(centres[:, None] - (np.arange(size) + 0.5)) / stretch
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    normalised: NDArray[np.floating] = weights / weights.sum(axis=1, keepdims=True)
    return normalised
