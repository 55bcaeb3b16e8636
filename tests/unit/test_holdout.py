"""Held-out images: the split by content, scores against both sides, copies of training images."""

import numpy as np
import pytest
from builders import assert_problem, spec_of

from tuner.data import load_images
from tuner.data.holdout import hold_out, is_held_out
from tuner.data.images import ImageSet
from tuner.epoch_report import COMPARED, FIELDS
from tuner.errors import InputError
from tuner.files.serialization import decode_reference_statistics, encode_reference_statistics
from tuner.metrics.evaluate import (
    ReferenceStatistics,
    held_out_statistics,
    reference_statistics,
    scores,
)
from tuner.metrics.fid import frechet_distance, reference
from tuner.metrics.memorisation import CopyDetector
from tuner.run.startup import check_data
from tuner.spec.data import DataSpec
from tuner.study.verdict import copying_sign

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (2000, 4, 4, 1), np.uint8)


def test_the_split_depends_on_the_content_alone() -> None:
    order = np.random.default_rng(1).permutation(len(IMAGES))
    chosen = is_held_out(IMAGES, 0.1)
    assert 150 < chosen.sum() < 250  # 200 expected, standard deviation 13
    np.testing.assert_array_equal(is_held_out(IMAGES[order], 0.1), chosen[order])
    np.testing.assert_array_equal(is_held_out(IMAGES[:9], 0.1), chosen[:9])
    assert is_held_out(IMAGES, 0.2)[chosen].all()  # a larger share adds images


def test_both_sides_are_disjoint_even_with_equal_images() -> None:
    doubled = np.concatenate([IMAGES, IMAGES[::-1]])
    labels = np.arange(len(doubled)) % 7
    found = hold_out(ImageSet(doubled, labels, "whole"), 0.1)
    assert found.held_out is not None
    assert found.labels is not None
    sides = [{image.tobytes() for image in side} for side in (found.images, found.held_out)]
    assert not sides[0] & sides[1]
    assert len(found.images) + len(found.held_out) == len(doubled)
    chosen = is_held_out(doubled, 0.1)
    np.testing.assert_array_equal(found.images, doubled[~chosen])
    np.testing.assert_array_equal(found.labels, labels[~chosen])
    assert found.fingerprint not in ("whole", hold_out(found, 0.2).fingerprint)


def test_too_few_held_out_images_are_refused() -> None:
    spec = spec_of("[data]\nholdout = 0.1\n[trial]\nbatch_size = 8\n[metrics]\nfeatures = 'random'")
    images = ImageSet(np.repeat(IMAGES[:400], 8, 1).repeat(8, 2), None, "whole")
    with pytest.raises(InputError, match=r"data.holdout: holds out \d\d of 400 images, expected"):
        check_data(spec, hold_out(images, 0.05))
    check_data(spec, hold_out(images, 0.3))
    assert_problem("[metrics]\nheldout = 'every'", "metrics.heldout", "data.holdout")


def features(count: int, seed: int) -> np.ndarray:
    """Points of two clusters, one of which is much denser."""
    rng = np.random.default_rng(seed)
    wide = rng.random(count) < 0.5
    points = rng.normal(size=(count, 6)) * np.where(wide, 3.0, 0.1)[:, None]
    return (points + 10 * wide[:, None]).astype(np.float32)


TRAINING, HELD_OUT, NEW = features(3000, 0), features(300, 1), features(1000, 2)


def brute_force_closeness(x: np.ndarray, training: np.ndarray) -> np.ndarray:
    to_training = np.linalg.norm(x[:, None].astype(float) - training, axis=2)
    nearest = to_training.argmin(axis=1)
    between = np.linalg.norm(training[nearest][:, None].astype(float) - training, axis=2)
    between[between == 0] = np.inf
    found: np.ndarray = (to_training.min(axis=1) / between.min(axis=1)) ** 2
    return found


