"""Loss ratio, discriminator AUC, variance ratio and class balance against counts by hand."""

import math

import numpy as np
import pytest

from tuner.metrics.diagnostics import class_balance, discriminator_auc, loss_ratio, variance_ratio

SCALE = (2 * math.log(2), math.log(2))


@pytest.mark.parametrize(
    ("d", "g", "expected"),
    [
        (2 * math.log(2), math.log(2), 1.0),
        (math.log(2), math.log(2), 0.5),
        (2 * math.log(2), 4 * math.log(2), 0.25),
        (0.0, 3.0, 0.0),
    ],
)
def test_the_loss_ratio_divides_scaled_losses(d: float, g: float, expected: float) -> None:
    assert loss_ratio(d, g, SCALE) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("d", "g"), [(1.0, 0.0), (0.0, 0.0), (math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0)]
)
def test_loss_ratio_is_none_for_non_finite_losses(d: float, g: float) -> None:
    assert loss_ratio(d, g, SCALE) is None


def test_loss_ratio_is_none_without_a_scale() -> None:
    assert loss_ratio(1.0, 1.0, None) is None


def pairwise_auc(real: np.ndarray, fake: np.ndarray) -> float:
    wins: float = sum((r > f) + 0.5 * (r == f) for r in real.tolist() for f in fake.tolist())
    return wins / (len(real) * len(fake))


@pytest.mark.parametrize("seed", range(20))
def test_auc_counts_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 40, 2)
    # Few distinct values make many ties.
    real, fake = (rng.integers(0, 2 + seed, n).astype(np.float32) for n in sizes)
    assert discriminator_auc(real, fake) == pytest.approx(pairwise_auc(real, fake), abs=1e-12)
    assert discriminator_auc(fake, real) == pytest.approx(1 - pairwise_auc(real, fake), abs=1e-12)


@pytest.mark.parametrize(
    ("real", "fake", "expected"),
    [([1, 2], [-1, 0], 1.0), ([-1], [0, 3], 0.0), ([5, 5], [5], 0.5), ([1, 3], [2], 0.5)],
)
def test_auc_matches_values_by_hand(real: list[float], fake: list[float], expected: float) -> None:
    assert discriminator_auc(np.array(real), np.array(fake)) == expected
    # Scale and offset have no effect.
    assert discriminator_auc(10.0 * np.array(real) - 7, 10.0 * np.array(fake) - 7) == expected


def test_variance_ratio_matches_values_by_hand() -> None:
    fake = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]], np.float32)  # variances 4 and 3
    assert variance_ratio(fake, 14.0) == pytest.approx(0.5, rel=1e-12)
    assert variance_ratio(np.ones((5, 3), np.float32), 14.0) == 0.0


def test_class_balance_matches_values_by_hand() -> None:
    """Of four equal classes, one is missing and one is rare."""
    real = np.full(4, 0.25)
    fake = np.array([0] * 50 + [1] * 48 + [2] * 2)
    found = class_balance(fake, real)
    assert found.coverage == 0.5  # 2% is less than a tenth of 25%
    shares = np.array([0.5, 0.48, 0.02])
    assert found.entropy == pytest.approx(-(shares * np.log(shares)).sum() / np.log(4))


def test_class_balance_is_relative_to_uneven_classes() -> None:
    uneven = np.array([0.5, 0.3, 0.2, 0.0])  # the last has no image
    assert class_balance(np.repeat(range(3), [50, 30, 20]), uneven) == pytest.approx((1.0, 1.0))
    alone = class_balance(np.zeros(9, int), uneven)
    assert alone == pytest.approx((1 / 3, 0.0))
    assert str(alone.entropy) == "0.0"  # not -0.0
    assert class_balance(np.zeros(9, int), np.array([1.0])) == (1.0, 1.0)
