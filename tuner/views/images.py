"""Images as grids in PNG files, and in terminals that support them: kitty's protocol or sixels."""

import io
import logging
import math
import os
import sys

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import RenderableType

ROWS = 24  # maximum terminal lines for a picture


def grid(
    images: NDArray[np.uint8], *, columns: int | None = None, gap: int = 2, scale: int = 2
) -> NDArray[np.uint8]:
    """Tile uint8 images (n, h, w, c) row by row into one (h', w', c), enlarged ``scale`` times.

    By default there are about as many rows as ``columns``.
    """
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 64, np.uint8
    )
    for i, image in enumerate(images):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas.repeat(scale, axis=0).repeat(scale, axis=1)


def picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """uint8 pixels (h, w, c) as a PIL image, greyscale for one channel."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def grid_png(images: NDArray[np.uint8], columns: int | None = None) -> bytes:
    """A grid as a PNG file."""
    data = io.BytesIO()
    picture(grid(images, columns=columns)).save(data, format="PNG")
    return data.getvalue()


def inline_image(png: bytes) -> RenderableType | None:
    """A PNG for this terminal, scaled to the lines that rich gives it.

    None if the terminal shows no images, the extra ``terminal`` is not installed, or the PNG is
    damaged. Queries the terminal for its capabilities.
    """
    try:
        foreground = os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):  # not a terminal, or closed
        return None
    if not (foreground and sys.stdout.isatty()):
        return None
    # textual_image logs a traceback for terminals that do not report their character size.
    logging.getLogger("textual_image").setLevel(logging.ERROR)
    try:
        from textual_image import renderable
    except ImportError:
        return None
    # Its fallback, coloured characters, is too coarse to tell digits apart.
    if renderable.Image not in (renderable.TGPImage, renderable.SixelImage):
        return None
    try:
        with Image.open(io.BytesIO(png)) as image:
            image.load()
    except (OSError, ValueError, SyntaxError):  # as Pillow raises for damaged files
        return None
    return renderable.Image(image, width="auto", height="auto")
