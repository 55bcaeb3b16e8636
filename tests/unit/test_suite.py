"""All that is measured on features, together."""

import numpy as np
import pytest

from tuner.metrics.frechet import frechet_distance, frechet_infinity, reference
from tuner.metrics.kernel import kernel_distance
from tuner.metrics.neighbours import fidelity, radii
from tuner.metrics.suite import Scores, real_against_real, real_side, scores

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(90, 4)).astype(np.float32)
FAKE = (RNG.normal(size=(30, 4)) * 0.8).astype(np.float32)
CLASSES = np.arange(90) % 3


def test_the_real_side() -> None:
    real = real_side(REAL, CLASSES, 4, samples=30)
    assert real.features.shape == (60, 4)
    assert len(np.unique(real.features, axis=0)) == 60  # each another image
    assert real.peers.shape == (30, 4)
    np.testing.assert_array_equal(real.radii, radii(real.peers))
    np.testing.assert_allclose(real.shares, [1 / 3, 1 / 3, 1 / 3, 0])
    assert real.moments.trace == reference(REAL).trace
    again = real_side(REAL, CLASSES, 4, samples=30)
    np.testing.assert_array_equal(again.features, real.features)
    few = real_side(REAL, None, 0, samples=1000)
    assert (few.features.shape, few.peers.shape, few.shares.shape) == ((90, 4), (90, 4), (0,))
    assert real_against_real(few)[1] == 45


def test_what_is_asked_for_is_measured() -> None:
    real = real_side(REAL, CLASSES, 3, samples=30)
    cheap = scores(real, FAKE)
    assert cheap.fid == frechet_distance(reference(REAL), FAKE)
    assert cheap.variance_ratio == pytest.approx(
        np.trace(np.cov(FAKE.T)) / np.trace(np.cov(REAL.T)), rel=1e-6
    )
    assert cheap == Scores(fid=cheap.fid, variance_ratio=cheap.variance_ratio)
    classes = np.array([0] * 15 + [1] * 15)
    full = scores(real, FAKE, classes, {"kid", "neighbours", "fid_infinity"})
    assert full.kid == kernel_distance(real.features, FAKE).mean
    assert full.fid_infinity == frechet_infinity(real.moments, FAKE)
    assert full[3:7] == fidelity(real.peers, real.radii, FAKE)
    assert full.class_coverage == pytest.approx(2 / 3)
    assert full.class_entropy == pytest.approx(np.log(2) / np.log(3))


def test_real_against_real() -> None:
    real = real_side(REAL, None, 0, samples=30)
    distance, count = real_against_real(real)
    assert count == 30
    expected = frechet_distance(reference(real.features[:30]), real.features[30:])
    assert distance == expected
