"""Weights and images of tests/golden/inception.npz, drawn with NumPy alone: no JAX, no torch.

Each array has its own generator, seeded by ``SEED`` and the CRC-32 of its name, so the order does
not matter. Kernels (HWIO) are standard normals times sqrt(2 / fan-in) (He et al. 2015). Batch norm
scales and offsets are 1 plus 0.1 times standard normals; with offsets around 0, half of the ReLUs
would be inactive, and rounding errors would grow a hundredfold. Batch norm statistics cannot be
random, because activations would explode over 40 layers. They were measured once, layer by layer,
on ``calibration_images``, and are stored with the golden arrays as float16, concatenated in the
order of their names.
"""

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Images = NDArray[np.uint8]

SEED = 20151205
RECORDED = ("running_mean", "running_var")
SIZES = ((1, 1), (28, 28), (17, 45), (299, 299), (300, 640), (801, 33))  # of resized images
EDGES_AND_BETWEEN = np.r_[0:3, 20:290:45, 296:299]


def draw_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """All weights except the batch norm statistics."""
    return {name: _draw(name, shape) for name, shape in shapes.items() if not recorded(name)}


def recorded(name: str) -> bool:
    return name.endswith(RECORDED)


def _draw(name: str, shape: tuple[int, ...]) -> Array:
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    normals = rng.standard_normal(shape, np.float32)
    if len(shape) == 4:
        return normals * np.float32(np.sqrt(2 / np.prod(shape[:3])))
    return 1 + np.float32(0.1) * normals


def recorded_statistics(
    shapes: Mapping[str, tuple[int, ...]], golden: Mapping[str, NDArray[np.floating]]
) -> dict[str, Array]:
    """Batch norm means and variances by name, split from the golden arrays."""
    statistics: dict[str, Array] = {}
    for kind in RECORDED:
        names = sorted(name for name in shapes if name.endswith(kind))
        ends = np.cumsum([shapes[name][0] for name in names])
        pieces = np.split(golden[kind].astype(np.float32), ends[:-1])
        statistics.update(zip(names, pieces, strict=True))
    return statistics


def calibration_images() -> list[Images]:
    """Single images (1, h, w, 3) of noise, from 2 to 96 pixels."""
    return [noise(1, size, size, 3) for size in (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)]


def noise(count: int, height: int, width: int, channels: int) -> Images:
    """Images (count, height, width, channels), each pixel uniform in 0..255."""
    rng = np.random.default_rng([SEED, count, height, width, channels])
    return rng.integers(0, 256, (count, height, width, channels), np.uint8)


def two_images() -> Images:
    """The images whose features are stored: (2, 20, 33, 3)."""
    return noise(2, 20, 33, 3)


def sample_block(output: NDArray[np.floating]) -> NDArray[np.floating]:
    """The stored part of a block's output (n, h, w, c): corners, edges and centre, where padding
    has an effect, of every eighth channel."""
    kept = [0, output.shape[1] // 2, output.shape[1] - 1]
    return output[:, kept][:, :, kept, ::8]


def sample_input(images: NDArray[np.floating]) -> NDArray[np.floating]:
    """The stored part of the network's input (n, 299, 299, c): borders and a grid."""
    return images[:, EDGES_AND_BETWEEN][:, :, EDGES_AND_BETWEEN]
