"""The change of a collection as files: rasters of a pixel a chip, or a layer of footprints."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embeddings import __version__
from embeddings.analysis.change.coverage import Coverage
from embeddings.atomic import atomic_path
from embeddings.change.collection_run import CollectionChange
from embeddings.change.raster_files import COVERAGE
from embeddings.probe.layer_file import add_style, write_layer
from embeddings.probe.outputs import IF_FULL
from embeddings.probe.predict_grids import pixels_of
from embeddings.probe.predict_raster import Sheet, write_rasters
from embeddings.probe.predict_scores import Scored
from embeddings.probe.predict_scoring import Chunk
from embeddings.probe.predict_style import Colour, category_qml, range_qml
from embeddings.store.schema import geo_metadata

LAYER = "change"
STAYED = 254
"""The code of a place of a series that stayed what it was; dates have 1 and up."""
STAYED_COLOUR: Colour = (226, 226, 222)
NAN = float("nan")
_NO_CLOCK = "2000-01-01T00:00:00.000Z"
_TIME = np.array([(13, 8, 135), (126, 3, 168), (204, 71, 120), (244, 136, 73), (252, 206, 37)])
"""Colours from early to late."""


def write(made: CollectionChange) -> list[Path]:
    """Write what was found to ``job.out`` and beside it; return the files.

    Each appears whole or not at all, ``job.out`` last. Raises InputError if no raster can hold the
    chips, or StoreError.
    """
    if made.job.is_raster:
        return _write_rasters(made)
    table = change_table(made)
    with atomic_path(made.job.out, IF_FULL) as temporary:
        if made.job.out.suffix.lower() == ".parquet":
            footer = {b"geo": geo_metadata(table), b"terrakin": json.dumps(said(made)).encode()}
            pq.write_table(table.replace_schema_metadata(footer), temporary, compression="zstd")
        else:
            style = _style(made)
            write_layer(
                temporary,
                LAYER,
                table.drop_columns(["bbox"]),
                said(made),
                finish=lambda file: styled(file, LAYER, style),
            )
    return [made.job.out]


def change_table(made: CollectionChange) -> pa.Table:
    """Return a row for each place: what it is, what was found, and its footprint."""
    items = made.dates.items()
    labels = np.array([kind.label for kind in Coverage], object)
    columns: dict[str, Any] = {name: items[name] for name in ("id", "lon", "lat")}
    columns |= {
        "coverage": pa.array(labels[made.coverage], pa.string()),
        "hectares": np.round(made.hectares, 4),
    }
    compared = made.coverage == Coverage.COMPARED
    columns |= _since_columns(made) if made.since is not None else _pair_columns(made, compared)
    for name, values in made.classes.items():
        columns[name] = pa.array(values, pa.string())
    return pa.table(columns | {name: items[name] for name in ("bbox", "geometry")})


def _pair_columns(made: CollectionChange, compared: NDArray[np.bool_]) -> dict[str, Any]:
    many, labels = made.dates.count, made.dates.labels
    columns: dict[str, Any] = {
        "date_before": pa.array([labels[0]] * many, pa.string()),
        "date_after": pa.array([labels[1]] * many, pa.string()),
        "changed": pa.array(made.changed, mask=~compared),
    }
    return columns | {name: _numbers(values) for name, values in made.measures.items()}


def _since_columns(made: CollectionChange) -> dict[str, Any]:
    since = made.since
    assert since is not None  # of a series
    days = np.array([*made.dates.labels, None], object)
    return {
        "since": pa.array(days[since.date], pa.string()),
        "dates_since": pa.array(since.dates, pa.int16(), mask=since.date < 0),
        "score": _numbers(since.score),
    }


def _numbers(values: NDArray[np.float32]) -> pa.Array:
    return pa.array(values, pa.float32(), mask=~np.isfinite(values))


def said(made: CollectionChange) -> dict[str, Any]:
    """Say what a file was made of; no time of running, so that equal maps are equal."""
    spec = made.collections[0].spec
    return {
        "terrakin": __version__,
        "collections": [each.id for each in made.collections],
        "collection_states": [each.state for each in made.collections],
        "product": spec.product,
        "source": spec.source,
        "dates": list(made.dates.labels),
        "threshold": float(made.threshold) if np.isfinite(made.threshold) else None,
        "settings": made.job.settings(),
    }


def _style(made: CollectionChange) -> str:
    if made.since is not None:
        return category_qml("since", made.dates.labels[1:], date_colours(made))
    high = np.nanquantile(made.score, 0.99) if np.isfinite(made.score).any() else 3.0
    return range_qml("score", 0.0, float(max(high, 3.0)))


def styled(file: Path, layer: str, style: str) -> None:
    """Put a layer's style into the file, and the wall clock out of it."""
    with closing(sqlite3.connect(file)) as database, database:
        add_style(database, layer, style, _NO_CLOCK)
        database.execute("UPDATE gpkg_contents SET last_change = ?", (_NO_CLOCK,))
        database.execute("UPDATE gpkg_metadata_reference SET timestamp = ?", (_NO_CLOCK,))


