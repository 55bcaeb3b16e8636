"""Feature extractors: accuracy, determinism, independence of chunks."""

import jax
import numpy as np
import pytest

from tuner.data import load_images
from tuner.metrics import extractors
from tuner.metrics.extractors import (
    CHUNK,
    FEATURES,
    Extractor,
    Weights,
    _init_weights,
    random_extractor,
    train_classifier,
)
from tuner.spec.data import DataSpec

SHAPE = (16, 16, 1)


def corners(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright square in one of four corners, and the corner as the label."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, count)
    images = rng.integers(0, 100, (count, *SHAPE))
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = 8 * (label // 2), 8 * (label % 2)
        image[row + 2 : row + 6, column + 2 : column + 6] += 150
    return images.astype(np.uint8), labels


def equal(a: Extractor, b: Extractor) -> bool:
    assert a.weights.keys() == b.weights.keys()
    return all(np.array_equal(a.weights[name], b.weights[name]) for name in a.weights)


def test_a_classifier_learns_and_is_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors, "EPOCHS", 8)
    images, labels = corners(600)
    first, second = train_classifier(images, labels), train_classifier(images, labels)
    assert first.accuracy is not None
    assert first.accuracy > 0.95
    assert equal(first, second)
    assert (first.kind, first.accuracy) == ("classifier", second.accuracy)
    fresh, fresh_labels = (part[600:] for part in corners(900))
    found = first.classes(first(fresh))
    assert found is not None
    assert (found == fresh_labels).mean() > 0.95
    assert (found.shape, first.class_count) == ((300,), 4)


def test_accuracy_is_measured_on_images_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = corners(603)
    seen: list[bytes] = []

    def train(images: np.ndarray, labels: np.ndarray, classes: int, steps: int) -> Weights:
        assert (len(labels), classes) == (483, 4)
        seen.extend(image.tobytes() for image in images)
        return _init_weights(SHAPE, classes)

    monkeypatch.setattr(extractors, "_train", train)
    extractor = train_classifier(images, labels)
    known = set(seen)
    unseen = np.array([image.tobytes() not in known for image in images])
    assert (len(known), unseen.sum()) == (483, 120)
    right = extractor.classes(extractor(images[unseen])) == labels[unseen]
    assert extractor.accuracy == pytest.approx(np.mean(right))


def test_random_features_are_deterministic() -> None:
    first = random_extractor(SHAPE)
    assert equal(first, random_extractor(SHAPE))
    assert (first.kind, first.accuracy, first.class_count) == ("random", None, 0)
    assert first.classes(first(corners(2)[0])) is None
    found = first(corners(10)[0])
    assert found.shape == (10, FEATURES)
    assert found.dtype == np.float32
    assert found.std() > 0


@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 44])
def test_chunks_change_nothing(count: int) -> None:
    images = corners(count)[0]
    extractor = random_extractor(SHAPE)
    found = extractor(images)
    parts = [extractor(images[i : i + CHUNK]) for i in range(0, count, CHUNK)]
    np.testing.assert_array_equal(found, np.concatenate(parts))
    np.testing.assert_array_equal(found, extractor(jax.device_put(images)))
    # An image's features do not depend on the other images of a chunk.
    last = extractor(images[-1:])
    np.testing.assert_allclose(found[-1:], last, rtol=1e-5, atol=1e-5 * np.abs(last).max())


def test_the_digits_classifier_is_accurate() -> None:
    digits = load_images(DataSpec())
    assert digits.labels is not None
    extractor = train_classifier(digits.images, digits.labels)
    assert extractor.accuracy is not None
    assert extractor.accuracy >= 0.96
