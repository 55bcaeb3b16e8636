"""Toys on which collapse shows: spots whose places are a mixture of Gaussians."""

import numpy as np
from numpy.typing import NDArray

from tuner.data.images import Images, Labels

COUNT = 4000  # images
RING = 8
GRID = 5  # by as many


def gaussians(size: int, modes: str) -> tuple[Images, Labels]:
    """A spot at a point of a mixture of Gaussians, and which of them it was drawn from.

    ``ring`` is eight of them, the mixture that Metz et al. 2017 (Unrolled GANs) show collapse on;
    ``grid`` is five by five, as in Srivastava et al. 2017 (VEEGAN).
    """
    labels = np.arange(COUNT, dtype=np.int64) % (RING if modes == "ring" else GRID**2)
    means = _ring(labels, size) if modes == "ring" else _grid(labels, size)
    random = np.random.default_rng(0)
    places = (size - 1) / 2 + means + random.normal(0, size / 64, means.shape)
    steps = np.arange(size) - places[..., None]  # (2, n, size)
    rows, columns = np.exp(-np.square(steps) / (2 * (size / 6) ** 2))
    return np.round(255 * rows[:, :, None] * columns[:, None]).astype(np.uint8)[..., None], labels


def _ring(labels: Labels, size: int) -> NDArray[np.float64]:
    """Rows and columns (2, n) of the modes, from the centre."""
    angles = 2 * np.pi * labels / RING
    means: NDArray[np.float64] = np.stack([np.sin(angles), np.cos(angles)]) * size / 4
    return means


def _grid(labels: Labels, size: int) -> NDArray[np.float64]:
    means: NDArray[np.float64] = (np.stack(np.divmod(labels, GRID)) - GRID // 2) * size / 6
    return means
