"""Fidelity and variety measured separately: precision, recall, density and coverage.

Kynkäänniemi et al. 2019 (Improved Precision and Recall, eqs. 1 and 2) estimate the manifold of a
set as the union of balls around its samples, each with the distance to the k-th neighbour as its
radius. Precision is the share of generated samples within the real manifold, recall the share of
real samples within the generated one. Naeem et al. 2020 (section 3) use the real balls alone:
density is the mean number of balls that hold a generated sample, over k (1 for a perfect
generator, unbounded above); coverage is the share of balls that hold at least one. All depend on
the number of samples, so both sets should have the same size.

Squared distances are computed in float32 with a bound on their error. What that leaves undecided,
comparisons closer than the bound and the order of the nearest neighbours, is decided in float64, so
the results are those of float64.
"""

from typing import NamedTuple

import numpy as np

from tuner.metrics.distances import (
    FEW,
    Comparison,
    Samples,
    approximate,
    blocks,
    centred,
    error_bound,
    exact,
    of_pairs,
)
from tuner.metrics.fid import Features, Matrix

PRECISION_K = 3  # neighbour that sets a ball's radius, for precision and recall
DENSITY_K = 5  # the same for density and coverage
RANKS = [PRECISION_K - 1, DENSITY_K - 1]


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
    samples = centred(features)
    found = _radii(samples)
    return _exact_radii(samples) if found is None else found


def compute_prdc(real: Features, real_radii: Matrix, fake: Features) -> PRDC:
    """Compare features ``fake`` (n, d) with ``real`` (m, d), whose ``radii`` are known.

    Raises ValueError like ``radii``.
    """
    fake_radii = radii(fake)
    reals = centred(real)
    inside, within_count = 0, 0
    recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for rows in blocks(len(fake)):
        distances = Comparison(centred(fake[rows], reals.centre), reals)
        inside += int(distances.within(real_radii[0]).any(axis=1).sum())
        recalled |= distances.within(fake_radii[0, rows, None]).any(axis=0)
        within = distances.within(real_radii[1])
        within_count += int(np.count_nonzero(within))
        covered |= within.any(axis=0)
    return PRDC(
        precision=inside / len(fake),
        recall=float(recalled.mean()),
        density=within_count / (DENSITY_K * len(fake)),
        coverage=float(covered.mean()),
    )


def _radii(samples: Samples) -> Matrix | None:
    """``radii`` from distances in float32; None if too much would be left to decide in float64."""
    count, doubt = len(samples.features), 2 * error_bound(samples, samples)
    if doubt == np.inf:
        return None
    nearest = np.full((count, DENSITY_K), np.inf, np.float32)
    candidates = []
    left = FEW * count**2
    for rows in blocks(count):
        # Distances are symmetric, so half of them are enough.
        squared = approximate(samples.part(rows), samples.part(slice(rows.start, None)))
        np.fill_diagonal(squared, np.inf)
        for first, some in (rows.start, squared), (rows.stop, squared[:, len(squared) :].T):
            known = nearest[first : first + len(some)]
            merged = np.concatenate([known, some], axis=1)
            merged.partition(DENSITY_K - 1, axis=1)
            known[:] = np.sort(merged[:, :DENSITY_K], axis=1)
            i, j = np.divmod(np.flatnonzero(some <= known[:, -1:] + doubt), some.shape[1] or 1)
            candidates.append((i + first, j + rows.start, some[i, j]))
            left -= len(i)
        if left <= 0:
            return None
    i, j, found = (np.concatenate(parts) for parts in zip(*candidates, strict=True))
    third, fifth = nearest[i][:, RANKS].T
    undecided = (abs(found - third) <= doubt) | (abs(found - fifth) <= doubt)
    values = found.astype(np.float64)
    values[undecided] = of_pairs(samples, samples, i[undecided], j[undecided])
    order = np.lexsort((values, i))
    begins = np.searchsorted(i[order], np.arange(count))
    smallest: Matrix = values[order][begins + np.array(RANKS)[:, None]]
    return smallest


def _exact_radii(samples: Samples) -> Matrix:
    """``radii`` from distances in float64."""
    found = np.empty((2, len(samples.features)))
    for rows in blocks(len(samples.features)):
        squared = exact(samples.part(rows), samples)
        squared[np.arange(len(squared)), np.arange(rows.start, rows.stop)] = np.inf
        found[:, rows] = np.partition(squared, RANKS, axis=1)[:, RANKS].T
    return found
