"""A probe's report as one HTML file that a project manager can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embeddings.probe.html import Html, joined, listed, page, table, tag
from embeddings.probe.report import (
    FIGURES,
    baseline,
    curve_lines,
    interval,
    label_lines,
    number,
    split_text,
    strength_text,
    trust_lines,
    width_lines,
)
from embeddings.probe.report_charts import bars, calibration_chart, learning_curve

MOST_CONFUSED = 60
"""Of more classes no confusion matrix is drawn."""

Report = Mapping[str, Any]


def report_html(report: Report) -> str:
    """Return the document; ``report`` is what ``probe_report`` gives."""
    validation = report["validation"]
    parts = [_headline(report), _warnings(validation)]
    parts += [_section("Labels", *_labels(report["labels"]))]
    if "spatial" in validation:
        parts += [
            _section("Accuracy", *_accuracy(validation)),
            _section("How it was tested", *_split(validation)),
        ]
        if validation["spatial"]["classes"]:
            parts.append(_section("Classes", *_classes(validation)))
        parts.append(_section("Trust", *_trust(report)))
    parts.append(_section("Provenance", _provenance(report)))
    return page(_title(report), *parts)


def _title(report: Report) -> str:
    labels, what = report["labels"], "labels"
    if labels:
        field = f" ({labels['field']})" if labels["field"] else ""
        what = f"{Path(labels['source']).name}{field}"
    names = " and ".join(each["collection"] for each in report["trained_on"])
    return f"Probe of {what} on {names}"


def _section(title: str, *parts: str) -> Html:
    return tag("section", tag("h2", title), *parts)


def _headline(report: Report) -> Html:
    validation = report["validation"]
    if "spatial" not in validation:
        return tag("p", "No accuracy is known of this probe.", class_="headline")
    key = validation["main"]
    name = FIGURES[validation["task"]][key]
    here, there = (validation[part]["figures"][key] for part in ("spatial", "random"))
    text = (
        f"In regions of the labelled area that were left out whole its {name} is "
        f"{interval(here)}, with a 95 % interval. A random split of the same labels would have "
        f"promised {number(there['value'])}."
    )
    return tag("p", text, class_="headline")


def _warnings(validation: Report) -> Html:
    texts = validation.get("warnings", [])
    if not texts:
        return Html("")
    return tag("section", tag("h2", "Warnings"), listed(texts), class_="warnings")


def _labels(labels: Report) -> list[Html]:
    if not labels:
        return []
    first, *others = label_lines(labels)
    parts = [tag("p", first), listed(text.strip() for text in others)]
    if labels["classes"]:
        rows = [
            [
                each["name"],
                "-" if each["labels"] is None else f"{each['labels']:,}",
                f"{each['chips']:,}",
                f"{each['share']:.1%}",
            ]
            for each in labels["classes"]
        ]
        parts.append(table(["class", "labels", "labelled chips", "share"], rows))
    return parts


def _accuracy(validation: Report) -> list[Html]:
    rivals, task = validation["baselines"], validation["task"]
    names = {name: baseline(name, task) for name in rivals}
    head = ["", "left-out regions", "random split", "gap", *names.values()]
    rows = []
    for key, name in FIGURES[task].items():
        here, there = (validation[part]["figures"][key] for part in ("spatial", "random"))
        known = here["value"] is not None and there["value"] is not None
        gap = there["value"] - here["value"] if known else None
        others = [number(each["figures"][key]["value"]) for each in rivals.values()]
        rows.append([name, interval(here), number(there["value"]), number(gap, sign=True), *others])
    key = validation["main"]
    shown = {"left-out regions": validation["spatial"], "random split": validation["random"]}
    shown |= {names[name]: scored for name, scored in rivals.items()}
    told = [f"{names[name]}: {scored['what']}" for name, scored in rivals.items()]
    return [
        table(head, rows),
        tag("figure", bars({name: each["figures"][key] for name, each in shown.items()})),
        tag(
            "p",
            "The figures of left-out regions are the ones to report. Those of the random split, "
            "where neighbours stand on both sides, and of the simpler rules beside them, tested "
            "in the same left-out regions, are there to compare.",
        ),
        listed(told),
    ]


def _split(validation: Report) -> list[Html]:
    regions = validation["regions"]
    column = "RMSE" if validation["task"] == "number" else "share right"
    key = "rmse" if validation["task"] == "number" else "right"
    rows = [
        [f"{each['lon']:.4f}, {each['lat']:.4f}", f"{each['samples']:,}", number(each[key])]
        for each in regions
    ]
    told = f"{split_text(validation['split'])} {strength_text(validation)}"
    parts = [tag("p", told), listed(width_lines(validation))]
    if any(each[key] is not None for each in regions):
        parts.append(table(["region left out (centre: lon, lat)", "samples", column], rows))
    return parts


def _classes(validation: Report) -> list[Html]:
    rows = [
        [
            each["name"],
            f"{each['support']:,}",
            f"{each['predicted']:,}",
            *(number(each[name]) for name in ("precision", "recall", "f1")),
        ]
        for each in validation["spatial"]["classes"]
    ]
    parts = [table(["class", "samples", "so called", "precision", "recall", "F1"], rows)]
    confusion = validation["spatial"]["confusion"]
    names = [each["name"] for each in validation["spatial"]["classes"]]
    if confusion and len(names) <= MOST_CONFUSED:
        parts += [tag("h3", "Confusion in left-out regions"), confusion_table(confusion, names)]
        parts.append(tag("p", "Rows are the truth, columns what the probe said.", class_="small"))
    return parts


def confusion_table(confusion: list[list[float]], names: list[str], form: str = ",d") -> Html:
    """Return a matrix as a table, each cell shaded by its share of the row."""
    rows = []
    for i, (name, counts) in enumerate(zip(names, confusion, strict=True)):
        total = sum(counts) or 1
        cells = []
        for j, count in enumerate(counts):
            shade = f"background: rgba(68, 119, 170, {0.6 * count / total:.2f})"
            kind = {"class_": "diagonal"} if i == j else {}
            cells.append(tag("td", format(count, form) if count else "", style=shade, **kind))
        rows.append([name, *cells])
    return table(["", *names], rows)


def _trust(report: Report) -> list[Html]:
    validation = report["validation"]
    parts = [listed(text.strip() for text in trust_lines(report))]
    figures = []
    if validation["calibration"]["reliability"]:
        told = (
            "On the dashed line a probability is as often right as it says. Larger dots stand for "
            "more samples of left-out regions."
        )
        chart = calibration_chart(validation["calibration"]["reliability"])
        figures.append(tag("figure", chart, tag("figcaption", told)))
    curve = validation["curve"]
    if curve:
        y_name = {
            "number": "squared error / variance",
            "positive": "mean error of both kinds",
        }.get(validation["task"], "share wrong")
        told = " ".join(
            [
                "Probes trained on fewer labels, tested in left-out regions; the band is a "
                "standard deviation to either side.",
                *curve_lines(validation),
            ]
        )
        figures.append(tag("figure", learning_curve(curve, y_name), tag("figcaption", told)))
    return [*parts, tag("div", *figures, class_="charts")]


def _provenance(report: Report) -> Html:
    labels, said, model = report["labels"], report["provenance"], report["model"]
    rows: list[list[str]] = [
        ["Model", f"{model['kind']}, strength {model['strength']:g}"],
        ["Model SHA-256", tag("td", tag("code", model["sha256"]))],
    ]
    for each in report["trained_on"]:
        rows += [
            ["Collection", f"{each['collection']}: {each['product']}"],
            ["Vectors", f"{each['encoder']}, {each['dim']} x {each['dtype']}"],
            ["Source and licence", f"{each['source']}; {each['licence']}"],
            ["State of the collection", tag("td", tag("code", each["state"]))],
        ]
    if labels:
        rows.append(["Labels", Path(labels["source"]).name])
    if said.get("labels_sha256"):
        rows.append(["Labels SHA-256", tag("td", tag("code", said["labels_sha256"]))])
    rows += [["Made", str(said.get("made", "-"))], ["Terrakin", str(said.get("terrakin", "-"))]]
    asked = said.get("job")
    return joined(
        [
            tag("div", table(["", ""], rows), class_="facts"),
            tag("details", tag("summary", "All settings"), tag("pre", json.dumps(asked, indent=1)))
            if asked
            else Html(""),
        ]
    )
