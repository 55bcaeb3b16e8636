"""The network's input against Pillow and against golden arrays of PyTorch's packages.

benchmarks/inception.py writes the golden arrays.
"""

from pathlib import Path

import inception_weights as rule
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tuner.metrics.resizing import CONVENTIONS, prepare, resize_matrix

GOLDEN = Path(__file__).parents[1] / "golden" / "inception.npz"
prepared = jax.jit(prepare, static_argnums=1)


def by_pillow(channel: np.ndarray, width: int, height: int) -> np.ndarray:
    image = Image.fromarray(channel.astype(np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("height", "width"), rule.SIZES)
def test_clean_matches_pillows_bicubic_filter(height: int, width: int) -> None:
    images = rule.noise(2, height, width, 3)
    found = prepared(jnp.asarray(images), "clean")
    assert (found.shape, found.dtype) == ((2, 299, 299, 3), np.float32)
    for i, c in np.ndindex(2, 3):
        expected = (by_pillow(images[i, ..., c], 299, 299).clip(0, 255) - 128) / 128
        np.testing.assert_allclose(found[i, ..., c], expected, rtol=0, atol=3e-6)


@pytest.mark.parametrize(("height", "width"), rule.SIZES)
@pytest.mark.parametrize("convention", ["pytorch-fid", "torch-fidelity"])
def test_linear_interpolation_equals_the_packages(convention: str, height: int, width: int) -> None:
    images = jnp.asarray(rule.noise(1, height, width, 1))
    found = np.asarray(prepared(images, convention))
    with np.load(GOLDEN) as golden:
        expected = golden[f"{convention}/{height}x{width}"]
    for c in range(3):
        kept = rule.sample_input(found[..., c])
        np.testing.assert_allclose(kept, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "target"), [(1, 5), (5, 5), (9, 4), (40, 7), (7, 40)])
def test_resizing_to_other_sizes_matches_pillow(size: int, target: int) -> None:
    line = rule.noise(1, 1, size, 1)[0, :, :, 0]
    found = resize_matrix("clean", size, target) @ line[0].astype(np.float32)
    np.testing.assert_allclose(found, by_pillow(line, target, 1)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_constant_images_stay_constant(convention: str) -> None:
    white = 1.0 if convention == "pytorch-fid" else 127 / 128
    for size in (1, 2, 299, 1000):
        weights = resize_matrix(convention, size)
        assert weights.shape == (299, size)
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    for value, expected in ((0, -1.0), (255, white)):
        images = jnp.full((1, 6, 400, 1), value, jnp.uint8)
        np.testing.assert_allclose(prepared(images, convention), expected, atol=1e-6)


def test_unknown_convention_is_refused() -> None:
    with pytest.raises(ValueError, match="found 'legacy', expected one of clean, pytorch-fid"):
        resize_matrix("legacy", 28)
