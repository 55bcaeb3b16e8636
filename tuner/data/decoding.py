"""Decode images of any format and size to one size, with Pillow, in threads.

Pillow documents no errors for damaged files, and its parsers raise almost any: TypeError,
struct.error, IndexError, zlib.error and more. So ``Exception`` is caught for each image.
"""

import functools
import io
import os
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from tuner.data.images import Images, Item
from tuner.data.listing import printable, reason
from tuner.data.metadata import without_metadata
from tuner.paths import open_file
from tuner.spec.data import Fit

BATCH = 32  # images that a thread decodes at once
AHEAD = 2  # batches queued per thread
MAX_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: 256 MiB of RGB
MAX_BYTES = 2**30  # of a file
LARGE = 2**24  # bytes; larger files are decoded one at a time
BYTES_AHEAD = 2**28  # of queued images, over all threads
STRIP = 2**20  # pixels converted at once
TRANSPOSES = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TRIED_FIRST = ("JPEG", "PNG")
# EPS would run another program; for the others Pillow has no decoder of its own.
NOT_DECODED = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG")


class Recipe(NamedTuple):
    """The target: ``size`` pixels per side; ``channels`` is 1, 3 or None (the image's own)."""

    size: int
    fit: Fit
    channels: int | None


class Batch(NamedTuple):
    """Decoded images (k, size, size, 1 or 3), their labels, and why others are unreadable."""

    images: Images
    labels: list[int | str | None]
    unreadable: list[str]


def image_suffixes() -> frozenset[str]:
    """Suffixes of image files, in lower case."""
    formats = _formats()
    return frozenset(end for end, form in Image.registered_extensions().items() if form in formats)


@functools.cache
def _formats() -> list[str]:
    """Formats in the order in which they are tried."""
    Image.init()
    return [*TRIED_FIRST, *(form for form in Image.OPEN if form not in TRIED_FIRST + NOT_DECODED)]


class _Budget:
    """Bounds the pixels that all threads decode at once."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held, self._change = limit, 0, threading.Condition()

    @contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Hold ``amount``, at most the total, once it is free."""
        with self._change:
            self._change.wait_for(lambda: self._held + amount <= self._limit)
            self._held += amount
        try:
            yield
        finally:
            with self._change:
                self._held -= amount
                self._change.notify_all()


_budget = _Budget(MAX_PIXELS)


def decode_image(content: str | bytes | Images, recipe: Recipe) -> Images:
    """Decode an image to uint8 (size, size, 1 or 3).

    Raises whatever Pillow raises for a damaged image: any ``Exception``.
    """
    if isinstance(content, np.ndarray):
        with _budget.take(_pixel_count(content.shape[1], content.shape[0])):
            return _fit(Image.fromarray(content), recipe)
    with open_file(content) if isinstance(content, str) else io.BytesIO(content) as file:
        size = file.seek(0, os.SEEK_END)
        if size > MAX_BYTES:
            raise ValueError(f"{size:,} bytes are too many")
        alone = size > LARGE  # some decoders read the whole file at once
        with _budget.take(MAX_PIXELS if alone else 0):
            try:
                return _decode_file(file, recipe, alone)
            except Exception:  # Pillow's decoders may raise anything
                if (sound := without_metadata(file)) is None:
                    raise
                return _decode_file(sound, recipe, alone)


def _pixel_count(width: int, height: int) -> int:
    """The number of pixels. Raises ValueError if there are too many."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are too many")
    return width * height


def _decode_file(file: BinaryIO, recipe: Recipe, alone: bool) -> Images:
    file.seek(0)
    with Image.open(file, "r", _formats()) as image:
        count = _pixel_count(image.width, image.height)
        with _budget.take(0 if alone else count):
            image.load()
            return _fit(_upright(image), recipe)


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a damaged one is ignored."""
    try:
        turn = TRANSPOSES.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's readers of metadata may raise anything
        return image
    return image if turn is None else image.transpose(turn)


