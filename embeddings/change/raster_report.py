"""What a change map says of itself: coverage, threshold, areas, settings, time and memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embeddings import __version__
from embeddings.analysis.change.coverage import Coverage
from embeddings.analysis.plain import plain
from embeddings.change.raster_run import RasterChange
from embeddings.probe.report import columns

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
        "threshold": {"asked": made.decided.asked, "score": made.threshold},
        "changed": {
            "pixels": totals.changed_pixels,
            "share_of_compared": totals.changed_pixels / max(compared, 1),
            "area_m2": totals.changed_m2,
        },
        "objects": made.objects,
        "clicks": made.decided.told,
        "kinds": made.kinds,
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
    if report["clicks"] is not None:
        lines += clicks_text(report["clicks"])
    if report["kinds"] is not None:
        head, *rows = kind_rows(report["kinds"])
        lines += ["", *columns([head, *rows]), "", *kinds_text(report["kinds"])]
    lines.append(time_line(report))
    return lines


def clicks_text(clicks: Report) -> list[str]:
    """Say how many labels were used, and how far the threshold errs on them."""
    away = {
        "outside": clicks["outside"],
        "on pixels of others": clicks["covered"],
        "without data": clicks["without_data"],
        **{f"not usable because {why}": many for why, many in clicks["unusable"].items()},
    }
    missing = ", ".join(f"{many:,} {what}" for what, many in away.items() if many)
    lines = [
        f"{clicks['used']:,} of {clicks['labels']:,} labels of {clicks['file']} used"
        + (f" ({missing})." if missing else ".")
    ]
    apart, here = clicks.get("left_out"), clicks["at_threshold"]
    if apart is not None and apart["missed"] is not None:
        lines.append(
            f"Of labels left out {apart['missed']:.0%} of the changes are missed and "
            f"{apart['false_alarms']:.0%} of the unchanged are false alarms ({apart['split']})."
        )
    elif apart is not None:
        lines.append(
            "How far the threshold errs is not known: no labels of both sides can be left out."
        )
    elif here["missed"] is not None and here["false_alarms"] is not None:
        lines.append(
            f"At this threshold {here['missed']:.0%} of the changes labelled are missed and "
            f"{here['false_alarms']:.0%} of the unchanged are false alarms."
        )
    return lines


def kind_rows(kinds: Report) -> list[list[str]]:
    """Return a table of kinds of change, its head first."""
    apart = kinds["left_out"]
    again = {} if apart is None else apart["found"]
    rows = [
        [
            each["kind"],
            f"{each['labels']:,}",
            f"{each['pixels']:,}",
            hectares(each["area_m2"]),
            f"{again[each['kind']]:.0%}" if again.get(each["kind"]) is not None else "",
        ]
        for each in kinds["found"]
    ]
    return [["kind of change", "labels", "pixels", "area", "found when left out"], *rows]


def kinds_text(kinds: Report) -> list[str]:
    """Say how kinds were told, and how right that is on labels left out."""
    apart = kinds["left_out"]
    if apart is None:
        return [kinds["method"], "How right the kinds are is not known: there are too few labels."]
    return [
        kinds["method"],
        f"Of pixels labelled but left out {apart['named']:.0%} got a name, of these "
        f"{apart['right_of_named']:.0%} the right one ({apart['split']}).",
    ]


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
