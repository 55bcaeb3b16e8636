"""Precision, recall, density and coverage against the papers' formulas."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.metrics import distances, prdc
from tuner.metrics.distances import approximate, centred, error_bound, exact, of_pairs
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
    monkeypatch.setattr(distances, "ROWS", 8)
    monkeypatch.setattr(distances, "COLUMNS", 9)
    assert compute_prdc(real, radii(real), fake) == pytest.approx(whole)
    never_all_in_float64(monkeypatch)
    assert compute_prdc(real, radii(real), fake) == pytest.approx(whole)


def never_all_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 decides what it can, however few the samples are."""
    for module in (prdc, distances):
        monkeypatch.setattr(module, "FEW", 1.1)


@pytest.mark.parametrize("d", [3, 200])
def test_float32_decides_as_float64_does(d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(d)
    real, fake = rng.normal(size=(2, 900, d)).astype(np.float32)
    fake = 0.9 * fake + np.float32(0.1)
    pairs = list[int]()
    monkeypatch.setattr(prdc, "_exact_radii", None)  # is not needed
    monkeypatch.setattr(distances, "exact", None)
    monkeypatch.setattr(prdc, "of_pairs", lambda *args: _counted(pairs, args))
    monkeypatch.setattr(distances, "of_pairs", lambda *args: _counted(pairs, args))
    found_radii = radii(real)
    found = compute_prdc(real, found_radii, fake)
    assert sum(pairs) < 20 * len(real)
    monkeypatch.undo()
    monkeypatch.setattr(prdc, "FEW", 0)
    monkeypatch.setattr(distances, "FEW", 0)
    np.testing.assert_allclose(found_radii, radii(real), rtol=1e-12)
    assert found == compute_prdc(real, radii(real), fake)
    assert 0.01 < found.recall < 0.99


def _counted(pairs: list[int], args: tuple[Any, ...]) -> np.ndarray:
    pairs.append(len(args[2]))
    return of_pairs(*args)


@pytest.mark.parametrize("offset", [0, 1000])
def test_equal_distances_are_within(offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a grid many distances equal a radius; whole numbers have exact ones."""
    never_all_in_float64(monkeypatch)
    rng = np.random.default_rng(1)
    real, fake = rng.integers(0, 5, (2, 150, 6))

    def squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.square(a[:, None] - b).sum(axis=2)
        return found

    def ball(points: np.ndarray, k: int) -> np.ndarray:
        nearest: np.ndarray = np.sort(squared(points, points), axis=1)
        return nearest[:, k]  # the first is the point itself

    across = squared(fake, real)
    inside = across <= ball(real, 5)
    expected = PRDC(
        precision=float((across <= ball(real, 3)).any(axis=1).mean()),
        recall=float((across <= ball(fake, 3)[:, None]).any(axis=0).mean()),
        density=float(inside.sum() / (5 * len(fake))),
        coverage=float(inside.any(axis=0).mean()),
    )
    assert (across == ball(real, 5)).sum() > 100
    real, fake = ((x + offset).astype(np.float32) for x in (real, fake))
    np.testing.assert_array_equal(radii(real), [ball(real, 3), ball(real, 5)])
    assert compute_prdc(real, radii(real), fake) == expected


@pytest.mark.parametrize("few", [0, 1.1])  # all in float64, or only what float32 can't decide
def test_differences_too_small_for_float32_count(
    few: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Generated samples lie a billionth within or outside the balls of real ones."""
    monkeypatch.setattr(prdc, "FEW", few)
    monkeypatch.setattr(distances, "FEW", few)
    rng = np.random.default_rng(2)
    real = 100 * np.eye(40) + rng.normal(size=(40, 40))
    known = radii(real)
    steps = rng.normal(size=(40, 40))
    steps *= np.sqrt(known[0] / np.square(steps).sum(axis=1))[:, None]
    steps[:10] *= 1 - 1e-9
    steps[10:] *= 1 + 1e-9
    assert compute_prdc(real, known, real + steps).precision == 10 / 40


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_the_scale_of_the_features_does_not_matter(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float32 holds neither the squares of the largest features nor those of the smallest."""
    never_all_in_float64(monkeypatch)
    rng = np.random.default_rng(3)
    real, fake = rng.normal(size=(2, 60, 4))
    expected = compute_prdc(real, radii(real), 0.5 * fake)
    found = compute_prdc(scale * real, radii(scale * real), scale * 0.5 * fake)
    assert found == expected


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 17, 300]),
    st.sampled_from([0.0, 1.0, 100.0]),
    st.sampled_from([1e-6, 1e-3, 1.0, 1e6]),
)
def test_errors_of_float32_stay_within_their_bound(
    seed: int, d: int, offset: float, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.normal(size=d))
    real, fake = scale * (rng.normal(size=(2, 30, d)) * spread + offset)
    b = centred(real)
    a = centred(fake, b.centre)
    errors = np.abs(approximate(a, b) - exact(a, b))
    assert errors.max() <= error_bound(a, b) < np.inf


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
