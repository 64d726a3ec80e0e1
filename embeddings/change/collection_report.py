"""What the change of a collection says of itself: lines, JSON, and one HTML file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embeddings import __version__
from embeddings.analysis.change.coverage import Coverage
from embeddings.analysis.plain import plain
from embeddings.change.collection_layers import coverage_names
from embeddings.change.collection_run import CollectionChange
from embeddings.change.raster_report import clicks_text
from embeddings.change.raster_report_html import histogram
from embeddings.probe.html import Html, listed, page, table, tag
from embeddings.probe.report import columns

Report = Mapping[str, Any]
BINS = 60


def collection_report(made: CollectionChange, files: list[Path]) -> dict[str, Any]:
    """Return the report as JSON."""
    changed, area = made.changed, made.hectares
    compared = made.coverage == Coverage.COMPARED
    report = {
        "terrakin": __version__,
        "collections": [each.id for each in made.collections],
        "product": made.collections[0].spec.product,
        "source": made.collections[0].spec.source,
        "dates": list(made.dates.labels),
        "places": made.dates.count,
        "chip_side_m": made.dates.side,
        "hectares": float(area.sum()),
        "coverage": {
            name: {
                "places": int((made.coverage == kind).sum()),
                "hectares": float(area[made.coverage == kind].sum()),
            }
            for kind, name in coverage_names(made).items()
        },
        "threshold": {
            "asked": made.asked,
            "score": made.threshold,
        },
        "changed": {
            "places": int(changed.sum()),
            "hectares": float(area[changed].sum()),
            "share_of_compared": float(changed.sum() / max(int(compared.sum()), 1)),
        },
        "histogram": _histogram(made),
        **({"since": _since(made)} if made.since is not None else {"distances": _raw(made)}),
        **made.told,
        "noise": [
            {"dates": [made.dates.labels[d] for d in pair], **model.null.to_json()}
            for pair, model in made.found.models.items()
        ],
        "settings": made.job.settings(),
        "files": [path.name for path in files],
        "notes": list(made.notes),
        "seconds": made.seconds,
    }
    return {name: plain(value) for name, value in report.items()}


def _since(made: CollectionChange) -> list[dict[str, Any]]:
    since = made.since
    assert since is not None  # of a series
    return [
        {
            "date": label,
            "places": int((since.date == n).sum()),
            "hectares": float(made.hectares[since.date == n].sum()),
        }
        for n, label in enumerate(made.dates.labels)
        if n
    ]


def _raw(made: CollectionChange) -> dict[str, list[float]]:
    """Return quartiles of the raw distances."""
    raw = {"cosine": made.found.cosine, "euclidean": made.found.euclidean}
    return {name: np.nanquantile(each, (0.25, 0.5, 0.75)).tolist() for name, each in raw.items()}


def _histogram(made: CollectionChange) -> dict[str, list[float]]:
    there = made.score[np.isfinite(made.score)].astype(float)
    high = max(float(np.quantile(there, 0.9995)), 4.0)
    edges = np.linspace(min(float(np.quantile(there, 0.0005)), -3.0), high, BINS + 1)
    counts, _ = np.histogram(np.clip(there, edges[0], edges[-1]), edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def report_lines(report: Report) -> list[str]:
    """Return what the command prints."""
    changed, compared = report["changed"], report["coverage"][Coverage.COMPARED.label]
    unit = "cells" if "dense" in report else "places"
    lines = [
        f"{compared['places']:,} of {report['places']:,} {unit} compared: "
        f"{compared['hectares']:,.1f} ha, {_between(report)}."
    ]
    if report["threshold"]["score"] is None:
        lines.append(f"No {unit[:-1]} is change by the threshold asked for ({_asked(report)}).")
    else:
        lines.append(
            f"Change begins at score {report['threshold']['score']:.3f}{_why(report)}: "
            f"{changed['places']:,} {unit} changed, {changed['share_of_compared']:.2%} of those "
            f"compared, {changed['hectares']:,.1f} ha."
        )
    missing = [
        f"{name} {each['places']:,}"
        for name, each in report["coverage"].items()
        if each["places"] and name != Coverage.COMPARED.label
    ]
    lines += [f"Not compared: {', '.join(missing)}."] if missing else []
    if "since" in report:
        rows = [[e["date"], f"{e['places']:,}", f"{e['hectares']:,.1f}"] for e in report["since"]]
        lines += columns([["since", unit, "hectares"], *rows])
    if "objects" in report:
        found = report["objects"]
        lines.append(f"{found['count']:,} objects, {found['area_m2'] / 10_000:,.1f} ha.")
    if "clicks" in report:
        lines += clicks_text(report["clicks"])
    for name in ("transitions", "kinds"):
        if name in report:
            lines += ["", *columns(_rows_of(name, report[name]))]
    return lines


def _rows_of(name: str, found: Mapping[str, Any]) -> list[list[str]]:
    if name == "kinds":
        rows = [[e["kind"], f"{e['places']:,}", f"{e['hectares']:,.1f}"] for e in found["found"]]
        return [["kind of change", "places", "hectares"], *rows]
    return [TRANSITION_HEAD, *transition_rows(found)]


TRANSITION_HEAD = ["from", "to", "mapped ha", "expected ha", "95 %"]


def transition_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return a row for each pair of classes with an area, the largest changes first."""
    names = found["classes"]
    pairs = [
        (found["expected_ha"][i][j], i, j)
        for i in range(len(names))
        for j in range(len(names))
        if found["high_ha"][i][j] > 0
    ]
    # What stayed what it was comes last.
    pairs.sort(key=lambda each: (each[1] == each[2], -each[0]))
    return [
        [
            names[i],
            names[j],
            f"{found['mapped_ha'][i][j]:,.1f}",
            f"{area:,.1f}",
            f"{found['low_ha'][i][j]:,.1f} to {found['high_ha'][i][j]:,.1f}",
        ]
        for area, i, j in pairs
    ]


