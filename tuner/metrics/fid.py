"""Fréchet inception distance (FID), in float64 on the host.

Heusel et al. 2017, eq. 6: d^2 = |m_r - m_f|^2 + Tr(S_r + S_f - 2 (S_r S_f)^(1/2)). The trace of the
square root is the sum of the singular values of S_r^(1/2) X_f, where X_f are the centred samples
over sqrt(n - 1). They are the square roots of the eigenvalues of S_r^(1/2) S_f S_r^(1/2), which
unlike S_r S_f is symmetric; or, with fewer samples than dimensions, of an n x n Gram matrix
(Mathiasen and Hvilshøj 2020). Eigenvalues of a squared matrix keep only half of the digits of small
singular values; where that affects the result, the singular values are computed directly.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]
Matrix = NDArray[np.float64]

CHUNK = 4096  # rows converted to float64 at a time
ROUNDING = float(np.finfo(np.float64).eps)
TOLERANCE = 1e-10  # largest relative error of the fast method's sum of singular values
INFINITY_POINTS = 15  # subset sizes, as in Chong and Forsyth 2020


class Reference(NamedTuple):
    """Moments of the real features, computed once."""

    mean: Matrix  # (d,)
    root: Matrix  # (d, d), the square root S^(1/2) of the covariance
    trace: float  # of the covariance S


def reference(features: Features) -> Reference:
    """Reference moments of features (n, d), n >= 2."""
    return reference_from_moments(*moments(features))


def reference_from_moments(mean: Matrix, covariance: Matrix) -> Reference:
    """Reference moments from a known mean (d,) and covariance (d, d)."""
    return Reference(mean, _root(covariance), float(np.trace(covariance)))


def _root(covariance: Matrix) -> Matrix:
    """S^(1/2) (d, d).

    Eigenvalues within rounding error are set to zero, since the square root would magnify them to
    about 1e-8.
    """
    values, vectors = np.linalg.eigh(covariance)
    values[values < ROUNDING * len(values) * values[-1]] = 0
    root: Matrix = (vectors * np.sqrt(values)) @ vectors.T
    return root


def moments(features: Features) -> tuple[Matrix, Matrix]:
    """Mean (d,) and unbiased covariance (d, d) of features (n, d), n >= 2."""
    mean = _mean(features)
    covariance = np.zeros((len(mean), len(mean)))
    for start in range(0, len(features), CHUNK):
        centred = features[start : start + CHUNK] - mean
        covariance += centred.T @ centred
    return mean, covariance / (len(features) - 1)


def _mean(features: Features) -> Matrix:
    """The mean (d,). Raises ValueError for fewer than two samples, NaN or infinity."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"expected features (n >= 2, d), found shape {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("expected finite features, found NaN or infinity")
    mean: Matrix = features.mean(axis=0, dtype=np.float64)
    return mean


def frechet_distance(real: Reference, features: Features) -> float:
    """FID of ``features`` (n, d) against the reference moments: finite and at least 0.

    Raises ValueError for fewer than two samples, unequal dimensions, or a number that is not
    finite.
    """
    mean = _mean(features)
    count, dimensions = features.shape
    if dimensions != len(real.mean):
        raise ValueError(f"expected {len(real.mean)} features, found {dimensions}")
    with np.errstate(over="ignore", invalid="ignore"):  # the result is checked
        shift = float(np.square(mean - real.mean).sum())
        if count < dimensions:
            centred = features - mean
            trace = float(np.square(centred).sum()) / (count - 1)
            root_trace = _root_trace_of_few(centred @ real.root / np.sqrt(count - 1))
        else:
            covariance = moments(features)[1]
            trace = float(np.trace(covariance))
            root_trace = _root_trace_of_many(real.root, covariance)
        distance = shift + real.trace + trace - 2 * root_trace
    if not np.isfinite(distance):
        raise ValueError(f"found a distance of {distance}, expected a finite number")
    return max(0.0, float(distance))


def _root_trace_of_few(scaled: Matrix) -> float:
    """Sum of the singular values of ``scaled`` (n, d), n < d, whose rows sum to zero."""
    gram = scaled @ scaled.T
    if not np.isfinite(gram).all():
        return np.nan
    squares = np.linalg.eigvalsh(gram)[1:]  # the smallest is zero, since the samples are centred
    if _precise(squares):
        return float(np.sqrt(squares).sum())
    triangle = np.linalg.qr(scaled.T, mode="r")
    return float(np.linalg.svd(triangle, compute_uv=False).sum())


def _root_trace_of_many(real_root: Matrix, covariance: Matrix) -> float:
    """Tr (S_r S_f)^(1/2) from S_r^(1/2) and S_f, both (d, d)."""
    product = real_root @ covariance @ real_root
    if not np.isfinite(product).all():
        return np.nan
    squares = np.linalg.eigvalsh((product + product.T) / 2)
    if _precise(squares):
        return float(np.sqrt(squares).sum())
    return float(np.linalg.svd(real_root @ _root(covariance), compute_uv=False).sum())


def _precise(squares: Features) -> bool:
    """Whether the sum of the square roots of ascending eigenvalues is accurate to ``TOLERANCE``.

    Each eigenvalue has an error of about the rounding error of the largest one; its root has that
    error divided by twice the root.
    """
    noise = ROUNDING * squares[-1]
    if squares[0] <= noise:
        return False
    roots = np.sqrt(squares)
    return bool((noise / (2 * roots)).sum() <= TOLERANCE * roots.sum())


def frechet_infinity(real: Reference, features: Features) -> float:
    """FID extrapolated to infinitely many generated samples, from ``features`` (n, d).

    FID of n samples has a bias of about c / n, where c depends on the model, so the distances of
    random subsets are fitted linearly in 1/n (Chong and Forsyth 2020). Subsets hold at least half
    of the samples: with fewer than a few times d samples the bias is not linear in 1/n. For nearly
    perfect generators the result can be slightly negative. Raises ValueError like
    ``frechet_distance``.
    """
    random = np.random.default_rng(0)
    sizes = np.linspace(max(2, len(features) // 2), len(features), INFINITY_POINTS).astype(int)
    distances = [
        frechet_distance(real, features[random.permutation(len(features))[:size]])
        for size in np.unique(sizes)
    ]
    if len(distances) < 2:
        raise ValueError(f"expected at least 3 samples to extrapolate, found {len(features)}")
    return float(np.polyfit(1 / np.unique(sizes), distances, 1)[1])
