"""CMMD: the maximum mean discrepancy between CLIP embeddings under a Gaussian kernel.

Jayasumana et al. 2024 (Rethinking FID, section 4): MMD^2 under k(x, y) = exp(-|x - y|^2 / (2 s^2))
with s = 10, for embeddings of length 1, multiplied by 1,000. As in the authors' code it is the
biased estimate of Gretton et al. 2012, eq. 5, whose means include each sample's pair with itself,
so it is never negative. Kernels of such embeddings are within 2% of 1, so all is computed in
float64.
"""

import numpy as np

from tuner.metrics.distances import blocks
from tuner.metrics.fid import Features

SIGMA = 10.0
SCALE = 1000.0


def cmmd(real: Features, fake: Features) -> float:
    """CMMD between embeddings ``real`` (m, d) and ``fake`` (n, d).

    Raises ValueError for unequal dimensions or a distance that is not finite.
    """
    if not len(real) or not len(fake) or real.shape[1:] != fake.shape[1:]:
        raise ValueError(f"expected features (n, d) twice, found {real.shape} and {fake.shape}")
    found = _mean(real, real) + _mean(fake, fake) - 2 * _mean(real, fake)
    if not np.isfinite(found):
        raise ValueError(f"found a distance of {found}, expected a finite number")
    return max(0.0, SCALE * found)


def _mean(x: Features, y: Features) -> float:
    """The mean of k - 1 over all pairs: -1 cancels in the sum, and leaves more digits."""
    y = np.asarray(y, np.float64)
    lengths, total = np.square(y).sum(axis=1), 0.0
    for rows in blocks(len(x)):
        part = np.asarray(x[rows], np.float64)
        squared = np.square(part).sum(axis=1)[:, None] + lengths - 2 * (part @ y.T)
        total += float(np.expm1(-squared / (2 * SIGMA**2)).sum())
    return total / (len(x) * len(y))
