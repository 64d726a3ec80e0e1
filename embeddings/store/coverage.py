"""Which chips are absent: known and stored, so that a gap is never taken for an answer.

A staged batch carries the absent chips of its window in its schema; a part's absent chips stand
in a GeoParquet file of their own beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embeddings.atomic import atomic_path
from embeddings.store.collection import Collection
from embeddings.store.layout import COVERAGE_FOLDER
from embeddings.store.schema import BBOX, geo_metadata

_KEY = b"terrakin:absent"

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("lon", pa.float64(), nullable=False),
        pa.field("lat", pa.float64(), nullable=False),
        pa.field("valid", pa.float32(), nullable=False),
        pa.field("bbox", BBOX, nullable=False),
        pa.field("geometry", pa.binary(), nullable=False),
    ]
)
"""The id the chip would have, its centre, its share of valid pixels (0 to 1), its footprint."""


def absent_table(
    ids: Sequence[str],
    lon: NDArray[np.float64],
    lat: NDArray[np.float64],
    valid: NDArray[np.float32],
    boxes: Sequence[dict[str, float]],
    geometry: Sequence[bytes],
) -> pa.Table:
    """Build the table of a batch's absent chips; all arguments are ``(n,)``."""
    columns: list[Any] = [ids, lon, lat, valid, boxes, geometry]
    arrays = [
        pa.array(column, type=field.type) for column, field in zip(columns, SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def with_absent(rows: pa.Table, absent: pa.Table) -> pa.Table:
    """Attach the absent chips to the rows of a batch."""
    if not absent.num_rows:
        return rows
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, absent.schema) as stream:
        stream.write_table(absent)
    return rows.replace_schema_metadata({_KEY: sink.getvalue().to_pybytes()})


def write_coverage(path: Path, staged: Sequence[pa.Table]) -> None:
    """Write the absent chips of staged batches, sorted by id; no file if there are none."""
    found = [_absent_of(table) for table in staged]
    table = pa.concat_tables([SCHEMA.empty_table(), *found]).sort_by("id")
    if not table.num_rows:
        path.unlink(missing_ok=True)
        return
    table = table.replace_schema_metadata({b"geo": geo_metadata(table)})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_coverage(collection: Collection) -> pa.Table:
    """Return all absent chips of a collection; see SCHEMA."""
    files = sorted((collection.path / COVERAGE_FOLDER).glob("*.parquet"))
    tables = [pq.read_table(file).replace_schema_metadata(None) for file in files]
    return pa.concat_tables([SCHEMA.empty_table(), *tables])


def _absent_of(table: pa.Table) -> pa.Table:
    content = (table.schema.metadata or {}).get(_KEY)
    if content is None:
        return SCHEMA.empty_table()
    return pa.ipc.open_stream(content).read_all()
