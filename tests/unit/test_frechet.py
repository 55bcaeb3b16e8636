"""The Fréchet distance against SciPy's matrix square root and against closed forms."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.metrics.frechet import (
    Reference,
    frechet_distance,
    frechet_infinity,
    moments,
    reference,
    reference_from_moments,
)

seeds = st.integers(0, 2**32 - 1)
dimensions = st.integers(1, 40)
quick = settings(max_examples=40, deadline=None)


def literal(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """The distance as Heusel et al. write it, and the scale of its rounding errors."""
    means = [x.mean(0) for x in (real, fake)]
    a, b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (real, fake))
    root = np.real(scipy.linalg.sqrtm(a @ b))
    shift = np.square(means[0] - means[1]).sum()
    return float(shift + np.trace(a + b - 2 * root)), float(np.trace(a + b))


def mixed(rng: np.random.Generator, count: int, d: int, rank: int) -> np.ndarray:
    """(count, d) features of this rank, neither centred nor scaled alike."""
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0][:rank] * rng.uniform(0.5, 2.0, (rank, 1))
    return rng.normal(size=(count, rank)) @ basis + rng.normal(size=d)


@quick
@given(seeds, dimensions)
def test_agrees_with_scipy(seed: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    real, fake = mixed(rng, 5 * d + 5, d, d), mixed(rng, 4 * d + 5, d, d)
    expected, scale = literal(real, fake)
    assert frechet_distance(reference(real), fake) == pytest.approx(expected, abs=1e-8 * scale)


def nuclear(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """The distance by another road: Tr (S_r S_f)^(1/2) is the sum of the singular values of
    X_r X_f^T, X the centred samples over sqrt(n - 1). Exact where S_r S_f is singular, where a
    matrix square root is not; needs no square root of a rounding error."""
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (real, fake)]
    root = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    scale = sum(np.square(x).sum() for x in centred)
    return float(np.square(real.mean(0) - fake.mean(0)).sum() + scale - 2 * root), float(scale)


@quick
@given(seeds, st.integers(2, 40), st.data())
def test_agrees_where_covariances_are_singular(seed: int, d: int, data: st.DataObject) -> None:
    ranks = data.draw(st.tuples(st.integers(1, d), st.integers(1, d)))
    counts = data.draw(st.tuples(st.integers(2, 60), st.integers(2, 60)))
    rng = np.random.default_rng(seed)
    real, fake = (mixed(rng, n, d, rank) for n, rank in zip(counts, ranks, strict=True))
    expected, scale = nuclear(real, fake)
    found = frechet_distance(reference(real), fake)
    assert found == pytest.approx(expected, abs=1e-9 * scale)


@quick
@given(seeds, st.integers(2, 40), st.data())
def test_fewer_samples_than_dimensions(seed: int, d: int, data: st.DataObject) -> None:
    """The n x n form and the d x d form agree: repeating every sample twice changes the form, and
    the covariance by a known factor only."""
    count = data.draw(st.integers(2, d))
    rng = np.random.default_rng(seed)
    real, fake = mixed(rng, 3 * d, d, d), mixed(rng, count, d, d)
    many = np.repeat(fake, d, axis=0)
    factor = np.sqrt((len(many) - 1) / d / (count - 1))
    mean = fake.mean(0)
    known = reference(real)
    expected = frechet_distance(known, mean + (many - mean) * factor)
    assert frechet_distance(known, fake) == pytest.approx(expected, abs=1e-9 * known.trace)


@quick
@given(seeds, dimensions, st.integers(2, 60), st.sampled_from([1e-12, 1.0, 1e12]))
def test_is_never_negative_or_nan(seed: int, d: int, count: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    real = scale * mixed(rng, 20, d, int(rng.integers(1, d + 1)))
    constant = np.full((count, d), scale)
    duplicates = np.repeat(real[:1] + scale * rng.normal(size=(2, d)), count, axis=0)
    for fake in (real, real[:2], constant, duplicates, np.zeros((count, d)), -real):
        for known in (reference(real), reference(constant)):
            distance = frechet_distance(known, fake)
            assert np.isfinite(distance)
            assert distance >= 0


@quick
@given(seeds, dimensions)
def test_closed_forms(seed: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    real = mixed(rng, 3 * d + 3, d, d)
    known, shift = reference(real), rng.normal(size=d)
    scale = known.trace + 1
    assert frechet_distance(known, real) == pytest.approx(0, abs=1e-9 * scale)
    assert frechet_distance(known, rng.permutation(real)) == pytest.approx(0, abs=1e-9 * scale)
    moved = frechet_distance(known, real + shift)
    assert moved == pytest.approx(np.square(shift).sum(), abs=1e-8 * scale)
    wider = frechet_distance(known, real.mean(0) + 3 * (real - real.mean(0)))
    assert wider == pytest.approx(4 * known.trace, rel=1e-8)
    point = frechet_distance(known, np.tile(real.mean(0) + shift, (4, 1)))
    assert point == pytest.approx(np.square(shift).sum() + known.trace, rel=1e-9)


@quick
@given(seeds, dimensions)
def test_diagonal_gaussians(seed: int, d: int) -> None:
    """Sum of (s_r - s_f)^2 plus the shift, from features whose moments are exact."""
    rng = np.random.default_rng(seed)
    deviations, means = rng.uniform(0.1, 3.0, (2, d)), rng.normal(size=(2, d))
    signs = np.concatenate([np.eye(d), -np.eye(d)])  # variance 2 / (2 d - 1), uncorrelated
    fake = means[1] + signs * deviations[1] * np.sqrt((2 * d - 1) / 2)
    np.testing.assert_allclose(moments(fake)[1], np.diag(deviations[1] ** 2), atol=1e-12)
    np.testing.assert_allclose(moments(fake)[0], means[1], atol=1e-12)
    known = reference_from_moments(means[0], np.diag(deviations[0] ** 2))
    expected = np.square(deviations[0] - deviations[1]).sum() + np.square(means[0] - means[1]).sum()
    assert frechet_distance(known, fake) == pytest.approx(expected, rel=1e-8, abs=1e-9)


def test_is_symmetric_and_takes_single_precision() -> None:
    rng = np.random.default_rng(0)
    a, b = mixed(rng, 50, 8, 8).astype(np.float32), mixed(rng, 50, 8, 8).astype(np.float32)
    there, back = frechet_distance(reference(a), b), frechet_distance(reference(b), a)
    assert there == pytest.approx(back, rel=1e-9)
    assert there == pytest.approx(literal(a.astype(np.float64), b.astype(np.float64))[0], rel=1e-9)


def test_reference_is_mean_root_and_trace() -> None:
    features = mixed(np.random.default_rng(0), 30, 5, 5)
    mean, root, trace = reference(features)
    covariance = np.cov(features, rowvar=False)
    np.testing.assert_allclose(mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(root @ root, covariance, rtol=1e-10, atol=1e-12)
    assert trace == pytest.approx(np.trace(covariance), rel=1e-12)


GOOD = reference(np.random.default_rng(0).normal(size=(9, 3)))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((1, 3)), "n >= 2"),
        (np.zeros((0, 3)), "n >= 2"),
        (np.zeros(3), "n >= 2"),
        (np.full((4, 3), np.nan), "finite"),
        (np.array([[0.0, 0, 0], [0, np.inf, 0]]), "finite"),
    ],
)
def test_what_has_no_moments_is_refused(features: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(GOOD, features)
    with pytest.raises(ValueError, match=message):
        reference(features)


def test_other_dimensions_are_refused() -> None:
    assert isinstance(GOOD, Reference)
    with pytest.raises(ValueError, match="expected 3 features, found 4"):
        frechet_distance(GOOD, np.zeros((5, 4)))


def test_what_is_not_a_number_is_never_a_perfect_score() -> None:
    lost = reference_from_moments(np.zeros(2), np.full((2, 2), 1.0))._replace(trace=float("nan"))
    with pytest.raises(ValueError, match="found a distance of nan"):
        frechet_distance(lost, np.random.default_rng(0).normal(size=(9, 2)))


def ill_conditioned(rng: np.random.Generator, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Deviations over eight orders of magnitude, whose squares float64 can't hold side by side."""
    deviations = np.logspace(0, -8, d)
    signs = np.concatenate([np.eye(d), -np.eye(d)]) * np.sqrt((2 * d - 1) / 2)
    return deviations, signs * deviations * rng.uniform(0.5, 2.0, d)


