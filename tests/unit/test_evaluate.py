"""All metrics of features together."""

import numpy as np
import pytest

from tuner.epoch_report import MEASUREMENTS
from tuner.metrics.evaluate import NO_SCORES, real_against_real, reference_statistics, scores
from tuner.metrics.fid import frechet_distance, frechet_infinity, reference
from tuner.metrics.kid import kernel_distance
from tuner.metrics.prdc import compute_prdc, radii

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(90, 4)).astype(np.float32)
FAKE = (RNG.normal(size=(30, 4)) * 0.8).astype(np.float32)
CLASSES = np.arange(90) % 3


def test_reference_statistics_describe_the_real_images() -> None:
    real = reference_statistics(REAL, CLASSES, 4, samples=30)
    assert real.features.shape == (60, 4)
    assert len(np.unique(real.features, axis=0)) == 60  # all different images
    assert real.matched.shape == (30, 4)
    np.testing.assert_array_equal(real.radii, radii(real.matched))
    np.testing.assert_allclose(real.shares, [1 / 3, 1 / 3, 1 / 3, 0])
    assert real.moments.trace == reference(REAL).trace
    again = reference_statistics(REAL, CLASSES, 4, samples=30)
    np.testing.assert_array_equal(again.features, real.features)
    few = reference_statistics(REAL, None, 0, samples=1000)
    assert (few.features.shape, few.matched.shape, few.shares.shape) == ((90, 4), (90, 4), (0,))
    assert real_against_real(few)[1] == 45


def test_optional_metrics_are_computed_on_request() -> None:
    real = reference_statistics(REAL, CLASSES, 3, samples=30)
    cheap = scores(real, FAKE)
    assert cheap["fid"] == frechet_distance(reference(REAL), FAKE)
    assert cheap["variance_ratio"] == pytest.approx(
        np.trace(np.cov(FAKE.T)) / np.trace(np.cov(REAL.T)), rel=1e-6
    )
    measured = {name for name, value in cheap.items() if value is not None}
    assert measured == {"fid", "variance_ratio"}
    classes = np.array([0] * 15 + [1] * 15)
    full = scores(real, FAKE, classes, {"kid", "neighbours", "fid_infinity"})
    assert full["kid"] == kernel_distance(real.features, FAKE).mean
    assert full["fid_infinity"] == frechet_infinity(real.moments, FAKE)
    expected = compute_prdc(real.matched, real.radii, FAKE)
    assert {name: full[name] for name in expected._fields} == expected._asdict()
    assert full["class_coverage"] == pytest.approx(2 / 3)
    assert full["class_entropy"] == pytest.approx(np.log(2) / np.log(3))


def test_metrics_fill_measurements_of_the_epoch_report() -> None:
    assert set(NO_SCORES) <= {field.name for field in MEASUREMENTS}
    real = reference_statistics(REAL, CLASSES, 3, samples=30)
    full = scores(real, FAKE, CLASSES[:30], {"kid", "neighbours", "fid_infinity", "cmmd"})
    assert list(full) == list(NO_SCORES)
    assert None not in full.values()


def test_real_against_real_compares_two_parts_of_the_features() -> None:
    real = reference_statistics(REAL, None, 0, samples=30)
    distance, count = real_against_real(real)
    assert count == 30
    expected = frechet_distance(reference(real.features[:30]), real.features[30:])
    assert distance == expected