def _between(report: Report) -> str:
    dates = report["dates"]
    return (
        f"{len(dates)} dates from {dates[0]} to {dates[-1]}"
        if "since" in report
        else (f"{dates[0]} against {dates[1]}")
    )


def _asked(report: Report) -> str:
    return str(report["threshold"]["asked"])


def _why(report: Report) -> str:
    """Say what a threshold comes of; nothing of one that was asked for as a number."""
    asked = _asked(report)
    try:
        float(asked)
    except ValueError:
        return f" ({asked})"
    return ""


def report_html(report: Report, picture: str) -> str:
    """Return the report as one HTML document; ``picture`` is a data URI of the map."""
    lines = report_lines(report)
    return page(
        f"Change of {' and '.join(dict.fromkeys(report['collections']))}: {_between(report)}",
        tag("p", lines[1], class_="headline"),
        tag("p", lines[0]),
        _notes(report),
        tag("h2", "Map"),
        _map(report, picture),
        tag("h2", "Scores and threshold"),
        histogram(report["histogram"], report["threshold"]["score"]),
        tag(
            "p",
            "A score of 0 is the middle of what does not change, 1 a standard deviation of it: how "
            "unusual a place's move is beside those of places that looked like it. Bars are on a "
            "logarithmic scale; the first and last hold what lies beyond.",
            class_="small",
        ),
        tag("h2", "Areas"),
        _areas(report),
        *_since_html(report),
        *_classes_html(report),
        tag("h2", "How it was made"),
        tag("div", table(["", ""], _facts(report)), class_="facts"),
        tag(
            "details",
            tag("summary", "All settings"),
            tag("pre", json.dumps(report["settings"], indent=1)),
        ),
    )


def _map(report: Report, picture: str) -> Html:
    text = (
        "The first lasting change of each place, from dark blue (early) to yellow (late); pale is "
        "no lasting change"
        if "since" in report
        else "Score: from pale (no change) to dark red (twice the threshold)"
    )
    image = Html(f'<img src="{picture}" alt="map of the change">')
    return tag("figure", image, tag("figcaption", f"{text}; grey is no data"))


def _notes(report: Report) -> Html:
    if not report["notes"]:
        return Html("")
    return tag("section", tag("h2", "Notes"), listed(report["notes"]), class_="warnings")


def _areas(report: Report) -> Html:
    rows = [
        [name, f"{each['places']:,}", f"{each['hectares']:,.1f}"]
        for name, each in report["coverage"].items()
    ]
    changed = report["changed"]
    rows.append(["change", f"{changed['places']:,}", f"{changed['hectares']:,.1f}"])
    return table(["", "places", "hectares"], rows)


def _since_html(report: Report) -> list[Html]:
    if "since" not in report:
        return []
    rows = [[e["date"], f"{e['places']:,}", f"{e['hectares']:,.1f}"] for e in report["since"]]
    return [tag("h2", "Since when"), table(["since", "places", "hectares"], rows)]


def _classes_html(report: Report) -> list[Html]:
    parts: list[Html] = []
    if "transitions" in report:
        found = report["transitions"]
        parts += [
            tag("h2", "Changed into what"),
            table(TRANSITION_HEAD, transition_rows(found)),
            tag("p", found["method"], class_="small"),
        ]
    if "clicks" in report:
        clicks = report["clicks"]
        rows = [[e["name"], f"{e['labels']:,}", f"{e['places']:,}"] for e in clicks["classes"]]
        parts += [
            tag("h2", "Labels"),
            table(["label", "labels", "places"], rows),
            *(tag("p", line) for line in clicks_text(clicks)),
        ]
    if "kinds" in report:
        head, *rows = _rows_of("kinds", report["kinds"])
        parts += [
            tag("h2", "Kinds of change"),
            table(head, rows),
            tag("p", report["kinds"]["method"], class_="small"),
        ]
    return parts


def _facts(report: Report) -> list[list[str]]:
    return [
        ["Vectors", f"{report['product']}, of {report['source']}"],
        ["Dates", ", ".join(report["dates"])],
        ["Side of a chip", f"{report['chip_side_m']:,.0f} m"],
        *_dense_facts(report),
        ["Files written", ", ".join(report["files"])],
        ["Time", f"{report['seconds'].get('all', 0):.1f} s"],
        ["Terrakin", report["terrakin"]],
    ]


def _dense_facts(report: Report) -> list[list[str]]:
    if "dense" not in report:
        return []
    dense = report["dense"]
    (rows, cols), (down, across) = dense["cells"], dense["cell_m"]
    sides = ", ".join(f"{name} {side:,.0f} m" for name, side in dense["chip_sides_m"].items())
    return [
        ["Cells", f"{rows:,} x {cols:,}, of {down:,.1f} x {across:,.1f} m"],
        ["Chips of each collection", sides],
        ["Drawn to learn the noise", f"{dense['references']:,} cells"],
    ]
