"""The report of a change map as one HTML file, pictures and all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embeddings.change.raster_pair import short_names
from embeddings.change.raster_report import (
    clicks_text,
    hectares,
    kind_rows,
    kinds_text,
    threshold_text,
    time_line,
)
from embeddings.change.thumbnails import UNKNOWN_SHOWN
from embeddings.probe.html import Html, listed, page, table, tag
from embeddings.probe.predict_style import Colour, colours

Report = Mapping[str, Any]

WIDTH, HEIGHT, LEFT, BASE = 720, 240, 50, 30

_SIDES = {"date 1": "before", "date 2": "after"}
_CAPTIONS = {
    "date 1": "Date 1",
    "date 2": "Date 2",
    "score": "Score: from pale (no change) to dark red (twice the threshold); grey is no data",
    "change": "What changed, in red over date 2",
}


def report_html(report: Report, pictures: Mapping[str, str]) -> str:
    """Return the document; ``pictures`` are data URIs by what they show."""
    return page(
        _title(report),
        _headline(report),
        _notes(report["notes"]),
        tag("h2", "Maps"),
        tag("div", *(_figure(n, uri, report) for n, uri in pictures.items()), class_="maps"),
        tag("h2", "Scores and threshold"),
        histogram(report["histogram"], report["threshold"]["score"], "pixels"),
        tag("p", _threshold_text(report), class_="small"),
        *_clicks(report["clicks"]),
        tag("h2", "Areas"),
        _areas(report),
        *_kinds(report["kinds"]),
        *_objects(report["objects"]),
        tag("h2", "How it was made"),
        tag("div", table(["", ""], _facts(report)), class_="facts"),
        _times(report),
        tag(
            "details",
            tag("summary", "All settings"),
            tag("pre", json.dumps(report["settings"], indent=1)),
        ),
    )


def histogram(
    bins: Mapping[str, Sequence[float]], threshold: float | None, unit: str = "places"
) -> Html:
    """Return scores as bars on a logarithmic scale, those from the threshold on in red."""
    edges, counts = np.array(bins["edges"]), np.array(bins["counts"], float)
    tall = np.log10(counts + 1) / max(float(np.log10(counts.max(initial=1) + 1)), 1e-9)
    x = LEFT + (edges - edges[0]) / (edges[-1] - edges[0]) * (WIDTH - LEFT - 10)
    parts = []
    for i, share in enumerate(tall.tolist()):
        high = round(share * (HEIGHT - BASE - 16), 1)
        beyond = threshold is not None and edges[i] >= threshold
        parts.append(
            tag(
                "rect",
                x=round(float(x[i]), 1),
                y=round(HEIGHT - BASE - high, 1),
                width=round(float(x[i + 1] - x[i]), 2),
                height=high,
                fill="#d73027" if beyond else "#8aa9c9",
            )
        )
    for value in _round_values(float(edges[0]), float(edges[-1])):
        at = float(np.interp(value, edges, x))
        parts.append(_text(at, HEIGHT - 12, f"{value:g}", "middle"))
    most = int(np.log10(counts.max(initial=1) + 1))
    for power in range(0, most + 1, 1 if most < 5 else 2):
        share = np.log10(10**power + 1) / max(np.log10(counts.max(initial=1) + 1), 1e-9)
        up = HEIGHT - BASE - float(share) * (HEIGHT - BASE - 16)
        parts.append(_text(LEFT - 6, up + 4, f"{10**power:,}", "end"))
    if threshold is not None and edges[0] <= threshold <= edges[-1]:
        at = round(float(np.interp(threshold, edges, x)), 1)
        parts.append(tag("line", x1=at, x2=at, y1=6, y2=HEIGHT - BASE, stroke="#222"))
        side = (at - 4, "end") if at > WIDTH / 2 else (at + 4, "start")
        parts.append(_text(side[0], 14, f"threshold {threshold:.2f}", side[1]))
    parts += [_text(WIDTH - 10, HEIGHT - 1, "score", "end"), _text(0, 14, unit, "start")]
    return tag(
        "svg",
        tag("title", f"How many {unit} have which score"),
        *parts,
        width=WIDTH,
        height=HEIGHT,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
    )


def _title(report: Report) -> str:
    days = [_day(report[side]) for side in ("before", "after")]
    return f"Change from {days[0]} to {days[1]}"


def _day(side: Mapping[str, Any]) -> str:
    day = side["datetime"] or side["named_date"]
    if day:
        return str(day)[:10]
    more = len(side["files"]) - 1
    return str(side["files"][0]) + (f" and {more} more" if more else "")


def _headline(report: Report) -> Html:
    changed = report["changed"]
    text = (
        f"{hectares(changed['area_m2'])} changed, {changed['share_of_compared']:.2%} of what could "
        f"be compared."
    )
    return tag("p", text, class_="headline")


def _notes(notes: Sequence[str]) -> Html:
    if not notes:
        return Html("")
    return tag("section", tag("h2", "Notes"), listed(notes), class_="warnings")


def _figure(name: str, uri: str, report: Report) -> Html:
    caption = tag("figcaption", _CAPTIONS[name])
    if name == "change" and report["kinds"] is not None:
        kinds = [each["kind"] for each in report["kinds"]["found"]]
        palette = [*colours(len(kinds) - 1), UNKNOWN_SHOWN]
        swatches = [_swatch(*each) for each in zip(kinds, palette, strict=True)]
        caption = tag("figcaption", "Kinds of change over date 2:", *swatches)
    elif name in ("date 1", "date 2"):
        caption = tag("figcaption", f"{_CAPTIONS[name]}: {_day(report[_SIDES[name]])}")
    return tag("figure", Html(f'<img src="{uri}" alt="map: {name}">'), caption)


def _swatch(name: str, colour: Colour) -> Html:
    look = "background: #{:02x}{:02x}{:02x}".format(*colour)
    return tag("span", tag("span", class_="swatch", style=look), name, class_="legend")


def _threshold_text(report: Report) -> str:
    return (
        "A score of 0 is the middle of what does not change, 1 a standard deviation of it. "
        f"{threshold_text(report)}. Bars are on a logarithmic scale; the first and "
        "last hold what lies beyond."
    )


def _clicks(clicks: Report | None) -> list[Html]:
    if clicks is None:
        return []
    rows = [[e["name"], f"{e['labels']:,}", f"{e['pixels']:,}"] for e in clicks["classes"]]
    return [
        tag("h2", "Labels"),
        table(["", "labels", "pixels"], rows),
        *(tag("p", line) for line in clicks_text(clicks)),
    ]


def _kinds(kinds: Report | None) -> list[Html]:
    if kinds is None:
        return []
    head, *rows = kind_rows(kinds)
    lines = (tag("p", line, class_="small") for line in kinds_text(kinds))
    return [tag("h2", "Kinds of change"), table(head, rows), *lines]


def _areas(report: Report) -> Html:
    rows = [
        [name, f"{each['pixels']:,}", f"{each['share']:.2%}", hectares(each["area_m2"])]
        for name, each in report["coverage"].items()
    ]
    changed = report["changed"]
    whole = report["grid"]["height"] * report["grid"]["width"]
    rows.insert(
        1,
        [
            "of these changed",
            f"{changed['pixels']:,}",
            f"{changed['pixels'] / whole:.2%}",
            hectares(changed["area_m2"]),
        ],
    )
    return table(["", "pixels", "share of all", "area"], rows)


def _objects(found: Mapping[str, Any] | None) -> list[Html]:
    if found is None:
        return []
    rows = [
        [
            str(each["object"]),
            f"{each['area_m2']:,.0f}",
            f"{each['mean_score']:.2f}",
            f"{each['max_score']:.2f}",
            *([each["kind"]] if "kind" in each else []),
        ]
        for each in found["largest"]
    ]
    kind = ["kind"] if found["largest"] and "kind" in found["largest"][0] else []
    return [
        tag("h2", "Objects"),
        tag(
            "p",
            f"{found['count']:,} objects of {found['least']} or more, together "
            f"{hectares(found['area_m2'])}. The largest:",
        ),
        table(["object", "area, m²", "mean score", "highest score", *kind], rows),
    ]


def _facts(report: Report) -> list[list[str]]:
    grid, shift = report["grid"], report["registration"]
    rows = [
        [f"Files of date {n}", ", ".join(report[side]["files"])]
        for n, side in ((1, "before"), (2, "after"))
    ]
    moved = "not measured"
    if shift["agreeing"]:
        done = "undone" if shift["applied"] else "left"
        moved = f"{shift['row']:+.2f} rows, {shift['col']:+.2f} columns; {done}"
    return [
        *rows,
        ["Bands", ", ".join(short_names(report["bands"]))],
        [
            "Grid",
            f"{grid['width']:,} x {grid['height']:,} pixels of {grid['pixel_m'][1]:.4g} x "
            f"{grid['pixel_m'][0]:.4g} m, {grid['crs']}",
        ],
        ["Shift of date 2", moved],
        ["Files written", ", ".join(report["files"])],
        ["Terrakin", report["terrakin"]],
    ]


def _times(report: Report) -> Html:
    windows = report["windows"]
    text = time_line(report)
    if windows["of_an_earlier_run"]:
        text += (
            f" {windows['of_an_earlier_run']:,} of {windows['all']:,} windows are of an earlier "
            "run."
        )
    return tag("p", text)


def _round_values(low: float, high: float) -> list[float]:
    step = max(1.0, float(np.ceil((high - low) / 12)))
    return [float(v) for v in np.arange(np.ceil(low / step) * step, high + 1e-9, step)]


def _text(x: float, y: float, text: str, anchor: str) -> Html:
    return tag("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor)
