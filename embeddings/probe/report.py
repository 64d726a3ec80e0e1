"""What a probe's report holds, as plain data and as text for a terminal.

All of it stands in the model file, so that a report can be made again without labels or vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from embeddings.analysis.plain import plain
from embeddings.atomic import atomic_path
from embeddings.errors import InputError
from embeddings.probe.model import ProbeModel, model_files
from embeddings.probe.outputs import IF_FULL, check_file

FORMAT = "terrakin-probe-report"
FORMAT_VERSION = 1
SUFFIXES = (".json", ".html")

FIGURES: dict[str, dict[str, str]] = {
    "classes": {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "macro_f1": "macro F1",
        "kappa": "kappa",
    },
    "number": {"r2": "R²", "rmse": "RMSE", "mae": "MAE", "bias": "bias"},
    "multilabel": {"macro_f1": "macro F1", "micro_f1": "micro F1", "exact": "all labels right"},
    "positive": {"auc": "AUC"},
}
"""The figures of each task and their names, the main one first."""

SLIGHT = 0.0005
"""A gain that three decimals do not show."""
LONGEST = 40
"""Characters of a cell of a printed table; reports hold names whole."""

_BASELINES = {
    "dummy": "commonest answer",
    "place": "coordinates only",
    "neighbours": "5 nearest vectors",
    "centroid": "nearest centroid",
}

Report = Mapping[str, Any]


def baseline(name: str, task: str) -> str:
    """Return what to call a baseline."""
    return "mean of all" if (name, task) == ("dummy", "number") else _BASELINES[name]


def probe_report(model: ProbeModel) -> dict[str, Any]:
    """Return what is known of a model: a JSON object."""
    probe = model.probe
    report = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": {
            "sha256": model.sha256,
            "task": probe.task,
            "kind": probe.kind,
            "classes": list(probe.classes),
            "strength": probe.strength,
            "temperature": probe.temperature,
            "unknown_by_probability": probe.thresholds is not None and probe.task == "classes",
            "unknown_by_applicability": probe.applicability is not None and probe.task == "classes",
            "prevalence": probe.prevalence,
        },
        "trained_on": [
            {
                "collection": each.collection,
                "state": each.state,
                "product": each.spec.product,
                "encoder": f"{each.spec.model} {each.spec.model_version}",
                "dim": each.spec.dim,
                "dtype": each.spec.dtype,
                "source": each.spec.source,
                "licence": each.spec.licence,
            }
            for each in model.trained_on
        ],
        "labels": model.labels,
        "validation": model.validation,
        "provenance": model.provenance,
    }
    return {name: plain(value) for name, value in report.items()}


def check_report_path(path: Path, model: Path | None = None) -> None:
    """Raise InputError or StoreError, before a long fit, if a report could not be written there.

    ``model`` is where a model is or will be, whose files a report must not replace.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"'{path.name}' has no suffix of a report. Use one of {', '.join(SUFFIXES)}."
        )
    check_file(path)
    if model is not None and path.absolute() in {file.absolute() for file in model_files(model)}:
        raise InputError(f"'{path}' is a file of the model itself. Choose another for the report.")


def write_report(report: Report, path: Path, also: Callable[[], object] = lambda: None) -> None:
    """Write a report as .json or .html, and ``also`` what belongs to it: both or neither.

    Raises InputError or StoreError.
    """
    from embeddings.probe.report_html import report_html

    check_report_path(path)
    if path.suffix.lower() == ".json":
        text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    else:
        text = report_html(report)
    with atomic_path(path, IF_FULL) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        also()


def report_lines(report: Report) -> list[str]:
    """Return a report as text: labels, figures, classes, warnings."""
    validation = report["validation"]
    lines = [*_head(report), *label_lines(report["labels"])]
    if "spatial" in validation:
        lines += ["", *_split(validation), "", *_figures(validation)]
        if validation["spatial"]["classes"]:
            lines += ["", *_classes(validation)]
        lines += ["", *trust_lines(report), *curve_lines(validation)]
    warnings = validation.get("warnings", [])
    if warnings:
        lines += ["", "Warnings", *(f"  - {text}" for text in warnings)]
    return lines


