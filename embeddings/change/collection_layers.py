"""The change of a collection as files: rasters of a pixel a chip, or a layer of footprints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embeddings import __version__
from embeddings.analysis.change.coverage import Coverage
from embeddings.analysis.change.series import SERIES_COVERAGE
from embeddings.atomic import atomic_path
from embeddings.change.clicks import NO_CHANGE
from embeddings.change.collection_run import CollectionChange
from embeddings.change.raster_files import COVERAGE, kinds_sheet, write_beside
from embeddings.change.raster_kinds import UNKNOWN_CODE
from embeddings.change.raster_scores import UNCHANGED
from embeddings.change.styles import score_qml
from embeddings.probe.layer_file import write_layer
from embeddings.probe.outputs import IF_FULL
from embeddings.probe.predict_grids import pixels_of
from embeddings.probe.predict_raster import MOST_IN_A_BYTE, Sheet, is_users, write_rasters
from embeddings.probe.predict_scores import Scored
from embeddings.probe.predict_scoring import Chunk
from embeddings.probe.predict_style import (
    UNKNOWN_COLOUR,
    Colour,
    category_qml,
    colours,
    range_qml,
)
from embeddings.store.schema import geo_metadata

LAYER = "change"
KIND = "kind"
"""The column that clicks name."""
STAYED = 254
"""The code of a place of a series that stayed what it was; dates have 1 and up."""
STAYED_COLOUR: Colour = (226, 226, 222)
NAN = float("nan")
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
                qml=style,
            )
    return [made.job.out]


def change_table(made: CollectionChange) -> pa.Table:
    """Return a row for each place: what it is, what was found, and its footprint."""
    items = made.dates.items()
    labels = np.array([coverage_names(made).get(kind) for kind in Coverage], object)
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
    there = made.dates.there
    last = np.where(there, np.arange(len(there))[:, None], -1).max(axis=0)
    return {
        "since": pa.array(days[since.date], pa.string()),
        "dates_since": pa.array(since.dates, pa.int16(), mask=since.date < 0),
        "dates": pa.array(there.sum(axis=0), pa.int16()),
        "last_date": pa.array(days[last], pa.string()),
        "score": _numbers(since.score),
    }


def coverage_names(made: CollectionChange) -> Mapping[Coverage, str]:
    """Return what the codes of coverage are called: those of two dates, or of a series."""
    if made.since is not None:
        return SERIES_COVERAGE
    return {kind: kind.label for kind in Coverage}


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
        return category_qml("since", made.dates.labels[1:], date_colours(made.dates.labels))
    high = np.nanquantile(made.score, 0.99) if np.isfinite(made.score).any() else 3.0
    return range_qml("score", 0.0, float(max(high, 3.0)))


def date_colours(labels: Sequence[str]) -> list[Colour]:
    """Return a colour for each date but the first, from early to late."""
    at = np.linspace(0, len(_TIME) - 1, max(len(labels) - 1, 2))
    found = np.stack([np.interp(at, range(len(_TIME)), channel) for channel in _TIME.T], axis=1)
    return [(round(r), round(g), round(b)) for r, g, b in found.tolist()]


def _sheets(made: CollectionChange) -> dict[Path, Sheet]:
    job = made.job
    if made.since is None:
        first = {job.out: Sheet(tuple(made.measures), "float32", NAN)}
        named = {job.beside(name): _named_sheet(made, name) for name in made.classes}
        return first | {job.beside("coverage"): COVERAGE} | named
    return {
        job.out: since_sheet(made.dates.labels),
        job.beside("score"): Sheet(("score",), "float32", NAN),
        job.beside("coverage"): series_coverage_sheet(),
    }


def _named_sheet(made: CollectionChange, name: str) -> Sheet:
    """Return the raster of what a probe or clicks name: a code for each name, unknown the last."""
    legend = _legend(made, name)
    if name == KIND:
        return kinds_sheet(legend)
    dtype = "uint8" if len(legend) <= MOST_IN_A_BYTE else "uint16"
    palette = (*colours(len(legend) - 1), UNKNOWN_COLOUR)
    return Sheet((name,), dtype, 0, tuple(legend.values()), tuple(legend), palette)


def _legend(made: CollectionChange, name: str) -> dict[str, int]:
    if name == KIND:
        found = [each["kind"] for each in made.told["kinds"]["found"]]
        codes = [*range(UNCHANGED + 1, UNCHANGED + len(found)), UNKNOWN_CODE]
        return {NO_CHANGE: UNCHANGED} | dict(zip(found, codes, strict=True))
    return {each: n for n, each in enumerate(made.told["transitions"]["classes"], 1)}


def _codes(made: CollectionChange, name: str) -> NDArray[np.uint16]:
    """Return the code of each place: 0 where nothing is known."""
    legend = _legend(made, name)
    codes = np.array([legend.get(text, 0) for text in made.classes[name].tolist()], np.uint16)
    if name == KIND:
        codes[(made.coverage == Coverage.COMPARED) & ~made.changed] = UNCHANGED
    return codes


def since_sheet(labels: Sequence[str]) -> Sheet:
    """Return the raster that has a code for each date but the first, and STAYED."""
    palette = (*date_colours(labels)[: len(labels) - 1], STAYED_COLOUR)
    codes = (*range(1, len(labels)), STAYED)
    return Sheet(("since",), "uint8", 0, codes, (*labels[1:], "no lasting change"), palette)


def series_coverage_sheet() -> Sheet:
    """Return the raster that says where the dates of a series are too few to tell."""
    kept = [COVERAGE.codes.index(int(kind)) for kind in SERIES_COVERAGE]
    palette = tuple(COVERAGE.palette[n] for n in kept)
    codes = tuple(map(int, SERIES_COVERAGE))
    return replace(COVERAGE, codes=codes, names=tuple(SERIES_COVERAGE.values()), palette=palette)


def _write_rasters(made: CollectionChange) -> list[Path]:
    sheets = _sheets(made)
    chunks = list(_chunks(made))
    pixels = pixels_of(made.collections[0], [chunk.scene for chunk in chunks])
    texts: dict[Path, str] = {}
    for path, sheet in sheets.items():
        texts |= sheet.beside(path)
    style = (made.job.out if made.since is None else made.job.beside("score")).with_suffix(".qml")
    if not is_users(style):
        texts[style] = score_qml(made.threshold)
    with ExitStack() as stack:
        paths = {path: stack.enter_context(atomic_path(path, IF_FULL)) for path in sheets}
        write_rasters(
            iter(chunks),
            pixels,
            {paths[path]: sheet for path, sheet in sheets.items()},
            said(made),
            crop=made.job.bbox is not None or not pixels.whole,
        )
        write_beside(texts, stack)
    return [*sheets, *texts]


def _chunks(made: CollectionChange) -> Iterator[Chunk]:
    """Yield the places scene by scene, each with the scene of the first date it is known at."""
    items, dates, measures = made.dates.items(), made.dates, _measures(made)
    for date, chips in enumerate(dates.chips):
        here = np.flatnonzero(dates.base == date)
        numbers = chips.scene[dates.at[date, here]]
        for number in np.unique(numbers).tolist():
            places = here[numbers == number]
            values = {name: each[places] for name, each in measures.items()}
            there = np.ones(len(places), bool)
            scored = Scored(there, np.zeros(len(places), np.int32), values)
            scene = chips.collection.scenes[number]
            # Two collections may each have a scene of that name.
            own = replace(scene, id=f"{chips.collection.id}/{scene.id}")
            yield Chunk(own, items.take(places), scored, 0)


def _measures(made: CollectionChange) -> Mapping[str, NDArray[Any]]:
    if made.since is None:
        named = {name: _codes(made, name) for name in made.classes}
        return {**made.measures, "coverage": made.coverage, **named}
    codes = np.where(made.since.date > 0, made.since.date, STAYED)
    return {
        "since": np.where(np.isfinite(made.since.score), codes, 0).astype(np.uint8),
        "score": made.since.score,
        "coverage": made.coverage,
    }
