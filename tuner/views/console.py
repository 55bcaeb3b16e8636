"""A rich console that shows only harmless text and may be as wide as its tables."""

import os
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

UNLIMITED = 10_000  # columns, where no terminal limits them
HARMLESS = "\n\t\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"  # of the categories below
CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp")  # control, format, surrogate, line, paragraph


def harmless(text: str) -> str:
    """Replace control characters, surrogates and bidirectional overrides with symbols.

    Host names, reasons and paths come from other machines; a terminal would obey their escapes.
    The length stays the same.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_symbol, text))


def _symbol(character: str) -> str:
    if character in HARMLESS or unicodedata.category(character) not in CONTROLS:
        return character
    return chr(0x2400 + ord(character)) if ord(character) < 32 else "\N{REPLACEMENT CHARACTER}"


class TolerantStream:
    """A wrapper of a text stream that drops what can't be written.

    Training continues when nobody reads its progress any more. Characters that the encoding lacks
    become escapes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        try:
            return self._stream.isatty()
        except (AttributeError, ValueError):  # not a Python stream, or closed
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
    """A rich console that shows only harmless text.

    It is as wide as the terminal; without a terminal, as wide as its tables.
    """

    def __init__(self, *, stderr: bool = False, file: TolerantStream | None = None) -> None:
        # The ``size`` property overrides width and height. They keep rich from parsing COLUMNS.
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
        """The terminal's size; COLUMNS and LINES take precedence if they are positive integers."""
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
