"""The Fréchet distance between feature distributions (FID), in float64 on the host.

Heusel et al. 2017, eq. 6: d^2 = |m_r - m_f|^2 + Tr(S_r + S_f - 2 (S_r S_f)^(1/2)). The trace of
the square root is a sum of square roots of eigenvalues of S_r^(1/2) S_f S_r^(1/2), which is
symmetric where S_r S_f is not; with fewer samples n than dimensions the same eigenvalues come from
an n x n Gram matrix (Mathiasen and Hvilshøj 2020).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]
Matrix = NDArray[np.float64]


class Reference(NamedTuple):
    """What is needed of the real side, computed once: mean (d,), S^(1/2) (d, d), trace of S."""

    mean: Matrix
    root: Matrix
    trace: float


def reference(features: Features) -> Reference:
    """Moments of ``features`` (n, d), and the covariance's square root. Needs n >= 2."""
    mean, covariance = moments(features)
    return reference_from_moments(mean, covariance)


def reference_from_moments(mean: Matrix, covariance: Matrix) -> Reference:
    """The same from a known mean (d,) and covariance (d, d)."""
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return Reference(mean, root, float(np.trace(covariance)))


def moments(features: Features) -> tuple[Matrix, Matrix]:
    """Mean (d,) and unbiased covariance (d, d) of features (n, d), n >= 2."""
    centred, mean = _centre(features)
    return mean, centred.T @ centred / (len(centred) - 1)


def frechet_distance(real: Reference, features: Features) -> float:
    """FID of ``features`` (n, d) against the reference: finite and at least 0.

    Raises ValueError for fewer than two samples, and where a number or the result is not finite.
    """
    centred, mean = _centre(features)
    count, dimensions = centred.shape
    if dimensions != len(real.mean):
        raise ValueError(f"expected {len(real.mean)} features, found {dimensions}")
    scaled = centred @ real.root / np.sqrt(count - 1)
    product = scaled @ scaled.T if count < dimensions else scaled.T @ scaled
    trace_of_root = np.sqrt(np.linalg.eigvalsh(product).clip(min=0)).sum()
    trace = float(np.square(centred).sum()) / (count - 1)
    shift = float(np.square(mean - real.mean).sum())
    distance = float(shift + real.trace + trace - 2 * trace_of_root)
    if not np.isfinite(distance):
        raise ValueError(f"found a distance of {distance}, expected a finite number")
    return max(0.0, distance)


def _centre(features: Features) -> tuple[Matrix, Matrix]:
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"expected features (n >= 2, d), found shape {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("expected finite features, found NaN or infinity")
    mean = features.mean(axis=0)
    return features - mean, mean
