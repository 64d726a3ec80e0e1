"""What a change map says of itself: coverage, threshold, areas, settings, time and memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from embeddings import __version__
from embeddings.analysis.change.coverage import Coverage
from embeddings.analysis.plain import plain
from embeddings.atomic import write_text
from embeddings.change.raster_run import RasterChange

Report = Mapping[str, Any]


def change_report(made: RasterChange) -> dict[str, Any]:
    """Return the report as JSON."""
    totals, fit = made.totals, made.fit.to_json()
    pixels, m2 = sum(totals.pixels), sum(totals.m2)
    total = sum(made.seconds.values())
    compared = totals.pixels[Coverage.COMPARED]
    report = {
        "terrakin": __version__,
        **made.pair,
        "registration": {**fit["shift"], "applied": fit["applied"]},
        "settings": made.job.settings(),
        "model": fit["model"]["settings"],
        "coverage": {
            kind.label: {
                "pixels": totals.pixels[kind],
                "share": totals.pixels[kind] / pixels,
                "area_m2": totals.m2[kind],
            }
            for kind in Coverage
        },
        "area_m2": m2,
        "threshold": {"asked": made.job.threshold, "score": made.threshold},
        "changed": {
            "pixels": totals.changed_pixels,
            "share_of_compared": totals.changed_pixels / max(compared, 1),
            "area_m2": totals.changed_m2,
        },
        "objects": made.objects,
        "histogram": {"edges": list(totals.edges), "counts": list(totals.counts)},
        "files": [path.name for path in made.files],
        "notes": list(made.notes),
        "seconds": {
            name: {"seconds": round(spent, 3), "share": round(spent / max(total, 1e-9), 4)}
            for name, spent in made.seconds.items()
        },
        "elapsed_s": round(made.elapsed_s, 3),
        "windows": {"all": made.windows, "of_an_earlier_run": made.resumed},
        "peak_memory_bytes": made.peak_bytes,
    }
    return {name: plain(value) for name, value in report.items()}


def write_reports(made: RasterChange, report: Report) -> None:
    """Write the reports that were asked for, .json or .html. Raises StoreError."""
    from embeddings.change.raster_report_html import report_html

    for path in made.job.reports:
        if path.suffix.lower() == ".json":
            write_text(path, json.dumps(report, indent=1, allow_nan=False) + "\n")
        else:
            write_text(path, report_html(report, made.pictures.pictures(made.threshold)))


def report_lines(report: Report) -> list[str]:
    """Return what the command prints."""
    changed, compared = report["changed"], report["coverage"][Coverage.COMPARED.label]
    lines = [
        f"{compared['pixels']:,} of {_pixels(report):,} pixels compared "
        f"({compared['share']:.1%}): {hectares(compared['area_m2'])}.",
        f"{threshold_text(report)}: {changed['pixels']:,} pixels changed, "
        f"{changed['share_of_compared']:.2%} of those compared, {hectares(changed['area_m2'])}.",
    ]
    missing = [
        f"{name} {each['share']:.1%}"
        for name, each in report["coverage"].items()
        if each["pixels"] and name != Coverage.COMPARED.label
    ]
    if missing:
        lines.append(f"Not compared: {', '.join(missing)}.")
    if report["objects"] is not None:
        found = report["objects"]
        lines.append(
            f"{found['count']:,} objects of {found['least']} or more: {hectares(found['area_m2'])}."
        )
    lines.append(time_line(report))
    return lines


def threshold_text(report: Report) -> str:
    """Say where change begins; a threshold that no score can reach is null in the report."""
    asked, score = report["threshold"]["asked"], report["threshold"]["score"]
    if score is None:
        return f"Nothing stands out so far as {asked} asks (otsu or a score draw a line anyway)"
    return f"Change begins at score {score:.3f} ({asked})"


def time_line(report: Report) -> str:
    """Say what took how long."""
    spent = report["seconds"]
    shares = ", ".join(f"{name} {each['share']:.0%}" for name, each in spent.items())
    peak = report["peak_memory_bytes"]
    memory = f"; at most {peak / 1e9:.2f} GB of memory" if peak is not None else ""
    return f"{report['elapsed_s']:.1f} s (of the work: {shares}){memory}."


def hectares(m2: float) -> str:
    """Say an area in hectares."""
    return f"{m2 / 1e4:,.1f} ha"


def _pixels(report: Report) -> int:
    return int(report["grid"]["height"] * report["grid"]["width"])
