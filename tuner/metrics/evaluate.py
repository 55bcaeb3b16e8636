"""All metrics on features: reference statistics once, then scores of generated images."""

from collections.abc import Collection, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.epoch_report import COMPARED
from tuner.metrics.cmmd import cmmd
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
from tuner.metrics.memorisation import CopyDetector
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
            "cmmd",
            *PRDC._fields,
            "variance_ratio",
            "class_coverage",
            "class_entropy",
        )
    )
)
MAX_COMPARED = 100_000  # training images that are searched for copies


class ReferenceStatistics(NamedTuple):
    """Statistics of the real images' features, computed once per study."""

    moments: Reference  # of all images
    features: Features  # (m, d) of a random subset, at most twice as many as generated
    radii: Matrix  # (2, p) squared distances of ``matched`` to their k-th neighbours
    shares: Matrix  # (K,) of each class among all images; (0,) without a classifier
    held_out: "HeldOut | None" = None  # None if no images are held out

    @property
    def matched(self) -> Features:
        """As many real features (p, d) as generated ones, or all if there are fewer."""
        return self.features[: self.radii.shape[1]]


class HeldOut:
    """Features of held-out images, and of the training images to compare them with.

    Most scores depend on the number of real images, so held-out images are compared with as many
    training images.
    """

    def __init__(self, features: Features, training: Features, samples: int) -> None:
        """Features (m, d) of held-out images and (n, d) of training images; ``samples`` as in
        ``reference_statistics``."""
        self.features, self.training, self._samples = features, training, samples

    @cached_property
    def sides(self) -> tuple[ReferenceStatistics, ReferenceStatistics]:
        """Statistics of the held-out images, and of as many training images."""
        some = np.random.default_rng(1).permutation(len(self.training))[: len(self.features)]
        pair = self.features, self.training[some]
        held_out, training = (reference_statistics(x, None, 0, self._samples) for x in pair)
        return held_out, training

    @cached_property
    def copies(self) -> CopyDetector:
        """Detects copies of training images."""
        return CopyDetector(self.training, self.features)

    def scores(self, features: Features, groups: Collection[str]) -> dict[str, float | None]:
        """Scores against held-out images, their gaps to training images, and the copied share."""
        groups = set(groups) - {"heldout"}
        held_out, training = (scores(side, features, None, groups) for side in self.sides)
        found: dict[str, float | None] = {"copied": self.copies.copied(features)}
        for name in COMPARED:
            here, there = held_out[name], training[name]
            if here is not None and there is not None:
                found |= {f"heldout_{name}": here, f"{name}_gap": here - there}
        return found


def scores(
    real: ReferenceStatistics,
    features: Features,
    classes: NDArray[np.integer] | None = None,
    groups: Collection[str] = (),
) -> Scores:
    """Compute the metrics of generated images from their features (n, d).

    ``classes`` (n,) are the classifier's predictions, if there is a classifier. ``groups`` selects
    optional metrics: kid, fid_infinity, cmmd, neighbours, and, if images are held out, heldout.
    """
    found = dict(NO_SCORES)
    found["fid"] = frechet_distance(real.moments, features)
    found["variance_ratio"] = variance_ratio(features, real.moments.trace)
    if "kid" in groups:
        found["kid"] = kernel_distance(real.features, features).mean
    if "cmmd" in groups:
        found["cmmd"] = cmmd(real.features, features)
    if "fid_infinity" in groups:
        found["fid_infinity"] = frechet_infinity(real.moments, features)
    if "neighbours" in groups:
        found |= compute_prdc(real.matched, real.radii, features[: len(real.matched)])._asdict()
    if classes is not None:
        found["class_coverage"], found["class_entropy"] = class_balance(classes, real.shares)
    if "heldout" in groups and real.held_out is not None:
        found |= real.held_out.scores(features, groups)
    return found


def reference_statistics(
    features: Features, classes: NDArray[np.integer] | None, class_count: int, samples: int
) -> ReferenceStatistics:
    """Statistics of the features (n, d) of all real images.

    ``classes`` (n,) are the predictions of the classifier, if there is one, among ``class_count``
    classes; ``samples`` images will be generated at each evaluation.
    """
    some = np.asarray(features[sampled_images(len(features), samples)], np.float32)
    shares = np.zeros(0)
    if classes is not None:
        shares = np.bincount(classes, minlength=class_count) / len(classes)
    return ReferenceStatistics(reference(features), some, radii(some[:samples]), shares)


def sampled_images(count: int, samples: int) -> NDArray[np.intp]:
    """Indices of the real images whose features are kept."""
    return np.random.default_rng(0).permutation(count)[: 2 * samples]


def held_out_statistics(held_out: Features, training: Features, samples: int) -> HeldOut:
    """``HeldOut`` from features (m, d) of held-out and (n, d) of all training images."""
    some = training[compared_images(len(training))]
    return HeldOut(np.asarray(held_out, np.float32), np.asarray(some, np.float32), samples)


def compared_images(count: int) -> NDArray[np.intp]:
    """Indices of the training images that are searched for copies: all if there are few."""
    chosen = np.random.default_rng(2).permutation(count)[:MAX_COMPARED]
    return np.sort(chosen)


def real_against_real(real: ReferenceStatistics) -> tuple[float, int]:
    """FID between two disjoint subsets of the real images, and the size of each.

    As both subsets are small, it exceeds a perfect generator's FID against all real images.
    """
    half = len(real.features) // 2
    one, other = real.features[:half], real.features[half : 2 * half]
    return frechet_distance(reference(one), other), half
