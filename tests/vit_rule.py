"""Weights and images of tests/golden/vit.npz, drawn with NumPy alone: no JAX, no torch.

Each array has its own generator, seeded by ``SEED`` and the CRC-32 of its published name, so the
order does not matter. Kernels are standard normals over the square root of their fan-in; norms and
layer scales are 1 plus 0.3 times standard normals, everything else 0.3 times.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

from tuner.metrics.vit import Architecture

SEED = 20230607
# Small networks; DINOv2's interpolates its positions from 5 x 5 to 3 x 3.
SIZES = {
    "dinov2": Architecture(24, 3, 4, 42, 5),
    "clip": Architecture(24, 3, 4, 42, 3, 10),
}
NORMS = ("norm.weight", "norm1.weight", "norm2.weight", "layrnorm.weight", "lambda1")


def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The array of the published ``name``, in PyTorch's layout."""
    rng = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    normals = rng.standard_normal(shape, np.float32)
    if name.endswith(NORMS):
        return 1 + np.float32(0.3) * normals
    if name.endswith("weight") and "position" not in name:
        return normals / np.float32(np.sqrt(np.prod(shape[1:])))
    return np.float32(0.3) * normals


def images() -> NDArray[np.uint8]:
    """Three images (3, 20, 33, 3) of noise."""
    return np.random.default_rng(SEED).integers(0, 256, (3, 20, 33, 3), np.uint8)
