"""Predictions as tables of footprints: GeoParquet, and GeoPackage with an embedded style."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embeddings.analysis.probes import UNKNOWN
from embeddings.errors import StorageFullError, StoreError
from embeddings.probe.layer_file import finish_layer
from embeddings.probe.predict_scores import Scorer
from embeddings.probe.predict_scoring import Chunk
from embeddings.probe.predict_style import UNKNOWN_COLOUR, category_qml, colours, range_qml
from embeddings.store.schema import BBOX, ITEM_COLUMNS, SIDES, geo_metadata

LAYER = "predictions"
ROW_GROUP_ROWS = 131_072
FEATURE_ROWS = 32_768

_WKB_KINDS = {3: "Polygon", 6: "MultiPolygon"}


class Table:
    """The columns of a file of predictions."""

    def __init__(self, scorer: Scorer, provenance: Mapping[str, Any]) -> None:
        self.scorer = scorer
        self.provenance = json.dumps(provenance, sort_keys=True)
        self.names = named(scorer.names)
        class_type = pa.dictionary(pa.int16(), pa.string())
        self.schema = pa.schema(
            [
                pa.field("id", pa.string(), nullable=False),
                pa.field("grid_cell", pa.string()),
                pa.field("datetime", pa.timestamp("us", tz="UTC")),
                pa.field("lon", pa.float64(), nullable=False),
                pa.field("lat", pa.float64(), nullable=False),
                *([pa.field("class", class_type, nullable=False)] if scorer.names else []),
                *(
                    pa.field(name, pa.bool_() if kind is bool else pa.float32(), nullable=False)
                    for name, kind in scorer.measures.items()
                ),
                pa.field("bbox", BBOX, nullable=False),
                pa.field("geometry", pa.binary(), nullable=False),
            ]
        )

    def of(self, chunk: Chunk) -> pa.Table:
        """Return the rows of a chunk."""
        columns: dict[str, Any] = {name: chunk.rows[name] for name in ITEM_COLUMNS}
        columns |= chunk.scored.measures
        if self.names:
            # Unknown is the last name.
            codes = np.where(chunk.scored.codes == UNKNOWN, len(self.names) - 1, chunk.scored.codes)
            columns["class"] = pa.DictionaryArray.from_arrays(
                pa.array(codes.astype(np.int16)), pa.array(self.names, pa.string())
            )
        return pa.table([columns[name] for name in self.schema.names], schema=self.schema)


def named(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes and, after them, a name for unknown that is none of them."""
    if not classes:
        return ()
    names = {name.strip().lower() for name in classes}
    return (*classes, "unknown" if "unknown" not in names else "not recognised")


def write_parquet(chunks: Iterator[Chunk], table: Table, path: Path) -> None:
    """Write GeoParquet 1.1 with the provenance in the footer key ``terrakin``."""
    extent = _Extent()
    repeated = [name for name in ("datetime", "class") if name in table.schema.names]
    with pq.ParquetWriter(
        path,
        table.schema,
        # Footprints are most of the file; Snappy takes half the time for a third more bytes.
        compression={path: _codec(path) for path in _leaves(table.schema)},
        use_dictionary=repeated,
        write_page_index=True,
        write_statistics=["lon", "lat", *(f"bbox.{side}" for side in SIDES)],
        store_schema=True,
    ) as writer:
        for group in _grouped(map(table.of, chunks), ROW_GROUP_ROWS):
            extent.add(group)
            writer.write_table(group, row_group_size=ROW_GROUP_ROWS)
        writer.add_key_value_metadata(
            {"geo": geo_metadata(extent.table()), "terrakin": table.provenance}
        )


def write_geopackage(
    chunks: Iterator[Chunk], table: Table, path: Path, geometry_types: set[str]
) -> None:
    """Write a GeoPackage of one layer, with a QGIS style and the provenance in its metadata.

    Raises StorageFullError or StoreError.
    """
    import pyogrio.raw  # late: it takes a third of the server's start
    from pyogrio.errors import DataSourceError, FeatureError

    stream = _Features(chunks, table)
    try:
        pyogrio.raw.write_arrow(
            pa.RecordBatchReader.from_batches(stream.schema, stream.batches()),
            path,
            layer=LAYER,
            driver="GPKG",
            geometry_name="geometry",
            geometry_type="Polygon" if geometry_types <= {"Polygon"} else "Unknown",
            crs="EPSG:4326",
            layer_metadata={"terrakin": table.provenance},
        )
    except (DataSourceError, FeatureError, RuntimeError) as error:
        if stream.problem is not None:
            raise stream.problem from None
        if "disk is full" in str(error) or "No space" in str(error):
            raise StorageFullError(
                f"The disk is full: '{path.parent}'. Free some space, or write to another disk."
            ) from error
        raise StoreError(f"'{path.name}' could not be written: {error}") from error
    finish_layer(path, LAYER, _style(table, stream.range))


