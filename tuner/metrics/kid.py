"""Kernel inception distance (KID), unbiased, in float64 on the host.

Bińkowski et al. 2018 (Demystifying MMD GANs, section 4): the squared maximum mean discrepancy
under the kernel k(x, y) = (x.y / d + 1)^3, as the mean of its unbiased estimate over random
subsets. Its expectation does not depend on the number of samples; for equal distributions
estimates can be negative.
"""

from typing import NamedTuple

import numpy as np

from tuner.metrics.fid import Features, Matrix

SUBSETS = 100
SUBSET_SIZE = 1000


class KernelDistance(NamedTuple):
    """Mean and standard deviation of the subsets' distances."""

    mean: float
    deviation: float


def kernel_distance(
    real: Features, fake: Features, subsets: int = SUBSETS, size: int = SUBSET_SIZE
) -> KernelDistance:
    """KID between features ``real`` (m, d) and ``fake`` (n, d), over fixed random subsets.

    Sets smaller than ``size`` are used whole. Raises ValueError for fewer than two samples,
    unequal dimensions, or a distance that is not finite.
    """
    size = min(size, len(real), len(fake))
    if size < 2 or real.shape[1:] != fake.shape[1:]:
        raise ValueError(
            f"expected features (n >= 2, d) twice, found shapes {real.shape} and {fake.shape}"
        )
    random = np.random.default_rng(0)
    distances = []
    for _ in range(subsets):
        x, y = (
            features[random.choice(len(features), size, replace=False)].astype(np.float64)
            for features in (real, fake)
        )
        distances.append(squared_mmd(x, y))
    mean, deviation = float(np.mean(distances)), float(np.std(distances))
    if not np.isfinite(mean):
        raise ValueError(f"found a distance of {mean}, expected a finite number")
    return KernelDistance(mean, deviation)


def squared_mmd(x: Matrix, y: Matrix) -> float:
    """Unbiased estimate of MMD^2 between x (m, d) and y (n, d): Gretton et al. 2012, Lemma 6."""
    x, y = (features / np.sqrt(features.shape[1]) for features in (x, y))
    with np.errstate(over="ignore", invalid="ignore"):  # checked by the caller
        across = _kernel_sum(x, y) / (len(x) * len(y))
        return _mean_of_pairs(x) + _mean_of_pairs(y) - 2 * across


def _mean_of_pairs(x: Matrix) -> float:
    """Mean of the kernel over all pairs of distinct samples."""
    same = float(((np.square(x).sum(axis=1) + 1) ** 3).sum())
    return (_kernel_sum(x, x) - same) / (len(x) * (len(x) - 1))


def _kernel_sum(x: Matrix, y: Matrix) -> float:
    """The sum of (x.y + 1)^3 over all pairs."""
    products = x @ y.T
    products += 1
    return float(np.vdot(products * products, products))
