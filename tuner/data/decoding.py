"""Images of any kind and size as pixels of one size, by Pillow, several at a time."""

import functools
import io
import itertools
import os
import warnings
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tuner.data.images import Images, Item
from tuner.spec import Fit

BATCH = 32  # images that a thread decodes at a time
AHEAD = 2  # batches under way for each thread
MOST_PIXELS = 89_478_485  # above which Pillow, too, suspects a bomb: 256 MiB of RGB
# EPS runs another program, and for the rest Pillow has no decoder of its own.
TRIED_FIRST = ("JPEG", "PNG")
NOT_DECODED = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG")


class Recipe(NamedTuple):
    """What becomes of an image: ``size`` pixels each side, ``channels`` 1, 3 or as it has."""

    size: int
    fit: Fit
    channels: int | None


class Batch(NamedTuple):
    """Decoded images (k, size, size, 1 or 3), their labels, and why others could not be."""

    images: Images
    labels: list[int | str | None]
    unreadable: list[str]


def image_suffixes() -> frozenset[str]:
    """How the names of files end that are taken for images, in small letters."""
    formats = _formats()
    return frozenset(end for end, form in Image.registered_extensions().items() if form in formats)


@functools.cache
def _formats() -> list[str]:
    """In the order in which a file is tried."""
    Image.init()
    return [*TRIED_FIRST, *(form for form in Image.OPEN if form not in TRIED_FIRST + NOT_DECODED)]


def pixels(content: str | bytes | Images, recipe: Recipe) -> Images:
    """An image as uint8 (size, size, 1 or 3). Whatever Pillow raises where it is damaged."""
    if isinstance(content, np.ndarray):
        return _finished(Image.fromarray(content), recipe)
    with Image.open(
        io.BytesIO(content) if isinstance(content, bytes) else content, "r", _formats()
    ) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are too many")
        image.load()
        return _finished(ImageOps.exif_transpose(image), recipe)


def _finished(image: Image.Image, recipe: Recipe) -> Images:
    image = over_black(image)
    if recipe.channels:
        image = image.convert("L" if recipe.channels == 1 else "RGB")
    found = np.asarray(fitted(image, recipe.size, recipe.fit))
    return found if found.ndim == 3 else found[..., None]


def over_black(image: Image.Image) -> Image.Image:
    """Grey (mode L) or colour (RGB) of 8 bits; what is transparent lies over black. 16 bits are
    scaled. ValueError for floating-point pixels, whose black and white nothing tells."""
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    grey = image.mode in ("1", "L", "LA")
    mode = "L" if grey else "RGB"
    if not image.has_transparency_data:
        return image.convert(mode)
    image = image.convert("LA" if grey else "RGBA")
    black = Image.new(mode, image.size)
    black.paste(image.convert(mode), mask=image.getchannel("A"))
    return black


def fitted(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    """The image at size x size: ``crop`` takes the square in its middle, ``stretch`` all of it;
    ``pad`` puts it on black, shrunk first where it is larger. Resized by Pillow's Lanczos filter,
    which smooths as far as it shrinks."""
    width, height = image.size
    match fit:
        case "crop":
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            box = (left, top, left + side, top + side)
            # The filter sees beyond the box: as if all were resized and then cut.
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
    """In colour where any of them is."""
    found, labels, unreadable = [], [], []
    for content, label, name in items:
        try:
            found.append(pixels(content, recipe))
            labels.append(label)
        except Exception as error:  # damaged files make Pillow's decoders raise almost anything
            unreadable.append(_printable(f"{name} ({_reason(error)})"))
    channels = max((image.shape[2] for image in found), default=1)
    images = np.empty((len(found), recipe.size, recipe.size, channels), np.uint8)
    for place, image in zip(images, found, strict=True):
        place[...] = image
    return Batch(images, labels, unreadable)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no image"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return text.partition("\n")[0] or type(error).__name__


def _printable(text: str) -> str:
    """Files may be called what no terminal can show."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def decoded(items: Iterator[Item], recipe: Recipe, threads: int | None = None) -> Generator[Batch]:
    """Decode all, in their order, on all cores. Threads do it about as fast as processes, as
    Pillow works outside Python's lock; and a program that imports us need not expect processes."""
    threads = threads or cores()
    running: deque[Future[Batch]] = deque()
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on files that it can read all the same
        try:
            while batch := list(itertools.islice(items, BATCH)):
                running.append(pool.submit(decode_batch, batch, recipe))
                if len(running) >= AHEAD * threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
