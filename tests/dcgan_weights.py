"""Weights and inputs of tests/golden/dcgan.npz, drawn with NumPy alone: no JAX, no torch.

``default_rng(SEED)`` draws standard normals for the arrays of ``GENERATOR``, then of
``DISCRIMINATOR``, in order. They are scaled by 0.1; batch norm scales are offset by 1. The inputs
come from ``default_rng(SEED + 1)``: latents, latents of another batch (for the recorded
statistics), and real images, uniform in [-1, 1].
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SEED = 20151119
WIDTH, LATENT_DIM, SIZE, CHANNELS, BATCH = 4, 100, 32, 3, 6

GENERATOR: dict[str, tuple[int, ...]] = {
    "dense.kernel": (100, 1024),
    "norm1.scale": (1024,),
    "norm1.bias": (1024,),
    "deconv1.kernel": (5, 5, 8, 16),
    "norm2.scale": (8,),
    "norm2.bias": (8,),
    "deconv2.kernel": (5, 5, 4, 8),
    "norm3.scale": (4,),
    "norm3.bias": (4,),
    "deconv3.kernel": (5, 5, 3, 4),
}
DISCRIMINATOR: dict[str, tuple[int, ...]] = {
    "conv1.kernel": (5, 5, 3, 4),
    "conv1.bias": (4,),
    "conv2.kernel": (5, 5, 4, 8),
    "conv2.bias": (8,),
    "dense.kernel": (512, 1),
    "dense.bias": (1,),
}


class Inputs(NamedTuple):
    z: Array
    other_z: Array
    reals: Array


def weights() -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the generator's and the discriminator's weights by name."""
    rng = np.random.default_rng(SEED)

    def draw(shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
        return {
            name: name.endswith(".scale") + 0.1 * rng.standard_normal(shape)
            for name, shape in shapes.items()
        }

    return draw(GENERATOR), draw(DISCRIMINATOR)


def inputs() -> Inputs:
    rng = np.random.default_rng(SEED + 1)
    z, other_z = rng.standard_normal((2, BATCH, LATENT_DIM))
    return Inputs(z, other_z, rng.uniform(-1, 1, (BATCH, SIZE, SIZE, CHANNELS)))


def sample(gradient: Array) -> Array:
    """The stored part of a gradient: every 64th column of a matrix, all of anything else."""
    return gradient[:, ::64] if gradient.ndim == 2 else gradient
