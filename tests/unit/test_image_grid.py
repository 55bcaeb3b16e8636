"""Grids of images as arrays and as PNG files."""

import io

import numpy as np
import pytest
from PIL import Image

from tuner.views.images import grid, grid_png


@pytest.mark.parametrize(
    ("count", "channels", "gap", "scale", "shape"),
    [
        (1, 1, 2, 2, (24, 20, 1)),
        (4, 1, 2, 1, (22, 18, 1)),
        (5, 3, 2, 1, (22, 26, 3)),
        (7, 3, 0, 3, (72, 54, 3)),
        (9, 1, 1, 1, (28, 22, 1)),
    ],
)
def test_a_grid_places_each_image(
    count: int, channels: int, gap: int, scale: int, shape: tuple[int, ...]
) -> None:
    height, width = 8, 6
    numbers = np.arange(count, dtype=np.uint8)[:, None, None, None]
    images = numbers + np.full((1, height, width, channels), 100, np.uint8)
    images[:, 0, 0] = 7
    found = grid(images, gap=gap, scale=scale)
    assert found.dtype == np.uint8
    assert found.shape == shape
    columns = int(np.ceil(np.sqrt(count)))
    small = found[::scale, ::scale]
    np.testing.assert_array_equal(found, small.repeat(scale, 0).repeat(scale, 1))
    rest = np.ones(small.shape[:2], bool)
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        np.testing.assert_array_equal(small[top : top + height, left : left + width], image)
        rest[top : top + height, left : left + width] = False
    assert (small[rest] == 64).all()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_png_holds_the_grid(channels: int, mode: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, channels), np.uint8)
    with Image.open(io.BytesIO(grid_png(images))) as picture:
        assert (picture.format, picture.mode) == ("PNG", mode)
        pixels = np.asarray(picture)
    np.testing.assert_array_equal(pixels.reshape(*pixels.shape[:2], channels), grid(images))
