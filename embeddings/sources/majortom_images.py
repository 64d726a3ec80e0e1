"""Images of Major TOM in Parquet: a row is a patch, a column of GeoTIFF bytes is a band.

The datasets Core-S2L2A, Core-S2L1C and Core-S1RTC are laid out so: ``product_id``, ``grid_cell``,
``product_datetime``, ``thumbnail`` (PNG) and the bands ``B01`` ... ``B12`` and ``cloud_mask``, or
``vv`` and ``vh``; one row a row group, so that a patch is read without its neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rasterio.io import MemoryFile

from embeddings.errors import InputError, SourceError
from embeddings.sources.addresses import MAJORTOM_ROW, is_remote, row_parts, shown
from embeddings.sources.fetching import open_binary, state_of
from embeddings.sources.reading import SceneFile, SceneRef
from embeddings.sources.scene_dates import iso
from embeddings.store.layout import scene_from

MASKS = ("cloud_mask",)
"""Columns that say where pixels are missing; they are no bands of the patch."""

_TIMES = ("product_datetime", "timestamp", "datetime")
_PICTURES = ("thumbnail",)
_FORMATS = ("%Y%m%dT%H%M%S", "%Y%m%d_%H%M%S", "%Y%m%d")


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of a file that matter here."""

    bands: tuple[str, ...]
    time: str | None
    product: str | None


def image_scenes(
    file: str, *, columns: Sequence[str] | None = None, mask: str | None = None
) -> list[SceneRef]:
    """Return the rows of a Parquet file, a path or an address, each as a scene.

    ``columns`` picks the bands, in their order; None: all but masks and pictures. ``mask`` names
    a column that is read along. Only the columns of text are read. Raises InputError if the file
    holds no images, SourceError if it cannot be read.
    """
    with _parquet(file) as parquet:
        found = _columns(file, parquet.schema_arrow, columns, mask)
        texts = [name for name in ("grid_cell", found.time, found.product) if name]
        places = [
            (group, row)
            for group in range(parquet.metadata.num_row_groups)
            for row in range(parquet.metadata.row_group(group).num_rows)
        ]
        rows = parquet.read(columns=texts).to_pylist()
    if not rows:
        raise InputError(f"'{shown(file)}' has no rows. Give a file with images.")
    return [_scene(file, row, place, found) for row, place in zip(rows, places, strict=True)]


def _scene(file: str, row: dict[str, Any], place: tuple[int, int], found: _Columns) -> SceneRef:
    cell = str(row["grid_cell"])
    time = _time(row[found.time]) if found.time else None
    notes = []
    if time is None:
        told = f" ('{row[found.time]}')" if found.time else ""
        notes.append(f"{shown(file)} tells no time of {cell}{told}.")
    stamp = re.sub(r"[-:]|\+.*", "", time) if time else row[found.product] if found.product else ""
    group, number = place
    return SceneRef(
        scene_from(f"{cell}_{stamp}"),
        tuple(
            SceneFile(f"{MAJORTOM_ROW}{file}#{group}.{number}#{band}", (band,))
            for band in found.bands
        ),
        time,
        file,
        tuple(notes),
    )


def _columns(file: str, schema: Any, asked: Sequence[str] | None, mask: str | None) -> _Columns:
    names = list(schema.names)
    images = [
        field.name
        for field in schema
        if (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type))
        and field.name not in (*_PICTURES, "geometry")
    ]
    bands = [name for name in images if name not in MASKS]
    if "grid_cell" not in names or not bands:
        raise InputError(
            f"'{shown(file)}' holds no images of Major TOM: it needs a column 'grid_cell' and "
            f"columns of GeoTIFF bytes, but has {', '.join(names) or 'none'}."
        )
    chosen = list(asked) if asked else bands
    chosen += [name for name in (mask,) if name and name not in chosen]
    unknown = [name for name in chosen if name not in images]
    if unknown:
        raise InputError(
            f"'{shown(file)}' has no column of images {', '.join(unknown)}. It has "
            f"{', '.join(images)}."
        )
    return _Columns(
        tuple(chosen),
        next((name for name in _TIMES if name in names), None),
        "product_id" if "product_id" in names else None,
    )


def _time(value: Any) -> str | None:
    """Return what a column of times says as ISO 8601 in UTC; None for what is no time."""
    if isinstance(value, datetime):
        return iso(value.isoformat())
    for form in _FORMATS:
        try:
            return iso(datetime.strptime(str(value).strip(), form).isoformat())
        except ValueError:
            continue
    try:
        return iso(str(value))
    except InputError:
        return None


@contextmanager
def opened(uri: str) -> Iterator[str]:
    """Give the name under which GDAL opens an image, ``majortom-row:...``, while this lasts.

    Only its column of its row group is read. Raises SourceError.
    """
    content = _content(uri)
    with MemoryFile(content) as memory:
        yield str(memory.name)


def state_of_row(uri: str) -> bytes:
    """Return what changes when an image does: its bytes, or the state of the remote file."""
    file, group, row, column = row_parts(uri)
    if is_remote(file):
        return f"{state_of(file)}#{group}.{row}#{column}".encode()
    return _content(uri)


def _content(uri: str) -> bytes:
    file, group, row, column = row_parts(uri)
    with _parquet(file) as parquet:
        if group >= parquet.metadata.num_row_groups or column not in parquet.schema_arrow.names:
            raise SourceError(
                f"{shown(uri)} is not there any more. The file was changed: run the command again."
            )
        cells = parquet.read_row_group(group, columns=[column]).column(0)
    content = cells[row].as_py() if row < len(cells) else None
    if not content:
        raise SourceError(f"{shown(uri)} is empty. Leave the band out, or the file.")
    return bytes(content)


@lru_cache(maxsize=8)
def _footer(file: str, _: tuple[int, int]) -> Any:
    """Return the footer of a file; that of 500 rows is large, and every band of a row needs it."""
    with open_binary(file) as source:
        return pq.read_metadata(source)


def _stamp(file: str) -> tuple[int, int]:
    """Return what tells versions of a local file apart; a remote one stays during a run."""
    if is_remote(file):
        return 0, 0
    stat = Path(file).stat()
    return stat.st_size, stat.st_mtime_ns


@contextmanager
def _parquet(file: str) -> Iterator[Any]:
    """Open a Parquet file. Raises SourceError, also for errors while it is read."""
    try:
        with open_binary(file) as source:
            footer = _footer(file, _stamp(file))
            with pq.ParquetFile(source, metadata=footer) as parquet:
                yield parquet
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"'{shown(file)}' is no Parquet file that can be read, or is damaged ({error}). Fetch "
            "it again."
        ) from error
