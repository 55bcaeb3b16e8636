"""Cheap diagnostics of training: balance of the two networks, and variety of the images."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.metrics.fid import Features

MIN_SHARE = 0.1  # of a generated class, relative to its share of the real images


def loss_ratio(
    d_adversarial: float, g_measure: float, indifference: tuple[float, float] | None
) -> float | None:
    """Ratio of the losses of D and G, each divided by its value at indifference.

    At indifference D cannot tell real from fake. 1 is balance; near 0 D has won. The losses are
    epoch means without penalties. None for losses without an indifference value, or if the ratio is
    not finite.
    """
    if indifference is None:
        return None
    with np.errstate(all="ignore"):
        ratio = np.float64(d_adversarial) / indifference[0] / (g_measure / indifference[1])
    return float(ratio) if np.isfinite(ratio) else None


def discriminator_auc(real: NDArray[np.floating], fake: NDArray[np.floating]) -> float:
    """P(D(real) > D(fake)) over all pairs of logits (m,) and (n,): the area under the ROC curve.

    Computed as the Mann-Whitney statistic U / (m n), with ties counted as one half. 0.5 is balance,
    1 a discriminator that has won. Scale and offset of the logits do not matter. If D has
    batch norm, batches must hold only real or only fake images.
    """
    ordered = np.sort(fake)
    below = np.searchsorted(ordered, real, side="left")
    not_above = np.searchsorted(ordered, real, side="right")
    return float((below + not_above).mean() / 2 / len(fake))


def variance_ratio(fake: Features, real_trace: float) -> float:
    """Tr(S_f) / Tr(S_r) of the features' covariances; near 0 the generator has collapsed.

    ``fake`` are features (n, d); the variance is unbiased and computed in float64.
    """
    return float(np.asarray(fake, np.float64).var(axis=0, ddof=1).sum() / real_trace)


class Classes(NamedTuple):
    """Variety of the generated classes."""

    coverage: float  # share of the data's classes that are generated
    entropy: float  # of the class distribution, relative to that of the real images


def class_balance(fake: NDArray[np.integer], real_shares: NDArray[np.floating]) -> Classes:
    """Compare the classes (n,) of generated images with the class shares (K,) of the real ones.

    A class counts as generated if its share is at least a tenth of its real share, since a
    classifier makes a few errors in favour of every class. Entropy is -sum p ln p.
    """
    shares = np.bincount(fake, minlength=len(real_shares)) / len(fake)
    present = real_shares > 0
    generated = shares[present] >= MIN_SHARE * real_shares[present]
    even = _entropy(real_shares)
    return Classes(float(generated.mean()), _entropy(shares) / even if even > 0 else 1.0)


def _entropy(shares: NDArray[np.floating]) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum()) + 0.0  # a single class would give -0.0
