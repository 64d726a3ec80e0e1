"""What a change between dense vectors says of itself, in the form of all reports of collections."""

from __future__ import annotations

from typing import Any

from embeddings import __version__
from embeddings.analysis.change.coverage import Coverage
from embeddings.analysis.change.series import SERIES_COVERAGE
from embeddings.analysis.plain import plain
from embeddings.change.collection_job import THRESHOLD
from embeddings.change.dense_run import DenseChange

M2_A_HECTARE = 10_000.0


def dense_report(made: DenseChange) -> dict[str, Any]:
    """Return the report as JSON; its places are cells."""
    job, dates, totals = made.job, made.dates, made.maps.totals
    spec = made.collections[0].spec
    compared = totals.pixels[Coverage.COMPARED]
    names = SERIES_COVERAGE if job.all_dates else {kind: kind.label for kind in Coverage}
    report = {
        "terrakin": __version__,
        "collections": [each.id for each in made.collections],
        "product": spec.product,
        "source": spec.source,
        "dates": list(dates.labels),
        "places": dates.count,
        "chip_side_m": dates.scales[0].chip_m,
        "dense": _dense(made),
        "hectares": sum(totals.m2) / M2_A_HECTARE,
        "coverage": {
            name: {"places": totals.pixels[kind], "hectares": totals.m2[kind] / M2_A_HECTARE}
            for kind, name in names.items()
        },
        "threshold": {
            "asked": f"false alarms {job.false_alarms:g}"
            if job.all_dates
            else job.threshold or THRESHOLD,
            "score": made.maps.threshold,
        },
        "changed": _changed(made, compared),
        "histogram": {"edges": list(totals.edges), "counts": list(totals.counts)},
        **({"since": _since(made)} if job.all_dates else {"distances": made.maps.quartiles}),
        **({"objects": made.maps.objects} if made.maps.objects is not None else {}),
        "noise": [
            {"dates": [dates.labels[d] for d in pair], "collection": scale.collections[0].id}
            | model.null.to_json()
            for pair, models in made.noise.models.items()
            for scale, model in zip(dates.scales, models, strict=True)
        ],
        "settings": job.settings(),
        "files": [path.name for path in made.maps.files],
        "notes": list(made.notes),
        "seconds": made.seconds,
    }
    return {name: plain(value) for name, value in report.items()}


def _dense(made: DenseChange) -> dict[str, Any]:
    grid = made.dates.grid
    return {
        "cells": [grid.height, grid.width],
        "cell_m": list(grid.pixel_m),
        "chip_sides_m": {s.collections[0].id: s.chip_m for s in made.dates.scales},
        "references": made.references,
        "windows": len(made.dates.tiles),
        "resumed": made.resumed,
        "peak_bytes": made.peak_bytes,
    }


def _changed(made: DenseChange, compared: int) -> dict[str, float]:
    totals, since = made.maps.totals, made.maps.since
    cells, m2 = totals.changed_pixels, totals.changed_m2
    if made.job.all_dates:
        cells, m2 = sum(each for each, _ in since), sum(each for _, each in since)
    return {
        "places": cells,
        "hectares": m2 / M2_A_HECTARE,
        "share_of_compared": cells / max(compared, 1),
    }


def _since(made: DenseChange) -> list[dict[str, Any]]:
    return [
        {"date": label, "places": cells, "hectares": m2 / M2_A_HECTARE}
        for label, (cells, m2) in zip(made.dates.labels[1:], made.maps.since, strict=True)
    ]
