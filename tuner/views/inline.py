"""Pictures in the terminal itself, where it can show any: by kitty's protocol or as sixels."""

import io
import logging
import os
import sys

from PIL import Image
from rich.console import RenderableType

ROWS = 24  # lines to print a picture in, at most


def inline(png: bytes) -> RenderableType | None:
    """A picture for this terminal; None where it shows none, where no library for it (the extra
    terminal) is installed, or where the picture is damaged. It takes as many lines as it is given;
    the terminal is asked what it can."""
    if not _asks_may_be_answered():
        return None
    # It tells, with a traceback, of terminals that do not say how large their characters are.
    logging.getLogger("textual_image").setLevel(logging.ERROR)
    try:
        from textual_image import renderable
    except ImportError:
        return None
    # The library falls back to coloured characters, in which no digit is to be told from another.
    if renderable.Image not in (renderable.TGPImage, renderable.SixelImage):
        return None
    try:
        with Image.open(io.BytesIO(png)) as picture:
            picture.load()
    except (OSError, ValueError, SyntaxError):  # what Pillow says of damaged files
        return None
    return renderable.Image(picture, width="auto", height="auto")


def _asks_may_be_answered() -> bool:
    """Whether a person's terminal is at both ends, and this process in its foreground."""
    try:
        return sys.stdout.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):  # no terminal, or closed
        return False