def _head(report: Report) -> list[str]:
    model = report["model"]
    what = {
        "classes": f"{len(model['classes'])} classes",
        "number": "a number",
        "multilabel": f"{len(model['classes'])} labels, several a place",
        "positive": f"'{(model['classes'] or [''])[0]}' against the collection's background",
    }[model["task"]]
    on = " and ".join(
        f"'{each['collection']}' ({each['encoder']}, {each['dim']} x {each['dtype']})"
        for each in report["trained_on"]
    )
    return [f"Probe ({model['kind']}, strength {model['strength']:g}) of {what} on {on}."]


def label_lines(labels: Report) -> list[str]:
    """Return what became of the labels: where they are from, used, dropped and why."""
    if not labels:
        return []
    name = Path(labels["source"]).name
    field = f", field '{labels['field']}'" if labels["field"] else ""
    read = "a raster"
    if labels["labels_read"] is not None:
        read = f"{labels['labels_read']:,} labels read, {labels['labels_used']:,} used"
    lines = [
        f"Labels: '{name}'{field}: {read}; {labels['chips_used']:,} of {labels['chips']:,} chips "
        "are labelled.",
        f"  {labels['why']}",
        f"  Rule {labels['rule']}: {labels['rule_text']}",
    ]
    drops = [(each, "labels not used") for each in labels["dropped"]]
    drops += [(each, "chips not used") for each in labels["chips_dropped"]]
    lines += [f"  {each['count']:,} {what}: {each['reason']}" for each, what in drops]
    return [*lines, *(f"  {text}" for text in labels["notes"])]


def _split(validation: Report) -> list[str]:
    return [f"Spatial validation: {split_text(validation['split'])}", strength_text(validation)]


def split_text(split: Report) -> str:
    """Return how the spatial folds were made, in a sentence or two."""
    return (
        f"{split['folds']} folds, each a compact region of the labelled area left out whole; made "
        f"of {split['blocks']} blocks of {length(split['block_m'])}, with nothing trained on that "
        f"is nearer than {length(split['buffer_m'])} to what is tested. The labels resemble each "
        f"other over {length(split['range_m'])}."
    )


def strength_text(validation: Report) -> str:
    """Return whose strength the figures are of, in a sentence."""
    strength = f"The penalty on weights has the strength {validation['strength']:g}"
    if validation["settings"]["strength"] is not None:
        return f"{strength}, as asked for; all figures are of probes with it."
    tried = ", ".join(f"{each['strength']:g}" for each in validation["strengths_tried"])
    return (
        f"{strength}, which had the least loss in left-out regions (tried: {tried}). For the "
        "figures of each region it was chosen without that region."
    )


def _figures(validation: Report) -> list[str]:
    """Return the table of figures; those of number are not all better when higher."""
    rivals, task = validation["baselines"], validation["task"]
    head = [
        "",
        "left-out regions (95 %)",
        "random split",
        "gap",
        *(baseline(n, task) for n in rivals),
    ]
    rows = [head]
    for key, name in FIGURES[task].items():
        here, there = (validation[part]["figures"][key] for part in ("spatial", "random"))
        gap = None if _none(here, there) else there["value"] - here["value"]
        rows.append(
            [
                name,
                interval(here),
                number(there["value"]),
                number(gap, sign=True),
                *(number(each["figures"][key]["value"]) for each in rivals.values()),
            ]
        )
    return [
        *columns(rows),
        "Report the figures of left-out regions; the others are to compare.",
        *width_lines(validation),
    ]


def width_lines(validation: Report) -> list[str]:
    """Return how the main figure changes with the regions that are left out."""
    name = FIGURES[validation["task"]][validation["main"]]
    lines = []
    if len(validation["widths"]) > 1:
        each = ", ".join(
            f"{number(one['value'])} ({length(one['region_m'])})" for one in validation["widths"]
        )
        lines.append(f"By the width of the regions left out: {name} {each}.")
    drawn = [value for value in validation["partitions"] if value is not None]
    if len(drawn) > 1:
        lines.append(
            f"With regions drawn in {len(drawn)} ways: {name} {number(min(drawn))} to "
            f"{number(max(drawn))}."
        )
    return lines


