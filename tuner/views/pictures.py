"""Grids of images as PNG files."""

import io
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tuner.errors import TunerError


def grid(images: NDArray[np.uint8], *, gap: int = 2, scale: int = 2) -> NDArray[np.uint8]:
    """uint8 images (n, h, w, c) tiled row by row into one (h', w', c), ``scale`` times as large."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 64, np.uint8
    )
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas.repeat(scale, axis=0).repeat(scale, axis=1)


def picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """uint8 pixels (h, w, c) as a picture: grey where there is one channel, else in colour."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def grid_png(images: NDArray[np.uint8]) -> bytes:
    """A grid as a PNG file."""
    data = io.BytesIO()
    picture(grid(images)).save(data, format="PNG")
    return data.getvalue()


def save_grid(images: NDArray[np.uint8], path: Path) -> None:
    """Write a grid as PNG; TunerError where the file can't be written."""
    data = grid_png(images)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise TunerError(f"{path}: can't be written: {error.strerror or error}") from error
