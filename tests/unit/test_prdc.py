"""Precision, recall, density and coverage against the papers' formulas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.metrics import prdc
from tuner.metrics.prdc import PRDC, compute_prdc, radii


def by_formula(real: np.ndarray, fake: np.ndarray) -> PRDC:
    """PRDC by Kynkäänniemi et al. 2019 (eq. 1 to 3) and Naeem et al. 2020 (eq. 4, 6)."""

    def ball(points: np.ndarray, i: int, k: int) -> float:
        return float(
            np.sort([np.linalg.norm(points[i] - x) for x in np.delete(points, i, 0)])[k - 1]
        )

    def covered(x: np.ndarray, points: np.ndarray, k: int) -> list[bool]:
        return [bool(np.linalg.norm(x - p) <= ball(points, i, k)) for i, p in enumerate(points)]

    inside = np.array([covered(x, real, 5) for x in fake])
    return PRDC(
        precision=float(np.mean([any(covered(x, real, 3)) for x in fake])),
        recall=float(np.mean([any(covered(x, fake, 3)) for x in real])),
        density=float(inside.sum() / (5 * len(fake))),
        coverage=float(inside.any(axis=0).mean()),
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(6, 25), st.integers(6, 25))
def test_prdc_matches_the_papers_formulas(seed: int, d: int, m: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    real, fake = rng.normal(size=(m, d)), 0.7 * rng.normal(size=(n, d)) + rng.normal(size=d)
    assert compute_prdc(real, radii(real), fake) == pytest.approx(by_formula(real, fake))


def test_block_sizes_do_not_change_prdc(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    real, fake = (rng.normal(size=(n, 5)).astype(np.float32) for n in (70, 53))
    whole = compute_prdc(real, radii(real), fake)
    monkeypatch.setattr(prdc, "ROWS", 8)
    monkeypatch.setattr(prdc, "COLUMNS", 9)
    assert compute_prdc(real, radii(real), fake) == pytest.approx(whole)


def test_prdc_distinguishes_collapse_from_noise() -> None:
    rng = np.random.default_rng(0)
    real, other = rng.normal(size=(2, 500, 4))
    known = radii(real)
    good = compute_prdc(real, known, other)
    collapsed = compute_prdc(real, known, real[:1] + 0.01 * rng.normal(size=(500, 4)))
    noisy = compute_prdc(real, known, 10 * other)
    assert good.precision > 0.8
    assert good.recall > 0.8
    assert good.density == pytest.approx(1, abs=0.1)
    assert good.coverage > 0.9
    assert collapsed.precision > 0.9
    assert max(collapsed.recall, collapsed.coverage) < 0.05
    assert noisy.precision < 0.2
    assert noisy.recall > 0.8


def test_duplicates_are_at_distance_zero() -> None:
    """The features are far from zero, where rounding errors are large."""
    rng = np.random.default_rng(0)
    real = np.repeat(rng.normal(size=(4, 9)) + 1e4, 7, axis=0).astype(np.float32)
    assert (radii(real) == 0).all()
    assert compute_prdc(real, radii(real), real) == PRDC(1.0, 1.0, 7 / 5, 1.0)
    assert compute_prdc(real, radii(real), real + 1).precision == 0


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((5, 3)), "n > 5"),
        (np.zeros(9), "n > 5"),
        (np.full((9, 3), np.nan), "finite"),
    ],
)
def test_too_few_samples_are_refused(features: np.ndarray, message: str) -> None:
    real = np.random.default_rng(0).normal(size=(9, 3))
    with pytest.raises(ValueError, match=message):
        radii(features)
    with pytest.raises(ValueError, match=message):
        compute_prdc(real, radii(real), features)
