"""Accuracy and areas of a map as one HTML file."""

from __future__ import annotations

from pathlib import Path

from embeddings.atomic import atomic_path
from embeddings.probe.accuracy import HEAD, SOURCE, MapAccuracy
from embeddings.probe.html import listed, page, table, tag
from embeddings.probe.outputs import IF_FULL
from embeddings.probe.report_html import confusion_table


def accuracy_html(found: MapAccuracy, title: str) -> str:
    """Return the document."""
    first, second, *more = found.lines()
    classes = list(found.classes)
    shares = [[float(value) for value in row] for row in found.whole.matrix]
    named = [more[0]] if found.named is not None else []
    return page(
        title,
        tag("p", " ".join([second, *named]), class_="headline"),
        tag("p", first),
        tag("section", tag("h2", "Notes"), listed(found.notes), class_="warnings")
        if found.notes
        else "",
        tag("h2", "Classes"),
        table(HEAD, found.rows()),
        tag(
            "p",
            "Hectares are estimated from the sample: what the map calls another class is "
            "counted where it belongs. User's accuracy: how much of what the map names so is so. "
            "Producer's accuracy: how much of what is so the map names so.",
            class_="small",
        ),
        tag("h2", "Sampled places"),
        confusion_table(found.counts.tolist(), classes),
        tag("h2", "Shares of the area"),
        confusion_table(shares, classes, ".2%"),
        tag("p", "Rows are the map, columns the reference.", class_="small"),
        tag("h2", "Method"),
        tag("p", f"{SOURCE}. Strata are the classes of the map, unknown among them."),
    )


def write_accuracy(found: MapAccuracy, title: str, path: Path) -> None:
    """Write the document. Raises StoreError."""
    text = accuracy_html(found, title)
    with atomic_path(path, IF_FULL) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