def date_colours(made: CollectionChange) -> list[Colour]:
    """Return a colour for each date but the first, from early to late."""
    at = np.linspace(0, len(_TIME) - 1, max(len(made.dates.labels) - 1, 2))
    found = np.stack([np.interp(at, range(len(_TIME)), channel) for channel in _TIME.T], axis=1)
    return [(round(r), round(g), round(b)) for r, g, b in found.tolist()]


def _sheets(made: CollectionChange) -> dict[Path, Sheet]:
    job = made.job
    if made.since is None:
        bands = tuple(made.measures)
        return {job.out: Sheet(bands, "float32", NAN), job.beside("coverage"): COVERAGE}
    codes = (*range(1, len(made.dates.labels)), STAYED)
    names = (*made.dates.labels[1:], "no lasting change")
    palette = (*date_colours(made), STAYED_COLOUR)
    return {
        job.out: Sheet(("since",), "uint8", 0, codes, names, palette),
        job.beside("score"): Sheet(("score",), "float32", NAN),
    }


def _write_rasters(made: CollectionChange) -> list[Path]:
    sheets = _sheets(made)
    chunks = list(_chunks(made))
    pixels = pixels_of(made.collections[0], [chunk.scene for chunk in chunks])
    texts: dict[Path, str] = {}
    for path, sheet in sheets.items():
        texts |= sheet.beside(path)
    with ExitStack() as stack:
        paths = {path: stack.enter_context(atomic_path(path, IF_FULL)) for path in sheets}
        write_rasters(
            iter(chunks),
            pixels,
            {paths[path]: sheet for path, sheet in sheets.items()},
            said(made),
            crop=made.job.bbox is not None or not pixels.whole,
        )
        for path, text in texts.items():
            temporary = stack.enter_context(atomic_path(path, IF_FULL))
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return [*sheets, *texts]


def _chunks(made: CollectionChange) -> Iterator[Chunk]:
    """Yield the places scene by scene; those of the second of two collections are left out."""
    items, dates = made.dates.items(), made.dates
    first = made.collections[0]
    scene = np.full(dates.count, -1, np.int64)
    for date, chips in enumerate(dates.chips):
        here = np.flatnonzero(dates.base == date)
        if chips.collection.path == first.path:
            scene[here] = chips.scene[dates.at[date, here]]
    measures = _measures(made)
    for number in np.unique(scene[scene >= 0]).tolist():
        places = np.flatnonzero(scene == number)
        values = {name: each[places] for name, each in measures.items()}
        there = np.ones(len(places), bool)
        scored = Scored(there, np.zeros(len(places), np.int32), values)
        yield Chunk(first.scenes[number], items.take(places), scored, 0)


def _measures(made: CollectionChange) -> Mapping[str, NDArray[Any]]:
    if made.since is None:
        return {**made.measures, "coverage": made.coverage}
    codes = np.where(made.since.date > 0, made.since.date, STAYED)
    return {
        "since": np.where(np.isfinite(made.since.score), codes, 0).astype(np.uint8),
        "score": made.since.score,
    }