def _fit(image: Image.Image, recipe: Recipe) -> Images:
    image = over_black(image)
    if recipe.channels:
        image = _in_mode(image, "L" if recipe.channels == 1 else "RGB")
    found = np.asarray(fitted(image, recipe.size, recipe.fit))
    return found if found.ndim == 3 else found[..., None]


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def over_black(image: Image.Image) -> Image.Image:
    """Convert to 8-bit grey (mode L) or colour (RGB), transparent pixels over black.

    16 bits are scaled to 8. Raises ValueError for floating-point pixels, which have no defined
    range.
    """
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    deep = image.mode.startswith("I")
    mode = "L" if deep or image.mode in ("1", "L", "LA") else "RGB"
    if not deep and not image.has_transparency_data:
        return _in_mode(image, mode)
    found = Image.new(mode, image.size)
    rows = max(1, STRIP // max(1, image.width))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if deep:
            values = np.asarray(strip).astype(np.int64).clip(0, 65535)
            scaled = ((values * 255 + 32767) // 65535).astype(np.uint8)
            found.paste(Image.fromarray(scaled), (0, top))
        else:
            strip = strip.convert("LA" if mode == "L" else "RGBA")
            found.paste(strip.convert(mode), (0, top), mask=strip.getchannel("A"))
    return found


def fitted(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    """Resize to size x size with Pillow's Lanczos filter, which is anti-aliased.

    ``crop`` takes the central square, ``stretch`` ignores proportions, and ``pad`` centres the
    image on black, shrinking it only if it is larger.
    """
    width, height = image.size
    match fit:
        case "crop":
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            box = (left, top, left + side, top + side)
            # The filter uses pixels outside the box, as if the crop came after resizing.
            return image.resize((size, size), Image.Resampling.LANCZOS, box)
        case "stretch":
            return image.resize((size, size), Image.Resampling.LANCZOS)
        case "pad":
            scale = min(1.0, size / max(width, height))
            width, height = (max(1, round(n * scale)) for n in (width, height))
            canvas = Image.new(image.mode, (size, size))
            inner = image.resize((width, height), Image.Resampling.LANCZOS)
            canvas.paste(inner, ((size - width) // 2, (size - height) // 2))
            return canvas


def decode_batch(items: list[Item], recipe: Recipe) -> Batch:
    """Decode images; the batch is in colour if any of them is."""
    found, labels, unreadable = [], [], []
    for content, label, name in items:
        try:
            found.append(decode_image(content, recipe))
            labels.append(label)
        except UnidentifiedImageError:
            unreadable.append(f"{printable(name)} (not an image)")
        except Exception as error:
            unreadable.append(f"{printable(name)} ({reason(error)})")
    channels = max((image.shape[2] for image in found), default=1)
    images = np.empty((len(found), recipe.size, recipe.size, channels), np.uint8)
    for row, image in zip(images, found, strict=True):
        row[...] = image
    return Batch(images, labels, unreadable)


def decode_all(
    items: Iterator[Item], recipe: Recipe, threads: int | None = None
) -> Generator[Batch]:
    """Decode all items in order, on all cores.

    Threads are about as fast as processes, since Pillow releases the GIL, and demand nothing of
    programs that import tuner.
    """
    threads = threads or cores()
    running: deque[tuple[Future[Batch], int]] = deque()
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")  # about files that Pillow reads anyway
        try:
            for batch, size in _batches(items):
                running.append((pool.submit(decode_batch, batch, recipe), size))
                while len(running) >= AHEAD * threads or sum(n for _, n in running) > BYTES_AHEAD:
                    yield running.popleft()[0].result()
            while running:
                yield running.popleft()[0].result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _batches(items: Iterator[Item]) -> Iterator[tuple[list[Item], int]]:
    """Group items into batches; yield each with its size in bytes."""
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.content) if isinstance(item.content, bytes) else 0
        if len(batch) == BATCH or size > LARGE:
            yield batch, size
            batch, size = [], 0
    if batch:
        yield batch, size


def cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
