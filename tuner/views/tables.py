"""Tables that fit the terminal without cutting numbers."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

GAP = 2  # characters between two columns
# Widths in characters. A word longer than LONGEST_WORD is no number and may be broken.
MIN_NAME, MIN_PROSE, MAX_PROSE, LONGEST_WORD = 6, 20, 100, 40
MAX_LINES = 5  # of a wrapped cell


@dataclass
class FittingTable:
    """A table whose numbers are never cut or wrapped.

    If the terminal is too narrow, headings wrap; then the columns in ``spare`` are dropped one by
    one; then each row becomes a paragraph. Columns in ``prose`` wrap between words, columns in
    ``names`` may be cut; a table has columns of at most one of the two kinds. More columns are
    dropped if prose takes more than ``MAX_LINES`` lines otherwise; prose in ``notes`` is then cut.
    """

    headings: Sequence[str]
    prose: Sequence[str] = ()
    notes: Sequence[str] = ()
    names: Sequence[str] = ()
    left: Sequence[str] = ()
    spare: Sequence[str] = ()
    rows: list[tuple[list[str], str | None]] = field(default_factory=list)  # cells, rich style

    def add_row(self, *cells: object, style: str | None = None) -> None:
        """Add a row with one cell per heading."""
        self.rows.append((list(map(str, cells)), style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        choices = [(0, False), *((dropped, True) for dropped in range(len(self.spare) + 1))]
        fitting = None
        for dropped, folded in choices:
            widths = self._widths(self.spare[:dropped], folded, options.max_width)
            if widths is not None:
                fitting = widths, folded
                if all(len(lines) <= MAX_LINES for lines in self._wrapped(widths)):
                    break
        if fitting is None:
            yield Text("\n").join(self._stacked(options.max_width))
        else:
            yield self._table(*fitting)

    def _widths(self, gone: Sequence[str], folded: bool, available: int) -> dict[int, int] | None:
        """The widths of the columns without those ``gone``; None if they don't fit.

        Columns that wrap or may be cut share the width that the others leave, narrowest first.
        """
        shown = [i for i, name in enumerate(self.headings) if name not in gone]
        widths = {column: self._least(column, folded) for column in shown}
        room = available - sum(widths.values()) - GAP * (len(widths) - 1)
        if room < 0:
            return None
        wanted = {i: self._widest(i) - widths[i] for i in shown if self._gives_way(i)}
        for place, column in enumerate(sorted(wanted, key=lambda i: wanted[i])):
            more = max(0, min(wanted[column], room // (len(wanted) - place)))
            widths[column] += more
            room -= more
        return widths

    def _gives_way(self, column: int) -> bool:
        return self.headings[column] in (*self.prose, *self.names)

    def _widest(self, column: int) -> int:
        """The width of a column's widest cell or heading, in characters; for prose at most
        ``MAX_PROSE``."""
        widest = max(map(cell_len, (self.headings[column], *(row[column] for row, _ in self.rows))))
        return min(widest, MAX_PROSE) if self.headings[column] in self.prose else widest

    def _wrapped(self, widths: Mapping[int, int]) -> Iterator[list[str]]:
        """The lines of each prose cell."""
        for column, width in widths.items():
            if self.headings[column] in self.prose:
                yield from (textwrap.wrap(cells[column], width) for cells, _ in self.rows)

    def _least(self, column: int, folded: bool) -> int:
        """The minimum width of a column, in characters."""
        name = self.headings[column]
        cells = [cells[column] for cells, _ in self.rows]
        widest = max(map(cell_len, cells), default=0)
        if name in self.prose:
            words = [min(cell_len(word), LONGEST_WORD) for cell in cells for word in cell.split()]
            widest = max([min(widest, MIN_PROSE), *words])
        elif name in self.names:
            widest = min(widest, MIN_NAME)
        return max([widest, *map(cell_len, name.split() if folded else [name])])

    def _table(self, widths: Mapping[int, int], folded: bool) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column, width in widths.items():
            name, wraps = self.headings[column], self._gives_way(column)
            lines = textwrap.wrap(name, width, break_long_words=False, break_on_hyphens=False)
            table.add_column(
                "\n".join(lines) if folded else name,
                justify="left" if wraps or name in self.left else "right",
                no_wrap=not wraps,
                overflow="fold",
                min_width=width,
                max_width=width if wraps else None,
                vertical="bottom" if folded else "top",
            )
        for cells, style in self.rows:
            row = (self._cell(column, cells[column], width) for column, width in widths.items())
            table.add_row(*row, style=style)
        return table

    def _cell(self, column: int, text: str, width: int) -> Text:
        if self.headings[column] in self.names:
            return Text(text, no_wrap=True, overflow="ellipsis")
        if self.headings[column] in self.notes:
            lines = textwrap.wrap(text, width)
            if len(lines) > MAX_LINES:
                kept = " ".join(lines[:MAX_LINES])
                short = textwrap.shorten(kept, MAX_LINES * width - width // 2, placeholder="")
                return Text(f"{short} …")
        return Text(text)

    def _stacked(self, width: int) -> Iterator[Text]:
        """Each row as pairs of heading and cell, wrapped between pairs; a note takes at most two
        lines."""
        for cells, style in self.rows:
            found = {name: cell for name, cell in zip(self.headings, cells, strict=True) if cell}
            for name in found.keys() & {*self.notes}:
                found[name] = textwrap.shorten(found[name], 2 * width - 10, placeholder=" …")
            pairs = [f"{name} {cell}" for name, cell in found.items()]
            lines = textwrap.wrap(
                "  ".join(" ".join(pair.split()).replace(" ", "\xa0") for pair in pairs),
                width,
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
            yield Text("\n".join(lines).replace("\xa0", " "), style=style or "")
