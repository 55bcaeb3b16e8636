"""Plots as files: pages that need nothing else, and pictures, which a browser draws."""

import os
from typing import Any

from tuner.errors import InputError, TunerError
from tuner.views.style import Figure

WIDTH = 900  # pixels of a picture
SCALE = 2  # of a PNG's pixels, for paper and sharp screens
PATIENCE = 120.0  # seconds
SUFFIXES = (".png", ".svg", ".html")


def as_page(figure: Figure) -> bytes:
    """A page of HTML, with all that it needs in it."""
    config = {"displaylogo": False, "responsive": True}
    text: str = figure.to_html(include_plotlyjs=True, div_id="figure", config=config)
    return text.encode()


def as_picture(figure: Figure, kind: str) -> bytes:
    """A PNG or an SVG, as a Chromium on this machine draws it, without the network. InputError
    where kaleido or the browser is missing, TunerError where the browser fails."""
    try:
        import kaleido
        from kaleido.errors import BrowserClosedError, BrowserFailedError, ChromeNotFoundError
    except ImportError:
        raise InputError(
            f"--out: found no kaleido, which {kind} needs, expected the extra report: pip install "
            "'tuner[report]'; .html needs neither"
        ) from None
    options = {"format": kind, "width": WIDTH, "height": figure.layout.height}
    options |= {"scale": SCALE} if kind == "png" else {}
    how = {"mathjax": False, "timeout": PATIENCE}
    try:
        data: Any = kaleido.calc_fig_sync(figure.to_dict(), opts=options, kopts=how)
    except ChromeNotFoundError:
        named = os.environ.get("BROWSER_PATH")
        where = f"at BROWSER_PATH = {named}" if named else "on the PATH"
        raise InputError(
            f"--out: found no Chromium or Chrome {where}, which draws {kind} (BROWSER_PATH names "
            "one), expected one; .html needs none"
        ) from None
    except (BrowserClosedError, BrowserFailedError, TimeoutError) as error:
        text = str(error).partition("\n")[0] or type(error).__name__
        raise TunerError(f"the browser that draws {kind} failed: {text}") from None
    return bytes(data)
