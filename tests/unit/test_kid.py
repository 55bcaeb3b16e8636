"""Kernel distance against the paper's formula and against exact values of populations."""

import itertools

import numpy as np
import pytest

from tuner.metrics.kid import kernel_distance, squared_mmd


def kernel(x: np.ndarray, y: np.ndarray) -> float:
    return float((x @ y / len(x) + 1) ** 3)


def by_formula(x: np.ndarray, y: np.ndarray) -> float:
    """KID by Bińkowski et al. 2018, eq. 4, as sums over pairs."""
    m, n = len(x), len(y)
    first = sum(kernel(x[i], x[j]) for i, j in itertools.permutations(range(m), 2))
    second = sum(kernel(y[i], y[j]) for i, j in itertools.permutations(range(n), 2))
    across = sum(kernel(a, b) for a in x for b in y)
    return first / (m * (m - 1)) + second / (n * (n - 1)) - 2 * across / (m * n)


def whole_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The estimate from all samples."""
    return float(squared_mmd(x, y, np.arange(len(x))[None], np.arange(len(y))[None])[0])


def test_kid_matches_the_papers_formula() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 4)), rng.normal(size=(5, 4)) + 0.3
    assert whole_mmd(x, y) == pytest.approx(by_formula(x, y), rel=1e-12)


def test_the_estimate_is_unbiased() -> None:
    """In one dimension E (xy + 1)^3 is 1 + 3 m1^2 + 3 m2^2 + m3^2 for moments m, so the distance is
    3 (m1 - n1)^2 + 3 (m2 - n2)^2 + (m3 - n3)^2. The estimate is unbiased: its mean over all ordered
    pairs from both populations equals the distance."""
    first, second = np.array([-1.0, 0.5, 2.0]), np.array([0.0, 1.5])
    moments = [[float((values**k).mean()) for k in (1, 2, 3)] for values in (first, second)]
    gaps = np.array(moments[0]) - np.array(moments[1])
    expected = 3 * gaps[0] ** 2 + 3 * gaps[1] ** 2 + gaps[2] ** 2
    found = [
        whole_mmd(np.array(x)[:, None], np.array(y)[:, None])
        for x in itertools.product(first, repeat=2)
        for y in itertools.product(second, repeat=2)
    ]
    assert np.mean(found) == pytest.approx(expected, rel=1e-12)
    assert min(found) < 0  # an unbiased estimate may be negative


def test_kid_is_a_mean_over_subsets() -> None:
    rng = np.random.default_rng(1)
    real, near, far = (rng.normal(size=(300, 8)).astype(np.float32) + s for s in (0, 0.1, 1))
    found = kernel_distance(real, near, subsets=50, size=100)
    assert found == kernel_distance(real, near, subsets=50, size=100)
    whole = whole_mmd(real.astype(np.float64), near.astype(np.float64))
    assert found.mean == pytest.approx(whole, abs=4 * found.deviation / np.sqrt(50))
    assert kernel_distance(real, far).mean > 10 * abs(found.mean)
    everything = kernel_distance(real[:60], near[:50], subsets=3, size=1000)
    assert everything.deviation > 0  # subsets of the larger set
    assert kernel_distance(real[:50], near[:50], subsets=3).deviation == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("subsets", [1, 100])
def test_every_number_of_subsets_gives_the_estimates_of_each(subsets: int) -> None:
    """Whether the kernel is computed for each subset, or once for all pairs."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(600, 4)), rng.normal(size=(25, 4)) + 0.3
    rows, columns = (
        np.array([rng.choice(len(v), 20, replace=False) for _ in range(subsets)]) for v in (x, y)
    )
    expected = [whole_mmd(x[i], y[j]) for i, j in zip(rows, columns, strict=True)]
    assert squared_mmd(x, y, rows, columns) == pytest.approx(expected, rel=1e-12)
    assert expected[0] == pytest.approx(by_formula(x[rows[0]], y[columns[0]]), rel=1e-12)


def test_float32_suffices() -> None:
    rng = np.random.default_rng(2)
    real, fake = (np.maximum(rng.normal(s, size=(1000, 128)), 0) for s in (0, 0.01))
    exact = whole_mmd(real, fake)
    assert exact < 1e-3  # a difference of two numbers above 1
    assert kernel_distance(real, fake).mean == pytest.approx(exact, abs=1e-7)


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "n >= 2"),
        (np.zeros((5, 3)), np.zeros((5, 2)), "found shapes"),
        (np.full((5, 3), 1e200), np.zeros((5, 3)), "expected a finite number"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), "expected a finite number"),
    ],
)
def test_too_few_samples_are_refused(real: np.ndarray, fake: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernel_distance(real, fake)


def test_kid_of_constant_features_is_zero() -> None:
    same = np.ones((9, 4))
    assert kernel_distance(same, same).mean == pytest.approx(0, abs=1e-12)
