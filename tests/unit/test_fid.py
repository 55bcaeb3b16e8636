"""Fréchet distance against SciPy's matrix square root and closed forms."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.metrics import fid
from tuner.metrics.fid import (
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


def by_matrix_root(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """The distance by Heusel et al.'s formula, and the scale of its rounding errors."""
    means = [x.mean(0) for x in (real, fake)]
    a, b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (real, fake))
    root = np.real(scipy.linalg.sqrtm(a @ b))
    shift = np.square(means[0] - means[1]).sum()
    return float(shift + np.trace(a + b - 2 * root)), float(np.trace(a + b))


def mixed(rng: np.random.Generator, count: int, d: int, rank: int) -> np.ndarray:
    """(count, d) features of this rank, off-centre and with different scales."""
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0][:rank] * rng.uniform(0.5, 2.0, (rank, 1))
    return rng.normal(size=(count, rank)) @ basis + rng.normal(size=d)


@quick
@given(seeds, dimensions)
def test_fid_agrees_with_scipy(seed: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    real, fake = mixed(rng, 5 * d + 5, d, d), mixed(rng, 4 * d + 5, d, d)
    expected, scale = by_matrix_root(real, fake)
    assert frechet_distance(reference(real), fake) == pytest.approx(expected, abs=1e-8 * scale)


def by_singular_values(real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """The distance with Tr (S_r S_f)^(1/2) as the sum of the singular values of X_r X_f^T, where X
    are the centred samples over sqrt(n - 1). Unlike a matrix square root, this is exact for
    singular S_r S_f, because it takes no square roots of rounding errors."""
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (real, fake)]
    root = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    scale = sum(np.square(x).sum() for x in centred)
    return float(np.square(real.mean(0) - fake.mean(0)).sum() + scale - 2 * root), float(scale)


@quick
@given(seeds, st.integers(2, 40), st.data())
def test_fid_agrees_where_covariances_are_singular(seed: int, d: int, data: st.DataObject) -> None:
    ranks = data.draw(st.tuples(st.integers(1, d), st.integers(1, d)))
    counts = data.draw(st.tuples(st.integers(2, 60), st.integers(2, 60)))
    rng = np.random.default_rng(seed)
    real, fake = (mixed(rng, n, d, rank) for n, rank in zip(counts, ranks, strict=True))
    expected, scale = by_singular_values(real, fake)
    found = frechet_distance(reference(real), fake)
    assert found == pytest.approx(expected, abs=1e-9 * scale)


@quick
@given(seeds, st.integers(2, 40), st.data())
def test_fewer_samples_than_dimensions(seed: int, d: int, data: st.DataObject) -> None:
    """The n x n and d x d forms agree. Repeating each sample d times selects the other form, and
    scales the covariance by a known factor."""
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
def test_fid_is_never_negative_or_nan(seed: int, d: int, count: int, scale: float) -> None:
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
def test_fid_matches_closed_forms(seed: int, d: int) -> None:
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
def test_fid_of_diagonal_gaussians_has_a_closed_form(seed: int, d: int) -> None:
    """The distance is the shift plus the sum of (s_r - s_f)^2; the features have exact moments."""
    rng = np.random.default_rng(seed)
    deviations, means = rng.uniform(0.1, 3.0, (2, d)), rng.normal(size=(2, d))
    signs = np.concatenate([np.eye(d), -np.eye(d)])  # variance 2 / (2 d - 1), uncorrelated
    fake = means[1] + signs * deviations[1] * np.sqrt((2 * d - 1) / 2)
    np.testing.assert_allclose(moments(fake)[1], np.diag(deviations[1] ** 2), atol=1e-12)
    np.testing.assert_allclose(moments(fake)[0], means[1], atol=1e-12)
    known = reference_from_moments(means[0], np.diag(deviations[0] ** 2))
    expected = np.square(deviations[0] - deviations[1]).sum() + np.square(means[0] - means[1]).sum()
    assert frechet_distance(known, fake) == pytest.approx(expected, rel=1e-8, abs=1e-9)


def test_fid_is_symmetric_and_takes_single_precision() -> None:
    rng = np.random.default_rng(0)
    a, b = mixed(rng, 50, 8, 8).astype(np.float32), mixed(rng, 50, 8, 8).astype(np.float32)
    there, back = frechet_distance(reference(a), b), frechet_distance(reference(b), a)
    assert there == pytest.approx(back, rel=1e-9)
    assert there == pytest.approx(
        by_matrix_root(a.astype(np.float64), b.astype(np.float64))[0], rel=1e-9
    )


def test_reference_is_mean_root_and_trace() -> None:
    features = mixed(np.random.default_rng(0), 30, 5, 5)
    mean, root, trace = reference(features)
    covariance = np.cov(features, rowvar=False)
    np.testing.assert_allclose(mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(root @ root, covariance, rtol=1e-10, atol=1e-12)
    assert trace == pytest.approx(np.trace(covariance), rel=1e-12)


GOOD = reference(np.random.default_rng(0).normal(size=(9, 3)))
NOT_FINITE = "^expected finite features, found NaN or infinity$"


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((1, 3)), "n >= 2"),
        (np.zeros((0, 3)), "n >= 2"),
        (np.zeros(3), "n >= 2"),
        (np.full((4, 3), np.nan), NOT_FINITE),
        (np.array([[0.0, 0, 0], [0, np.inf, 0]]), NOT_FINITE),
    ],
)
def test_too_few_samples_for_moments_are_refused(features: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(GOOD, features)
    with pytest.raises(ValueError, match=message):
        reference(features)


def test_other_dimensions_are_refused() -> None:
    assert isinstance(GOOD, Reference)
    with pytest.raises(ValueError, match="expected 3 features, found 4"):
        frechet_distance(GOOD, np.zeros((5, 4)))


def test_nan_is_never_a_perfect_score() -> None:
    lost = reference_from_moments(np.zeros(2), np.full((2, 2), 1.0))._replace(trace=float("nan"))
    with pytest.raises(ValueError, match="found a distance of nan"):
        frechet_distance(lost, np.random.default_rng(0).normal(size=(9, 2)))


def ill_conditioned(rng: np.random.Generator, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Deviations over eight orders of magnitude, whose squares exceed the precision of float64."""
    deviations = np.logspace(0, -8, d)
    signs = np.concatenate([np.eye(d), -np.eye(d)]) * np.sqrt((2 * d - 1) / 2)
    return deviations, signs * deviations * rng.uniform(0.5, 2.0, d)


def test_deviations_over_many_orders_of_magnitude_count() -> None:
    """Eigenvalues of the squared matrix would lose the small deviations."""
    rng, d = np.random.default_rng(0), 30
    deviations, fake = ill_conditioned(rng, d)
    known = reference_from_moments(np.zeros(d), np.diag(deviations**2))
    others = np.sqrt(np.diag(moments(fake)[1]))
    expected = np.square(deviations - others).sum()
    assert frechet_distance(known, fake) == pytest.approx(expected, abs=1e-12 * known.trace)


def with_deviations(deviations: np.ndarray, count: int, axes: np.ndarray) -> np.ndarray:
    """(count, d) features of mean zero with exactly these deviations along ``axes`` (d, rank)."""
    rank = len(deviations)
    centred = np.eye(count)[:, :rank] - 1 / count
    samples = np.linalg.qr(centred)[0] * np.sqrt(count - 1)  # orthogonal columns that sum to zero
    features: np.ndarray = (samples * deviations) @ axes.T
    return features


def rotation(d: int) -> np.ndarray:
    axes: np.ndarray = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    return axes


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_small_deviations_count_with_fewer_samples_than_dimensions(scale: float) -> None:
    """Squared deviations would keep only half of the digits."""
    d, count = 30, 20
    deviations = scale * np.logspace(0, -7, count - 1)
    fake = scale + with_deviations(deviations, count, rotation(d)[:, : count - 1])
    known = reference_from_moments(np.full(d, scale), np.eye(d) * scale**2)
    others = np.concatenate([deviations, np.zeros(d - count + 1)])
    expected = np.square(scale - others).sum()
    assert frechet_distance(known, fake) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_small_deviations_count_on_both_sides(scale: float) -> None:
    d, axes = 30, rotation(30)
    deviations = scale * np.logspace(0, -3.5, d)
    factors = np.random.default_rng(1).uniform(0.99, 1.01, d)
    fake = scale + with_deviations(deviations * factors, 2 * d, axes)
    known = reference_from_moments(np.full(d, scale), (axes * deviations**2) @ axes.T)
    expected = np.square(deviations * (1 - factors)).sum()
    assert frechet_distance(known, fake) == pytest.approx(expected, abs=1e-13 * known.trace)


def test_moments_of_many_rows_in_single_precision() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(9001, 5)) + 100).astype(np.float32)  # three chunks
    mean, covariance = moments(features)
    exact = features.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-13)
    np.testing.assert_allclose(covariance, np.cov(exact, rowvar=False), rtol=1e-10, atol=1e-12)


def test_overflow_is_refused() -> None:
    huge = np.random.default_rng(0).normal(size=(9, 3)) * 1e200
    for fake in (huge, huge[:2]):
        with pytest.raises(ValueError, match="expected a finite number"):
            frechet_distance(GOOD, fake)


def test_extrapolation_removes_the_bias() -> None:
    """Few samples overestimate the distance of two Gaussians, the sum of (s_r - s_f)^2."""
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


def test_extrapolation_fits_subsets_of_at_least_half_of_the_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = np.random.default_rng(0).normal(size=(101, 3))
    subsets: list[np.ndarray] = []

    def biased(real: Reference, subset: np.ndarray) -> float:
        subsets.append(subset)
        return 5.0 + 3.0 / len(subset)

    monkeypatch.setattr(fid, "frechet_distance", biased)
    assert frechet_infinity(GOOD, features) == pytest.approx(5.0, rel=1e-12)
    sizes = [len(subset) for subset in subsets]
    assert (sizes[0], sizes[-1], len(set(sizes))) == (50, 101, 15)
    rows = {tuple(row) for row in features}
    assert all(len({tuple(row) for row in subset} & rows) == len(subset) for subset in subsets)
    assert not np.array_equal(subsets[0], features[:50])  # a random subset


def test_extrapolation_needs_two_sizes() -> None:
    assert np.isfinite(frechet_infinity(GOOD, np.random.default_rng(0).normal(size=(3, 3))))
