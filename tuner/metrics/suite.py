"""All that is measured on features: the real side once, then every set of generated images."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.metrics.frechet import (
    Features,
    Matrix,
    Reference,
    frechet_distance,
    frechet_infinity,
    reference,
)
from tuner.metrics.health import class_balance, variance_ratio
from tuner.metrics.kernel import kernel_distance
from tuner.metrics.neighbours import Fidelity, fidelity, radii

VERSION = 3  # of everything in this package that changes a number
PRECISION = "highest"  # of matrix products on the device


class RealSide(NamedTuple):
    """The real images as the metrics see them."""

    moments: Reference  # of all images
    features: Features  # (m, d), of a random choice, twice as many as are generated if there are
    radii: Matrix  # (2, p), of the ``peers``: see ``neighbours``
    shares: Matrix  # (K,) of all images, by the classifier; (0,) without one

    @property
    def peers(self) -> Features:
        """As many real features as are generated, or all there are: (p, d)."""
        return self.features[: self.radii.shape[1]]


class Scores(NamedTuple):
    """What generated images are worth; None for what was not computed. See the modules."""

    fid: float | None = None
    kid: float | None = None
    fid_infinity: float | None = None
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    variance_ratio: float | None = None
    class_coverage: float | None = None
    class_entropy: float | None = None


def real_side(
    features: Features, classes: NDArray[np.integer] | None, kinds: int, samples: int
) -> RealSide:
    """The real side from features (n, d) of all images and, where there is a classifier, the class
    it gives each (n,), out of ``kinds``. ``samples`` images will be generated each time."""
    chosen = np.random.default_rng(0).permutation(len(features))[: 2 * samples]
    some = np.asarray(features[chosen], np.float32)
    shares = np.zeros(0)
    if classes is not None:
        shares = np.bincount(classes, minlength=kinds) / len(classes)
    return RealSide(reference(features), some, radii(some[:samples]), shares)


def scores(
    real: RealSide,
    features: Features,
    classes: NDArray[np.integer] | None = None,
    extras: Collection[str] = (),
) -> Scores:
    """Measure features (n, d) of generated images, and the class that the classifier gives each.

    ``extras`` names what is computed beside the cheap ones: kid, fid_infinity, neighbours.
    """
    found = Scores(
        fid=frechet_distance(real.moments, features),
        variance_ratio=variance_ratio(features, real.moments.trace),
    )
    if classes is not None:
        balance = class_balance(classes, real.shares)
        found = found._replace(class_coverage=balance.coverage, class_entropy=balance.entropy)
    if "kid" in extras:
        found = found._replace(kid=kernel_distance(real.features, features).mean)
    if "fid_infinity" in extras:
        found = found._replace(fid_infinity=frechet_infinity(real.moments, features))
    if "neighbours" in extras:
        found = found._replace(**_fidelity(real, features)._asdict())
    return found


def _fidelity(real: RealSide, features: Features) -> Fidelity:
    """Of as many generated images as there are peers: both sides are to be of one size."""
    return fidelity(real.peers, real.radii, features[: len(real.peers)])


def real_against_real(real: RealSide) -> tuple[float, int]:
    """FID of one half of the chosen images against the other, and how many each half has.

    Both sides being small, it is above what a perfect generator gets against all real images.
    """
    half = len(real.features) // 2
    one, other = real.features[:half], real.features[half : 2 * half]
    return frechet_distance(reference(one), other), half