def _classes(validation: Report) -> list[str]:
    rows = [["class", "samples", "precision", "recall", "F1"]]
    for each in validation["spatial"]["classes"]:
        figures = (number(each[name]) for name in ("precision", "recall", "f1"))
        rows.append([each["name"], f"{each['support']:,}", *figures])
    return columns(rows)


def trust_lines(report: Report) -> list[str]:
    """Return what probabilities and "unknown" are worth."""
    validation, lines = report["validation"], []
    error = validation["calibration"]["error"]
    if error is not None:
        lines.append(
            f"Calibration error {error:.3f}: so far are the probabilities from the share that is "
            "right, on average, in left-out regions."
        )
    lines += _selection(report["model"]["task"], validation["selection"])
    outside = validation["applicability"]["outside"]
    if outside is not None:
        lines.append(
            f"Unlike the training data (applicability above "
            f"{number(validation['applicability']['threshold'])}): {outside:.0%} of the samples in "
            "left-out regions."
        )
    return lines


def _selection(task: str, chosen: Report | None) -> list[str]:
    if chosen is None:
        return []
    if task == "positive":
        return [
            f"Threshold: misses {chosen['asked']:.0%} of the positives of left-out regions and "
            f"takes {chosen['accepted']:.1%} of the background."
        ]
    if not chosen["accepted"]:
        return [
            "No place is called unknown for its probability: errors cannot be kept at "
            f"{chosen['asked']:.0%}, nor at any rate that would leave places to accept."
        ]
    promise = f"{chosen['promised']:.0%} errors"
    if chosen["promised"] != chosen["asked"]:
        promise += f" (the {chosen['asked']:.0%} asked for cannot be kept)"
    return [
        f"Unknown at {promise}: by probability {chosen['accepted']:.1%} are accepted, and "
        f"{chosen['error']:.1%} of those are wrong (at most {chosen['error_bound']:.1%} with 90 % "
        "confidence), in left-out regions.",
        f"  {chosen['note']}",
    ]


def curve_lines(validation: Report) -> list[str]:
    """Return what more labels would probably bring."""
    curve = validation["curve"]
    if not curve or curve["gain"] is None:
        return []
    what = {
        "number": "the unexplained share of the variance",
        "positive": "the error (mean of both kinds)",
    }.get(validation["task"], "the error")
    if curve["gain_high"] < SLIGHT:
        return [f"Another {curve['more']} labels like these would hardly lower {what}."]
    return [
        f"Another {curve['more']} labels like these would probably lower {what} by "
        f"{curve['gain']:.3f} (90 %: {curve['gain_low']:.3f} to {curve['gain_high']:.3f})."
    ]


def interval(figure: Report) -> str:
    """Return a figure with its 95 % interval."""
    if figure["low"] is None:
        return number(figure["value"])
    return f"{number(figure['value'])} ({number(figure['low'])} to {number(figure['high'])})"


def number(value: float | None, *, sign: bool = False) -> str:
    """Return a figure with three decimals, or four digits where it is large; - for None."""
    if value is None:
        return "-"
    if abs(value) >= 10:
        return f"{value:{'+' if sign else ''}.4g}"
    # Adding 0 makes -0.000 plain.
    return f"{round(value, 3) + 0.0:{'+' if sign else ''}.3f}"


def length(metres: float) -> str:
    """Return a length in metres or kilometres."""
    return f"{metres / 1000:,.0f} km" if metres >= 10_000 else f"{metres:,.0f} m"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of a table as lines: the first column to the left, the others to the right.

    Names of classes may hold anything: each stays on its line, and the longest are cut.
    """
    rows = [[_one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, each)) for each in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _one_line(text: str) -> str:
    line = "".join(each if each.isprintable() else " " for each in text)
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."


def _none(*figures: Report) -> bool:
    return any(each["value"] is None for each in figures)
