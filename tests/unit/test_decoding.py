"""Decoding and resizing of image files."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tuner.data.decoding import MAX_PIXELS, Recipe, decode_batch, decode_image, image_suffixes
from tuner.data.images import Item
from tuner.spec.data import Fit

UNCHANGED = Recipe(32, "crop", None)
RANDOM = np.random.default_rng(0)


def noise(*shape: int) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def lanczos(values: NDArray[Any], size: int, start: int, side: int) -> NDArray[Any]:
    """Resize ``side`` rows from ``start`` to ``size`` with the kernel sinc(x) sinc(x / 3), |x| < 3,
    widened by the step when shrinking (Duchon 1979)."""
    step = side / size
    width = max(step, 1.0)
    centres = start + (np.arange(size) + 0.5) * step
    x = (centres[:, None] - np.arange(len(values)) - 0.5) / width
    weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(np.tensordot(weights, values, axes=1))


@pytest.mark.parametrize(
    ("fit", "height", "width"),
    [
        *(("crop", 70, 101), ("crop", 20, 11), ("crop", 32, 45)),
        *(("stretch", 70, 101), ("stretch", 20, 90)),
    ],
)
def test_resizing_uses_a_lanczos_filter(fit: Fit, height: int, width: int) -> None:
    values = noise(height, width, 3)
    side = min(height, width)
    spans = [(0, n) if fit == "stretch" else ((n - side) // 2, side) for n in (height, width)]
    columns = lanczos(values.swapaxes(0, 1).astype(float), 32, *spans[1])
    # Pillow rounds between the two passes, columns first.
    columns = np.round(columns.clip(0, 255))
    expected = lanczos(columns.swapaxes(0, 1), 32, *spans[0]).clip(0, 255)
    np.testing.assert_allclose(decode_image(values, Recipe(32, fit, None)), expected, atol=1.01)


@pytest.mark.parametrize(("height", "width"), [(10, 31), (32, 32), (32, 5)])
def test_smaller_images_are_padded_evenly(height: int, width: int) -> None:
    values = noise(height, width)
    found = decode_image(values, Recipe(32, "pad", None))
    top, left = (32 - height) // 2, (32 - width) // 2
    expected = np.pad(values, [(top, 32 - height - top), (left, 32 - width - left)])
    np.testing.assert_array_equal(found[..., 0], expected)


def test_larger_images_are_shrunk_and_padded() -> None:
    found = decode_image(np.full((100, 50), 200, np.uint8), Recipe(32, "pad", None))[..., 0]
    assert (found[:, 8:24] == 200).all()
    assert not found[:, :8].any()
    assert not found[:, 24:].any()


def saved(image: Image.Image, path: Path, **options: Any) -> NDArray[np.uint8]:
    image.save(path, **options)
    return decode_image(str(path), UNCHANGED)


def test_jpeg_and_png_are_read_unchanged(tmp_path: Path) -> None:
    values = noise(32, 32, 3)
    np.testing.assert_array_equal(saved(Image.fromarray(values), tmp_path / "a.png"), values)
    smooth = np.add.outer(np.arange(32) * 4, np.arange(32) * 3).astype(np.uint8)
    found = saved(Image.fromarray(smooth), tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(found[..., 0], smooth, atol=3)


def test_transparent_images_are_composed_over_black(tmp_path: Path) -> None:
    values = noise(32, 32, 4)
    found = saved(Image.fromarray(values), tmp_path / "a.png")
    expected = values[..., :3] * (values[..., 3:] / 255)
    np.testing.assert_allclose(found, expected, atol=1)
    grey = saved(Image.fromarray(values[..., 2:]), tmp_path / "grey.png")
    np.testing.assert_allclose(grey[..., 0], expected[..., 2], atol=1)


def test_one_colour_may_be_declared_transparent(tmp_path: Path) -> None:
    values = np.full((32, 32), 90, np.uint8)
    values[:, :16] = 200
    found = saved(Image.fromarray(values), tmp_path / "a.png", transparency=200)
    assert found.shape == (32, 32, 1)
    assert not found[:, :16].any()
    assert (found[:, 16:] == 90).all()


def test_palettes_become_colours(tmp_path: Path) -> None:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([0, 0, 0, 250, 120, 7, 9, 9, 9])
    found = saved(image, tmp_path / "a.png")
    assert (found == [250, 120, 7]).all()
    through = saved(image, tmp_path / "b.png", transparency=1)
    assert through.shape == (32, 32, 3)
    assert not through.any()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bits_are_scaled_to_8(name: str, tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 1024).astype(np.uint16).reshape(32, 32)
    found = saved(Image.fromarray(values), tmp_path / name)
    np.testing.assert_allclose(found[..., 0], values / 257, atol=0.5)


def test_grey_stays_grey_by_default(tmp_path: Path) -> None:
    values = noise(32, 32)
    assert saved(Image.fromarray(values), tmp_path / "a.png").shape == (32, 32, 1)
    found = decode_image(str(tmp_path / "a.png"), Recipe(32, "crop", 3))
    np.testing.assert_array_equal(found, np.stack([values] * 3, axis=-1))
    black = saved(Image.fromarray(values > 100), tmp_path / "b.png")
    np.testing.assert_array_equal(black[..., 0], (values > 100) * 255)


def test_orientation_is_honoured(tmp_path: Path) -> None:
    """Orientation 6 displays the image turned clockwise (EXIF 2.3, 4.6.4)."""
    values = noise(32, 32)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = saved(Image.fromarray(values), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(found[..., 0], np.rot90(values, -1))


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.new("L", (32, 32), grey) for grey in (50, 100, 150)]
    found = saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (found == 50).all()


@pytest.mark.filterwarnings("ignore:Image size")  # the decoder ignores it as well
def test_a_batch_leaves_out_unreadable_files(tmp_path: Path) -> None:
    Image.fromarray(noise(40, 40, 3)).save(tmp_path / "good.jpg")
    data = (tmp_path / "good.jpg").read_bytes()
    files = {
        "cut.jpg": data[: len(data) // 2],
        "empty.png": b"",
        "text.png": b"no image at all",
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    Image.fromarray(np.zeros((9, 9), np.float32)).save(tmp_path / "float.tif")
    side = math.isqrt(MAX_PIXELS) + 1
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    names = ["good.jpg", *files, "float.tif", "bomb.png", "gone.png"]
    items = [Item(str(tmp_path / name), label, name) for label, name in enumerate(names)]
    found = decode_batch([*items, Item(data, 9, "row 1")], UNCHANGED)
    assert found.images.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(found.images[0], found.images[1])
    assert found.labels == [0, 9]
    assert [line.split(" ")[0] for line in found.unreadable] == names[1:]
    assert found.unreadable[1] == "empty.png (not an image)"
    assert "too many" in found.unreadable[5]
    assert found.unreadable[6] == "gone.png (No such file or directory)"


def test_only_image_files_are_recognised() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif"} <= image_suffixes()
    assert not {".eps", ".pdf", ".txt", ".mpg", ".h5"} & image_suffixes()
