"""A console for people: shows only harmless text, and may be as wide as its tables."""

import os
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

UNLIMITED = 10_000  # columns, where no terminal limits them
HARMLESS = "\n\t\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # among the controls and formats
ACTING = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format, surrogate, line, paragraph


def harmless(text: str) -> str:
    """Text whose control characters, surrogates and bidirectional overrides are symbols instead.

    Host names, reasons and paths come from other machines; a terminal would obey their escapes.
    The length stays the same.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_symbol, text))


def _symbol(character: str) -> str:
    if character in HARMLESS or unicodedata.category(character) not in ACTING:
        return character
    return chr(0x2400 + ord(character)) if ord(character) < 32 else "\N{REPLACEMENT CHARACTER}"


class Lasting:
    """A text stream that drops what can't be written to another one: work goes on when the reader
    of its progress has left. Characters that can't be encoded become escapes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except (AttributeError, ValueError):  # no stream of Python's, or a closed one
            return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        known = text.encode(self.encoding, "backslashreplace").decode(self.encoding)
        with suppress(OSError, ValueError):
            self._stream.write(known)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


class Terminal(Console):
    """A rich console that shows only harmless text, as wide as the terminal or, elsewhere, as
    wide as its tables."""

    def __init__(self, *, stderr: bool = False, file: Lasting | None = None) -> None:
        # ``size`` is read again each time; with one given here, rich parses no variables.
        super().__init__(
            file=cast(TextIO | None, file),
            stderr=stderr,
            force_jupyter=False,  # a notebook shows lines as they are printed, not as HTML
            highlight=False,
            markup=False,
            emoji=False,
            width=80,
            height=25,
        )

    @property
    def size(self) -> ConsoleDimensions:
        """The terminal's size; COLUMNS and LINES go first where they are whole numbers above 0."""
        columns, lines = (_positive(os.environ.get(name, "")) for name in ("COLUMNS", "LINES"))
        try:
            known = os.get_terminal_size(self.file.fileno())
        except (OSError, ValueError):
            known = os.terminal_size((UNLIMITED, 25))
        return ConsoleDimensions(columns or known.columns or 80, lines or known.lines or 25)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        raise AttributeError("the size of a terminal can't be set")

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(harmless(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        if isinstance(renderable, Text):
            renderable = renderable.copy()
            renderable.plain = harmless(renderable.plain)
        return super().render(renderable, options)


def _positive(text: str) -> int | None:
    return int(text) if text.isdecimal() and text.isascii() and 0 < int(text) < UNLIMITED else None
