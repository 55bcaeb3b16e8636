"""Fidelity and variety apart: precision and recall, density and coverage, by nearest neighbours.

Kynkäänniemi et al. 2019 cover a set of samples by balls, each as wide as the distance to its
sample's k-th neighbour. Precision is the share of generated samples in balls of real ones, recall
the reverse. Naeem et al. 2020 count instead in how many real balls a generated sample lies
(density: 1 for a generator as good as the data, and without a bound), and which share of real balls
holds any (coverage). All depend on how many samples there are, so both sets should be of one size.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tuner.metrics.frechet import Features, Matrix

BALL = 3  # neighbours, for precision and recall
DENSITY_BALL = 5  # neighbours, for density and coverage
ROWS, COLUMNS = 512, 4096  # of a block of distances in float64
ROUNDING = 1e-13  # squared distances below this part of the squared lengths are none


class Fidelity(NamedTuple):
    """Precision, recall and coverage are shares; density is a mean count over k."""

    precision: float
    recall: float
    density: float
    coverage: float


def radii(features: Features) -> Matrix:
    """Squared distances (2, n) of each sample to its 3rd and its 5th neighbour.

    ValueError for features (n, d) with too few samples, or numbers that are not finite.
    """
    if features.ndim != 2 or len(features) <= DENSITY_BALL:
        raise ValueError(f"expected features (n > {DENSITY_BALL}, d), found shape {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("expected finite features, found NaN or infinity")
    found = np.empty((2, len(features)))
    for rows, distances in _distances(features, features):
        own = np.arange(len(distances)), np.arange(rows.start, rows.stop)
        distances[own] = np.inf
        nearest = np.partition(distances, (BALL - 1, DENSITY_BALL - 1), axis=1)
        found[:, rows] = nearest[:, [BALL - 1, DENSITY_BALL - 1]].T
    return found


def fidelity(real: Features, real_radii: Matrix, fake: Features) -> Fidelity:
    """How ``fake`` (n, d) lies to ``real`` (m, d) of known ``radii``; errors as there."""
    fake_radii = radii(fake)
    inside, among, counts = 0, np.zeros(len(real), bool), 0
    covered = np.zeros(len(real), bool)
    for rows, distances in _distances(fake, real):
        inside += int((distances <= real_radii[0]).any(axis=1).sum())
        among |= (distances <= fake_radii[0, rows, None]).any(axis=0)
        within = distances <= real_radii[1]
        counts += int(within.sum())
        covered |= within.any(axis=0)
    return Fidelity(
        precision=inside / len(fake),
        recall=float(among.mean()),
        density=counts / (DENSITY_BALL * len(fake)),
        coverage=float(covered.mean()),
    )


def _distances(a: Features, b: Features) -> Iterator[tuple[slice, Matrix]]:
    """Squared distances of rows of a (n, d) to all of b (m, d): slices and (rows, m) blocks."""
    centre = b.mean(axis=0, dtype=np.float64)  # rounding is least about the middle
    for start in range(0, len(a), ROWS):
        rows = slice(start, min(start + ROWS, len(a)))
        block = np.empty((rows.stop - start, len(b)))
        x = a[rows] - centre
        for first in range(0, len(b), COLUMNS):
            columns = slice(first, first + COLUMNS)
            block[:, columns] = _squared(x, b[columns] - centre)
        yield rows, block


def _squared(x: Matrix, y: Matrix) -> Matrix:
    """Squared distances (rows, columns); what rounding can't tell from zero is zero."""
    lengths = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)
    squared: Matrix = lengths - 2 * (x @ y.T)
    squared[squared <= ROUNDING * lengths] = 0
    return squared
