"""HTML made of elements, in which every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; max-width: 60em; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.6em; overflow-wrap: anywhere; }
h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #e2e2e2;
  vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; } td.diagonal { font-weight: 600; }
.facts td { text-align: left; } .facts td + td { overflow-wrap: anywhere; word-break: break-word; }
.wide { overflow-x: auto; }
.headline { font-size: 1.3em; } .small { color: #555; font-size: .9em; }
.warnings { background: #fff6e0; border-left: 4px solid #d99a00; padding: .5em 1em; }
.warnings h2 { margin-top: .5em; }
.charts { display: flex; flex-wrap: wrap; gap: 2em; } figure { margin: 0; }
.maps { display: flex; flex-wrap: wrap; margin: 0 -.5em; }
.maps figure { flex: 1 1 20em; max-width: 40em; margin: .5em; }
img, svg { max-width: 100%; height: auto; } .maps img { width: 100%; }
.swatch { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 .8em;
  vertical-align: -.1em; border: 1px solid #777; }
.legend { display: inline-block; }
figcaption { max-width: 26em; font-size: .9em; color: #555; }
svg text { font: 11px system-ui, sans-serif; fill: #333; }
code { font-size: .9em; overflow-wrap: anywhere; }
@media print { body { margin: 0; max-width: none; } table { font-size: .8em; }
  h2 { break-after: avoid; } table { break-inside: avoid; } }
"""


class Html(str):
    """Text that is HTML already; any other text is escaped."""

    __slots__ = ()


def tag(name: str, *children: str, **attributes: object) -> Html:
    """Return an element; ``class_`` and ``stroke_width`` name ``class`` and ``stroke-width``."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{given}>{joined(children)}</{name}>")


def joined(parts: Iterable[str]) -> Html:
    """Return parts one after another, each escaped unless it is HTML."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Html:
    """Return a table; cells may be elements ``td`` already."""
    top = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = [tag("tr", *(_cell(cell) for cell in row)) for row in rows]
    made = tag("table", tag("thead", top), tag("tbody", *body))
    return tag("div", made, class_="wide")


def listed(texts: Iterable[str]) -> Html:
    """Return a list with bullets."""
    return tag("ul", *(tag("li", text) for text in texts))


def page(title: str, *parts: str) -> str:
    """Return a whole document that needs nothing beside itself."""
    head = joined(
        [
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            tag("title", title),
            tag("style", Html(STYLE)),
        ]
    )
    body = tag("body", tag("h1", title), *parts)
    return f"<!DOCTYPE html>\n{tag('html', tag('head', head), body, lang='en')}\n"


def _cell(cell: str) -> Html:
    if isinstance(cell, Html) and cell.startswith("<td"):
        return cell
    return tag("td", cell)