def test_many_orders_of_magnitude() -> None:
    """What eigenvalues of a square would lose: sum of (s_r - s_f)^2 in closed form."""
    rng, d = np.random.default_rng(0), 30
    deviations, fake = ill_conditioned(rng, d)
    known = reference_from_moments(np.zeros(d), np.diag(deviations**2))
    others = np.sqrt(np.diag(moments(fake)[1]))
    expected = np.square(deviations - others).sum()
    assert frechet_distance(known, fake) == pytest.approx(expected, abs=1e-12 * known.trace)


def test_moments_of_many_rows_in_single_precision() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(9001, 5)) + 100).astype(np.float32)  # three chunks
    mean, covariance = moments(features)
    exact = features.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-13)
    np.testing.assert_allclose(covariance, np.cov(exact, rowvar=False), rtol=1e-10, atol=1e-12)


def test_numbers_too_large_are_refused_and_not_made_up() -> None:
    huge = np.random.default_rng(0).normal(size=(9, 3)) * 1e200
    for fake in (huge, huge[:2]):
        with pytest.raises(ValueError, match="expected a finite number"):
            frechet_distance(GOOD, fake)


def test_extrapolation_takes_the_bias_away() -> None:
    """Two Gaussians whose distance is known: sum of (s_r - s_f)^2. Few samples add to it."""
    rng, d = np.random.default_rng(0), 64
    deviations = np.arange(1.0, d + 1) ** -0.25
    others = deviations * np.linspace(0.9, 1.1, d)
    known = reference_from_moments(np.zeros(d), np.diag(deviations**2))
    expected = np.square(deviations - others).sum()
    found = [rng.normal(size=(1000, d)) * others for _ in range(20)]
    plain = np.mean([frechet_distance(known, fake) for fake in found])
    extrapolated = np.mean([frechet_infinity(known, fake) for fake in found])
    assert plain > 3 * expected
    assert extrapolated == pytest.approx(expected, rel=0.25)
    assert frechet_infinity(known, found[0]) == frechet_infinity(known, found[0])
    with pytest.raises(ValueError, match="at least 3 samples"):
        frechet_infinity(known, found[0][:2])