def test_closeness_agrees_with_brute_force() -> None:
    found = CopyDetector(TRAINING, HELD_OUT).closeness(NEW[:200])
    np.testing.assert_allclose(found, brute_force_closeness(NEW[:200], TRAINING), rtol=1e-9)
    nearest = CopyDetector(TRAINING, HELD_OUT).nearest(NEW[:20], 3)
    distances = np.linalg.norm(NEW[:20, None] - TRAINING, axis=2)
    np.testing.assert_array_equal(nearest, distances.argsort(axis=1)[:, :3])


def test_copies_are_told_from_new_images() -> None:
    detector = CopyDetector(TRAINING, HELD_OUT)
    assert detector.copied(NEW) < 0.05
    assert detector.copied(TRAINING[:500]) == pytest.approx(0.95, abs=0.01)
    partly = np.concatenate([TRAINING[:300], 20 + NEW[:700]])  # the others are bad
    assert detector.copied(partly) == pytest.approx(0.25, abs=0.02)
    near = TRAINING[:500] + np.float32(1e-3) * NEW[:500]
    assert detector.copied(near) > 0.8
    dense = NEW[NEW.mean(axis=1) < 2]  # a generator that makes nothing but the denser cluster
    assert detector.copied(dense) < 0.1


def test_images_that_the_data_repeats_are_not_copies() -> None:
    """Here a third of the held-out images have the features of training images."""
    repeated = np.concatenate([HELD_OUT[:200], TRAINING[:100]])
    detector = CopyDetector(np.concatenate([TRAINING, TRAINING[:100]]), repeated)
    new = np.concatenate([NEW[:400], TRAINING[:200]])
    assert detector.copied(new) < 0.05
    assert detector.copied(TRAINING) > 0.6


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of real digits as features: training images, held-out ones, and fresh ones."""
    found = load_images(DataSpec(source="digits", holdout=0.3))
    assert found.held_out is not None
    random = np.random.default_rng(0)  # the digits are ordered by their writers
    training, rest = (
        random.permutation(x[:, ::4, ::4].reshape(len(x), -1) / np.float32(16))
        for x in (found.images, found.held_out)
    )
    return training, rest[:250], rest[250:]


def statistics(training: np.ndarray, held_out: np.ndarray) -> ReferenceStatistics:
    real = reference_statistics(training, None, 0, 300)
    return real._replace(held_out=held_out_statistics(held_out, training, 300))


def test_a_copying_generator_is_flagged_and_fresh_real_images_are_not() -> None:
    training, held_out, fresh = digits()
    real = statistics(training, held_out)
    groups = {"kid", "neighbours", "heldout"}
    copies = scores(real, training[: len(fresh)], None, groups)
    new = scores(real, fresh, None, groups)
    assert copying_sign(copies) == "95% of its samples"
    assert copying_sign(new) is None
    assert (copies["fid"] or 0.0) < (new["fid"] or 0.0)  # FID prefers the copies


def test_scores_against_held_out_images_use_as_many_training_images() -> None:
    real = statistics(TRAINING, HELD_OUT)
    assert real.held_out is not None
    found = scores(real, NEW, None, {"kid", "neighbours", "fid_infinity", "cmmd", "heldout"})
    held_out, training = real.held_out.sides
    assert len(training.features) == len(held_out.features) == len(HELD_OUT)
    expected = frechet_distance(reference(HELD_OUT), NEW)
    assert found["heldout_fid"] == pytest.approx(expected, rel=1e-12)
    assert found["fid_gap"] == pytest.approx(
        expected - frechet_distance(reference(training.features), NEW), rel=1e-9
    )
    assert found["fid"] == frechet_distance(reference(TRAINING), NEW)
    for name in COMPARED:
        assert found[f"heldout_{name}"] is not None
        assert found[f"{name}_gap"] is not None
    assert set(found) <= set(FIELDS)
    assert scores(real, NEW, None, {"heldout"})["heldout_fid"] == found["heldout_fid"]
    assert "heldout_fid" not in scores(real, NEW)


def test_held_out_statistics_survive_storage() -> None:
    real = statistics(TRAINING, HELD_OUT)
    read = decode_reference_statistics(encode_reference_statistics(real), "a file")
    assert scores(read, NEW, None, {"heldout"}) == scores(real, NEW, None, {"heldout"})
