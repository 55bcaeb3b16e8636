"""Signs of health that cost next to nothing: who is winning, and is the variety still there."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.metrics.frechet import Features

FAINTEST = 0.1  # of a class's real share, below which it does not count as generated


def loss_ratio(
    d_adversarial: float, g_measure: float, indifference: tuple[float, float] | None
) -> float | None:
    """(D's loss / its value at indifference) / (the same of G): 1 is balance, towards 0 D has won.

    Both are epoch means without penalties. None for a loss without such a scale, or where the
    quotient is not finite.
    """
    if indifference is None:
        return None
    with np.errstate(all="ignore"):
        ratio = np.float64(d_adversarial) / indifference[0] / (g_measure / indifference[1])
    return float(ratio) if np.isfinite(ratio) else None


def discriminator_auc(real: NDArray[np.floating], fake: NDArray[np.floating]) -> float:
    """P(D(real) > D(fake)) over all pairs, ties counting one half (the Mann-Whitney statistic).

    0.5 is balance, 1 a discriminator that has won; free of the logits' scale and offset. With
    batch norm, logits are to be of batches of real images, and of fake ones, alone.
    """
    ordered = np.sort(fake)
    below = np.searchsorted(ordered, real, side="left")
    not_above = np.searchsorted(ordered, real, side="right")
    return float((below + not_above).mean() / 2 / len(fake))


def variance_ratio(fake: Features, real_trace: float) -> float:
    """Trace of the fake features' covariance over the real ones': towards 0 is collapse."""
    return float(np.asarray(fake, np.float64).var(axis=0, ddof=1).sum() / real_trace)


class Classes(NamedTuple):
    """Which classes are generated."""

    coverage: float  # share of the classes that are
    entropy: float  # of their distribution, over that of the real images': 1 is as even


def class_balance(fake: NDArray[np.integer], real_shares: NDArray[np.floating]) -> Classes:
    """Classes (n,) of generated images beside each class's share (K,) of the real ones.

    A class counts as generated when it makes up at least a tenth of its share among the real
    images: a classifier sees a few of everything in anything. Entropy is -sum p ln p.
    """
    shares = np.bincount(fake, minlength=len(real_shares)) / len(fake)
    present = real_shares > 0
    generated = shares[present] >= FAINTEST * real_shares[present]
    even = _entropy(real_shares)
    return Classes(float(generated.mean()), _entropy(shares) / even if even > 0 else 1.0)


def _entropy(shares: NDArray[np.floating]) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum()) + 0.0  # of one class alone it would be -0