class _Features:
    """Rows as GDAL takes them; keeps what went wrong, which GDAL tells in its own words only."""

    def __init__(self, chunks: Iterator[Chunk], table: Table) -> None:
        self._chunks = chunks
        self._table = table
        self.problem: BaseException | None = None
        self.range: tuple[float, float] | None = None
        kept = [field for field in table.schema if field.name != "bbox"]
        self.schema = pa.schema(
            [
                pa.field(
                    field.name,
                    pa.string() if pa.types.is_dictionary(field.type) else field.type,
                    metadata={"ARROW:extension:name": "geoarrow.wkb"}
                    if field.name == "geometry"
                    else None,
                )
                for field in kept
            ]
        )

    def batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for chunk in self._chunks:
                rows = self._table.of(chunk).select(self.schema.names)
                if "value" in rows.column_names and rows.num_rows:
                    found = pc.min_max(rows["value"]).as_py()
                    low, high = self.range or (found["min"], found["max"])
                    self.range = min(low, found["min"]), max(high, found["max"])
                columns = [rows[field.name].cast(field.type) for field in self.schema]
                yield from (
                    pa.table(columns, schema=self.schema).combine_chunks().to_batches(FEATURE_ROWS)
                )
        except BaseException as error:
            self.problem = error
            raise


def _style(table: Table, span: tuple[float, float] | None) -> str | None:
    if table.names:
        palette = [*colours(len(table.names) - 1), UNKNOWN_COLOUR]
        return category_qml("class", table.names, palette)
    return range_qml("value", *span) if span is not None else None


def _leaves(schema: pa.Schema) -> list[str]:
    """Return the columns as Parquet names them."""
    return [
        *(name for name in schema.names if name != "bbox"),
        *(f"bbox.{side}" for side in SIDES),
    ]


def _codec(path: str) -> str:
    return "snappy" if path == "geometry" or path.startswith("bbox.") else "zstd"


class _Extent:
    """The boxes and the kinds of geometry of all rows written, as few rows."""

    def __init__(self) -> None:
        self._kinds: set[int] = set()
        self._boxes: list[tuple[float, float, float, float]] = []

    def add(self, rows: pa.Table) -> None:
        for geometry in rows["geometry"].chunks:
            _, offsets, data = geometry.buffers()
            starts = np.frombuffer(offsets, np.int32)[
                geometry.offset : geometry.offset + len(geometry)
            ]
            # Byte 1 of little-endian WKB is the kind.
            self._kinds |= set(np.unique(np.frombuffer(data, np.uint8)[starts + 1]).tolist())
        box = rows["bbox"].combine_chunks()
        low = [box.field(side).to_numpy() for side in ("xmin", "ymin")]
        high = [box.field(side).to_numpy() for side in ("xmax", "ymax")]
        crossing = low[0] > high[0]
        west, east = (180.0, -180.0) if crossing.any() else (low[0].min(), high[0].max())
        self._boxes.append((float(west), float(low[1].min()), float(east), float(high[1].max())))

    def table(self) -> pa.Table:
        """Return rows that have the boxes and kinds of all."""
        kinds = sorted(self._kinds)
        boxes = [*self._boxes, *self._boxes[:1] * len(kinds)]
        shapes = [bytes([1, kind]) for kind in (*kinds[:1] * len(self._boxes), *kinds)]
        sides = dict(zip(SIDES, zip(*boxes, strict=True), strict=True))
        return pa.table(
            {
                "bbox": pa.StructArray.from_arrays(
                    [pa.array(values, pa.float64()) for values in sides.values()], [*sides]
                ),
                "geometry": pa.array(shapes, pa.binary()),
            }
        )


def _grouped(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Join tables until they have so many rows, so that row groups are never tiny."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while sum(each.num_rows for each in held) >= rows:
            joined = pa.concat_tables(held)
            yield joined.slice(0, rows)
            held = [joined.slice(rows)]
    left = [each for each in held if each.num_rows]
    if left:
        yield pa.concat_tables(left)
