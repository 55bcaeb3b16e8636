"""Signs of health that cost next to nothing: who is winning, and is the variety still there."""

import numpy as np
from numpy.typing import NDArray

from tuner.metrics.frechet import Features


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

    0.5 is balance, 1 a discriminator that has won; free of the logits' scale and offset.
    """
    ordered = np.sort(fake)
    below = np.searchsorted(ordered, real, side="left")
    not_above = np.searchsorted(ordered, real, side="right")
    return float((below + not_above).mean() / 2 / len(fake))


def variance_ratio(fake: Features, real_trace: float) -> float:
    """Trace of the fake features' covariance over the real ones': towards 0 is collapse."""
    return float(np.asarray(fake, np.float64).var(axis=0, ddof=1).sum() / real_trace)
