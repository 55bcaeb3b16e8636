"""DiffAugment, flips and instance noise against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from builders import hyperparameters

from tuner.gan.augmentation import adapted, differentiable, flipped, noisy
from tuner.gan.state import AdaptiveAugmentation
from tuner.trial import Program

COUNT, SIZE = 400, 16
IMAGES = jnp.float32(np.random.default_rng(0).uniform(-1, 1, (COUNT, SIZE, SIZE, 3)))
KEY = jax.random.key(3)


def augmented(*policies: str) -> np.ndarray:
    return np.asarray(differentiable(IMAGES, policies, KEY))


def test_translation_moves_whole_images_by_up_to_an_eighth() -> None:
    found, source = augmented("translation"), np.asarray(IMAGES)
    seen = set()
    for image, original in zip(found, source, strict=True):
        padded = np.pad(original, [(2, 2), (2, 2), (0, 0)])
        shifts = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if np.array_equal(padded[i : i + SIZE, j : j + SIZE], image)
        ]
        assert len(shifts) == 1
        seen.add(shifts[0])
    assert len(seen) == 25  # all shifts in rows and columns


def test_cutout_blanks_a_square_of_half_the_size() -> None:
    found = augmented("cutout")
    heights, widths = set(), set()
    for image, original in zip(found, np.asarray(IMAGES), strict=True):
        grey = (image == 0).all(axis=2)
        rows, columns = np.flatnonzero(grey.any(1)), np.flatnonzero(grey.any(0))
        assert grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        np.testing.assert_array_equal(image[~grey], original[~grey])
        heights.add(len(rows))
        widths.add(len(columns))
    assert max(heights) == max(widths) == SIZE // 2
    # Centred on an edge, the square is half outside.
    assert min(heights) == min(widths) == SIZE // 4


def test_colour_transforms_each_image_separately() -> None:
    """Brightness, saturation and contrast are affine, so their factors can be recovered."""
    found, source = augmented("color").astype(np.float64), np.asarray(IMAGES, np.float64)
    factors = list[tuple[float, float, float]]()
    for image, original in zip(found, source, strict=True):
        grey, shown = original.mean(2), image.mean(2)
        contrast = (shown - shown.mean()).ravel() @ (grey - grey.mean()).ravel()
        contrast /= np.square(grey - grey.mean()).sum()
        chroma, was = image - shown[..., None], original - grey[..., None]
        factors.append(
            (shown.mean() - grey.mean(), (chroma * was).sum() / (was**2).sum() / contrast, contrast)
        )
        np.testing.assert_allclose(shown - shown.mean(), contrast * (grey - grey.mean()), atol=1e-5)
    for i, (low, high) in enumerate([(-0.5, 0.5), (0.0, 2.0), (0.5, 1.5)]):
        values = np.array(factors)[:, i]
        assert low - 1e-4 <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high + 1e-4
        assert np.corrcoef(values, np.arange(COUNT))[0, 1] == pytest.approx(0, abs=0.2)


def test_augmentation_is_differentiable_and_deterministic() -> None:
    policies = ("color", "translation", "cutout")
    np.testing.assert_array_equal(augmented(*policies), augmented(*policies))
    gradient = jax.grad(lambda x: differentiable(x, policies, KEY).sum())(IMAGES)
    assert np.isfinite(gradient).all()
    # The gradient is 1 for visible pixels and 0 for those shifted or cut out.
    gradient = jax.grad(lambda x: differentiable(x, policies[1:], KEY).sum())(IMAGES)
    assert set(np.unique(gradient)) == {0.0, 1.0}
    assert (augmented() == np.asarray(IMAGES)).all()


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_images_are_augmented_with_a_probability(probability: float) -> None:
    """Each image either whole or not at all, and then as without a probability."""
    policies = ("color", "translation", "cutout")
    always, source = augmented(*policies), np.asarray(IMAGES)
    found = np.asarray(differentiable(IMAGES, policies, KEY, jnp.float32(probability)))
    changed = [np.array_equal(x, y) for x, y in zip(found, always, strict=True)]
    kept = [np.array_equal(x, y) for x, y in zip(found, source, strict=True)]
    assert all(a != b for a, b in zip(changed, kept, strict=True))
    assert np.mean(changed) == pytest.approx(probability, abs=0.08 * (0 < probability < 1))


def test_the_gradient_passes_through_images_augmented_or_not() -> None:
    half = jnp.float32(0.5)
    gradient = jax.grad(lambda x: differentiable(x, ("cutout",), KEY, half).sum())(IMAGES)
    hidden = np.asarray(gradient == 0).any(axis=(1, 2, 3))
    assert set(np.unique(gradient)) == {0.0, 1.0}
    assert 0.3 < hidden.mean() < 0.7


def test_half_of_the_images_are_mirrored() -> None:
    found, source = np.asarray(flipped(IMAGES, KEY)), np.asarray(IMAGES)
    mirrored = [np.array_equal(x, y[:, ::-1]) for x, y in zip(found, source, strict=True)]
    left = [np.array_equal(x, y) for x, y in zip(found, source, strict=True)]
    assert all(a != b for a, b in zip(mirrored, left, strict=True))
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.1)


def test_noise_has_its_deviation() -> None:
    added = np.asarray(noisy(IMAGES, jnp.float32(0.2), KEY) - IMAGES)
    assert added.std() == pytest.approx(0.2, rel=0.01)
    assert abs(added.mean()) < 0.002


def test_probability_adapts_as_in_the_paper() -> None:
    """Against the rule of Karras et al. 2020, section 3.2, one minibatch after the other."""
    program = Program(
        *("dcgan", "dcgan", 2, 9, (32, 32, 1), 8, "hinge", "sgd", "sgd", 2, False),
        augment=("color",),
        augment_adapts=True,
    )
    h = hyperparameters(augment_target=0.6, augment_images=400.0)
    signs = np.random.default_rng(0).uniform(0.1, 1.0, 80).astype(np.float32)
    signs[40:60] = 0.9  # overfitting raises the probability to 1
    now, p, seen = AdaptiveAugmentation(jnp.float32(0), jnp.float32(0)), 0.0, list[float]()
    for step, sign in enumerate(signs):
        now = adapted(program, h, now, jnp.float32(sign), jnp.int32(step))
        seen.append(float(sign))
        if len(seen) == 4:  # minibatches, of 8 images for each of two updates of D
            direction = 1 if sum(seen) / 4 > 0.6 else -1
            p, seen = min(1.0, max(0.0, p + direction * 4 * 8 * 2 / 400)), []
        np.testing.assert_allclose(float(now.probability), p, atol=1e-6)
