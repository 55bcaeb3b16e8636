"""Fidelity and variety measured separately: precision, recall, density and coverage.

Kynkäänniemi et al. 2019 (Improved Precision and Recall, eqs. 1 and 2) estimate the manifold of a
set as the union of balls around its samples, each with the distance to the k-th neighbour as its
radius. Precision is the share of generated samples within the real manifold, recall the share of
real samples within the generated one. Naeem et al. 2020 (section 3) use the real balls alone:
density is the mean number of balls that hold a generated sample, over k (1 for a perfect
generator, unbounded above); coverage is the share of balls that hold at least one. All depend on
the number of samples, so both sets should have the same size.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tuner.metrics.fid import Features, Matrix

PRECISION_K = 3  # neighbour that sets a ball's radius, for precision and recall
DENSITY_K = 5  # the same for density and coverage
ROWS, COLUMNS = 512, 4096  # of a block of distances in float64
ROUNDING = 1e-13  # smaller squared distances, relative to the squared lengths, count as zero


class PRDC(NamedTuple):
    """Precision, recall, density and coverage; all but density are shares."""

    precision: float
    recall: float
    density: float
    coverage: float


def radii(features: Features) -> Matrix:
    """Squared distances (2, n) in float64 of each sample to its 3rd and its 5th neighbour.

    Raises ValueError for features (n, d) with too few samples, or with NaN or infinity.
    """
    if features.ndim != 2 or len(features) <= DENSITY_K:
        raise ValueError(f"expected features (n > {DENSITY_K}, d), found shape {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("expected finite features, found NaN or infinity")
    found = np.empty((2, len(features)))
    for rows, distances in _distances(features, features):
        own = np.arange(len(distances)), np.arange(rows.start, rows.stop)
        distances[own] = np.inf
        nearest = np.partition(distances, (PRECISION_K - 1, DENSITY_K - 1), axis=1)
        found[:, rows] = nearest[:, [PRECISION_K - 1, DENSITY_K - 1]].T
    return found


def compute_prdc(real: Features, real_radii: Matrix, fake: Features) -> PRDC:
    """Compare features ``fake`` (n, d) with ``real`` (m, d), whose ``radii`` are known.

    Raises ValueError like ``radii``.
    """
    fake_radii = radii(fake)
    inside, within_count = 0, 0
    recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for rows, distances in _distances(fake, real):
        inside += int((distances <= real_radii[0]).any(axis=1).sum())
        recalled |= (distances <= fake_radii[0, rows, None]).any(axis=0)
        within = distances <= real_radii[1]
        within_count += int(within.sum())
        covered |= within.any(axis=0)
    return PRDC(
        precision=inside / len(fake),
        recall=float(recalled.mean()),
        density=within_count / (DENSITY_K * len(fake)),
        coverage=float(covered.mean()),
    )


def _distances(a: Features, b: Features) -> Iterator[tuple[slice, Matrix]]:
    """Yield slices of rows of a (n, d) with their squared distances (rows, m) to b (m, d).

    Distances within rounding error of zero are zero.
    """
    centre = b.mean(axis=0, dtype=np.float64)  # centring reduces rounding errors
    for start in range(0, len(a), ROWS):
        rows = slice(start, min(start + ROWS, len(a)))
        block = np.empty((rows.stop - start, len(b)))
        x = a[rows] - centre
        for first in range(0, len(b), COLUMNS):
            columns = slice(first, first + COLUMNS)
            y = b[columns] - centre
            lengths = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)
            squared = lengths - 2 * (x @ y.T)
            squared[squared <= ROUNDING * lengths] = 0
            block[:, columns] = squared
        yield rows, block
