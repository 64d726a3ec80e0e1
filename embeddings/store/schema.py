"""The Parquet contract: columns, footer keys, row groups. docs/data-format.md describes it.

GeoParquet 1.1.0 with a bbox covering (opengeospatial/geoparquet); the footer key ``emb`` holds
the STAC ``emb:`` descriptor and the full spec (geo-embeddings best practice).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
from numpy.typing import NDArray

from embeddings.errors import StoreFormatError
from embeddings.spec import EmbeddingSpec

ITEM_COLUMNS = ("id", "grid_cell", "datetime", "lon", "lat", "bbox", "geometry")
"""The columns that every collection has, but for the embedding, in file order."""

RESERVED_COLUMNS = frozenset(
    {*ITEM_COLUMNS, "embedding", "order", "position", "file_row_number", "terrakin_file"}
    | {"query", "rank", "similarity", "percentile", "fid", "geom"}
)
"""Names that no attribute may have: columns of a part, of a result, of a GeoPackage."""

ROW_GROUP_BYTES = 64 * 2**20
PART_BYTES = 256 * 2**20

ATTRIBUTE_TYPES: dict[str, pa.DataType] = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
"""Arrow types of the attributes, by their names in a spec."""

_ARROW_DTYPE = {"float16": pa.float16(), "float32": pa.float32(), "int8": pa.int8()}
SIDES = ("xmin", "ymin", "xmax", "ymax")
BBOX = pa.struct([(name, pa.float64()) for name in SIDES])
_ITEM_BYTES = 250  # id, cell, time, centre, box and footprint of one row, before compression
_ATTRIBUTE_BYTES = 16


def item_columns(spec: EmbeddingSpec) -> tuple[str, ...]:
    """Return every column of a part but the embedding, in file order."""
    return (*ITEM_COLUMNS, *(name for name, _ in spec.attributes))


def attribute_fields(spec: EmbeddingSpec) -> list[pa.Field]:
    """Return the columns that this collection has beside those that all have."""
    return [pa.field(name, ATTRIBUTE_TYPES[kind]) for name, kind in spec.attributes]


def arrow_schema(spec: EmbeddingSpec) -> pa.Schema:
    """Return the columns of a part, without footer metadata."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("grid_cell", pa.string()),
            pa.field("datetime", pa.timestamp("us", tz="UTC")),
            pa.field("lon", pa.float64(), nullable=False),
            pa.field("lat", pa.float64(), nullable=False),
            pa.field("bbox", BBOX, nullable=False),
            pa.field("geometry", pa.binary(), nullable=False),
            *attribute_fields(spec),
            pa.field("embedding", pa.list_(_ARROW_DTYPE[spec.dtype], spec.dim), nullable=False),
        ]
    )


def box_rows(boxes: NDArray[np.float64]) -> list[dict[str, float]]:
    """Return boxes ``(n, 4)`` xmin ymin xmax ymax as values of the column ``bbox``."""
    return [dict(zip(SIDES, box, strict=True)) for box in boxes.tolist()]


def embedding_array(stored: NDArray[Any]) -> pa.FixedSizeListArray:
    """Wrap stored vectors ``(n, dim)`` as an Arrow column without copying values."""
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(stored).ravel()), stored.shape[1]
    )


def embedding_matrix(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return an embedding column as ``(n, dim)`` in its stored dtype."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = array.flatten().to_numpy(zero_copy_only=False)
    matrix: NDArray[Any] = flat.reshape(len(array), array.type.list_size)
    return matrix


def row_bytes(spec: EmbeddingSpec) -> int:
    """Estimate the bytes of one row before compression."""
    item = _ITEM_BYTES + _ATTRIBUTE_BYTES * len(spec.attributes)
    return item + spec.dim * int(_ARROW_DTYPE[spec.dtype].bit_width) // 8


def rows_per_part(spec: EmbeddingSpec) -> int:
    """Return how many rows a part aims at."""
    return max(1024, PART_BYTES // row_bytes(spec))


def write_part(path: Path, table: pa.Table, spec: EmbeddingSpec) -> None:
    """Write one part. The bytes depend on the rows and the spec alone.

    float16 is written plain: DuckDB 2.0 does not read BYTE_STREAM_SPLIT on two-byte values.
    """
    split = ["embedding.list.element"] if spec.dtype == "float32" else []
    texts = [name for name, kind in spec.attributes if kind == "string"]
    pq.write_table(
        table.cast(arrow_schema(spec)).replace_schema_metadata(_footer(table, spec)),
        path,
        compression="zstd",
        compression_level=3,
        use_dictionary=["grid_cell", "datetime", *texts],
        use_byte_stream_split=split,
        row_group_size=max(1024, ROW_GROUP_BYTES // row_bytes(spec)),
        write_page_index=True,
        write_statistics=[
            "id",
            "grid_cell",
            "datetime",
            "lon",
            "lat",
            "bbox.xmin",
            "bbox.ymin",
            "bbox.xmax",
            "bbox.ymax",
            *(name for name, _ in spec.attributes),
        ],
        store_schema=True,
        write_page_checksum=True,
    )


def read_footer_spec(path: Path) -> EmbeddingSpec:
    """Return the spec in a part's footer. Raises StoreFormatError if the file is not a part."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        return EmbeddingSpec.from_json(json.loads(metadata[b"emb"])["terrakin:spec"])
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise StoreFormatError(
            f"{path} is not a whole Terrakin part ({error}). Delete the file and run the embed "
            "command again; it makes the missing part anew."
        ) from error


def geo_metadata(table: pa.Table) -> bytes:
    """Return the GeoParquet 1.1 ``geo`` key for a table with ``geometry`` (WKB) and ``bbox``."""
    return _dump(_geo(table))


def _footer(table: pa.Table, spec: EmbeddingSpec) -> dict[bytes, bytes]:
    descriptor = {**spec.to_stac(), "terrakin:spec": spec.to_json()}
    return {b"geo": geo_metadata(table), b"emb": _dump(descriptor)}


def _geo(table: pa.Table) -> dict[str, Any]:
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": _geometry_types(table),
        "crs": _crs84(),
        "edges": "planar",
        "covering": {"bbox": {side: ["bbox", side] for side in SIDES}},
    }
    if table.num_rows:
        box = table["bbox"].combine_chunks()
        low = [box.field(side).to_numpy() for side in ("xmin", "ymin")]
        high = [box.field(side).to_numpy() for side in ("xmax", "ymax")]
        west, east = (-180.0, 180.0) if (low[0] > high[0]).any() else (low[0].min(), high[0].max())
        column["bbox"] = [float(west), float(low[1].min()), float(east), float(high[1].max())]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _geometry_types(table: pa.Table) -> list[str]:
    # Byte 1 of little-endian WKB is the type: 3 Polygon, 6 MultiPolygon.
    kinds = {bytes(wkb.as_buffer()[1:2]) for wkb in table["geometry"].combine_chunks()}
    return [
        name for code, name in ((b"\x03", "Polygon"), (b"\x06", "MultiPolygon")) if code in kinds
    ]


@cache
def _crs84() -> dict[str, Any]:
    return pyproj.CRS.from_user_input("OGC:CRS84").to_json_dict()


def _dump(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
