"""All metrics on features: reference statistics once, then scores of generated images."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.metrics.diagnostics import class_balance, variance_ratio
from tuner.metrics.fid import (
    Features,
    Matrix,
    Reference,
    frechet_distance,
    frechet_infinity,
    reference,
)
from tuner.metrics.kid import kernel_distance
from tuner.metrics.prdc import PRDC, compute_prdc, radii

VERSION = 3  # part of the metric fingerprint: increase it if this package's numbers change
PRECISION = "highest"  # of matrix products on the device

Scores = Mapping[str, float | None]  # by field of ``EpochReport``; None if not computed
NO_SCORES: Scores = MappingProxyType(
    dict.fromkeys(
        (
            "fid",
            "kid",
            "fid_infinity",
            *PRDC._fields,
            "variance_ratio",
            "class_coverage",
            "class_entropy",
        )
    )
)


class ReferenceStatistics(NamedTuple):
    """Statistics of the real images' features, computed once per study."""

    moments: Reference  # of all images
    features: Features  # (m, d) of a random subset, at most twice as many as generated
    radii: Matrix  # (2, p) squared distances of ``peers`` to their k-th neighbours
    shares: Matrix  # (K,) of each class among all images; (0,) without a classifier

    @property
    def peers(self) -> Features:
        """As many real features (p, d) as generated ones, or all if there are fewer."""
        return self.features[: self.radii.shape[1]]


def scores(
    real: ReferenceStatistics,
    features: Features,
    classes: NDArray[np.integer] | None = None,
    groups: Collection[str] = (),
) -> Scores:
    """Compute the metrics of generated images from their features (n, d).

    ``classes`` (n,) are the classifier's predictions, if there is a classifier. ``groups`` selects
    optional metrics: kid, fid_infinity, neighbours.
    """
    found = dict(NO_SCORES)
    found["fid"] = frechet_distance(real.moments, features)
    found["variance_ratio"] = variance_ratio(features, real.moments.trace)
    if "kid" in groups:
        found["kid"] = kernel_distance(real.features, features).mean
    if "fid_infinity" in groups:
        found["fid_infinity"] = frechet_infinity(real.moments, features)
    if "neighbours" in groups:
        found |= compute_prdc(real.peers, real.radii, features[: len(real.peers)])._asdict()
    if classes is not None:
        found["class_coverage"], found["class_entropy"] = class_balance(classes, real.shares)
    return found


def reference_statistics(
    features: Features, classes: NDArray[np.integer] | None, kinds: int, samples: int
) -> ReferenceStatistics:
    """Statistics of the features (n, d) of all real images.

    ``classes`` (n,) are the classifier's predictions among ``kinds`` classes, if there is one;
    ``samples`` images will be generated at each evaluation.
    """
    chosen = np.random.default_rng(0).permutation(len(features))[: 2 * samples]
    some = np.asarray(features[chosen], np.float32)
    shares = np.zeros(0)
    if classes is not None:
        shares = np.bincount(classes, minlength=kinds) / len(classes)
    return ReferenceStatistics(reference(features), some, radii(some[:samples]), shares)


def real_against_real(real: ReferenceStatistics) -> tuple[float, int]:
    """FID between two disjoint subsets of the real images, and the size of each.

    As both subsets are small, it exceeds a perfect generator's FID against all real images.
    """
    half = len(real.features) // 2
    one, other = real.features[:half], real.features[half : 2 * half]
    return frechet_distance(reference(one), other), half
