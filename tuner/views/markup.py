"""The parts of a page of HTML: every text in them is escaped here."""

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 62rem; background: #fff; color: #222;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-bottom: .2rem;
  border-bottom: 2px solid #0072b2; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .4rem 0; }
.note { color: #555; font-size: .9rem; }
nav { margin: 1rem 0 0; font-size: .9rem; }
nav a { display: inline-block; margin: 0 .8rem .3rem 0; padding: .15rem 0; color: #005a8f; }
.tiles { display: grid; gap: .7rem; margin: 1.2rem 0;
  grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); }
.tile { border: 1px solid #ddd; border-left: 4px solid #0072b2; border-radius: 4px;
  padding: .5rem .7rem; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.3; overflow-wrap: anywhere; }
.tile span { color: #555; font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .7rem .28rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #e4e4e4; }
th { border-bottom: 2px solid #888; white-space: nowrap; }
.right { text-align: right; white-space: nowrap; }
.grid { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.grid > * { min-width: 0; }
figure { margin: 0; }
figcaption { font-size: .88rem; margin-bottom: .3rem; }
img { width: 100%; max-width: 24rem; height: auto; display: block; image-rendering: pixelated; }
.plot { width: 100%; }
pre { background: #f6f6f6; padding: .8rem; font-size: .85rem; overflow-x: auto; }
summary { cursor: pointer; color: #005a8f; }
@page { size: A4; margin: 14mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav, summary, .modebar { display: none !important; }
  details::details-content { content-visibility: visible; height: auto; }
  h2, h3, figcaption { break-after: avoid; }
  h2 { margin-top: 1.4rem; }
  figure, .tile, tr, .plot { break-inside: avoid; }
  .wide { overflow: visible; }
  table { font-size: 8pt; }
  td { overflow-wrap: anywhere; }
  pre { white-space: pre-wrap; font-size: 8pt; background: none; border: 1px solid #ddd; }
  .tiles { grid-template-columns: repeat(3, 1fr); }
  .grid { grid-template-columns: repeat(2, 1fr); }
}
"""
# On paper a plot is as wide as the page is, not as the window was.
SCRIPT = """
const plots = () => document.querySelectorAll(".js-plotly-plot");
addEventListener("beforeprint", () => plots().forEach(plot =>
  Plotly.relayout(plot, {width: plot.closest(".grid") ? 320 : 670, autosize: false})));
addEventListener("afterprint", () => plots().forEach(plot =>
  Plotly.relayout(plot, {width: null, autosize: true})));
addEventListener("beforeprint", () =>
  document.querySelectorAll("details").forEach(part => { part.open = true; }));
"""


def document(title: str, body: str, script: str) -> str:
    """A whole page; ``script`` is put into it as it is."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
<script>{script}</script>
</head>
<body>
{body}
<script>{SCRIPT}</script>
</body>
</html>
"""


def text(words: str) -> str:
    """Words as a part of the page."""
    return escape(words)


def section(name: str, title: str, *parts: str) -> str:
    """A part of the page under a heading; its link is ``#name``."""
    return (
        f'<section id="{escape(name)}">\n<h2>{escape(title)}</h2>\n'
        + "\n".join(parts)
        + "\n</section>"
    )


def links(names: Sequence[tuple[str, str]]) -> str:
    """Where the sections are."""
    found = [f'<a href="#{escape(name)}">{escape(title)}</a>' for name, title in names]
    return f"<nav>{' '.join(found)}</nav>"


def paragraph(text: str, kind: str = "") -> str:
    """A text of its own; ``kind`` is "note" for what is said beside."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>'


def heading(text: str) -> str:
    """A heading within a section."""
    return f"<h3>{escape(text)}</h3>"


def tiles(found: Sequence[tuple[str, str]]) -> str:
    """What is to be seen at one glance: values, each with what it is."""
    cells = [
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for value, name in found
    ]
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = ()) -> str:
    """A table that scrolls where it is too wide; columns of numbers are set to the ``right``."""
    kinds = [' class="right"' if name in right else "" for name in headings]
    first = [f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, headings, strict=True)]
    lines = [
        "".join(
            f"<td{kind}>{escape(str(cell))}</td>" for kind, cell in zip(kinds, row, strict=True)
        )
        for row in rows
    ]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="wide"><table><thead><tr>{"".join(first)}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def picture(png: bytes, words: str, alternative: str) -> str:
    """A PNG, in the page itself."""
    data = base64.b64encode(png).decode()
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(alternative)}">'
    return f"<figure>{caption(words)}{image}</figure>"


def caption(words: str) -> str:
    """What a figure shows."""
    return f"<figcaption>{escape(words)}</figcaption>"


def side_by_side(parts: Sequence[str]) -> str:
    """As many in a row as there is room for."""
    return f'<div class="grid">{"".join(parts)}</div>'


def folded(title: str, text: str) -> str:
    """A text as it is, shown when asked for, and on paper."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"
