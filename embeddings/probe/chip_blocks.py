"""The chips of a collection in blocks of rows: centres, boxes, footprints, times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from embeddings.store.reader import Reader

BLOCK_ROWS = 65_536
NO_TIME = int(np.iinfo(np.int64).min)
"""Stands for no time, in microseconds since 1970."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ChipBlock:
    """Rows that follow each other, or some of them.

    ``rows (n,) int64`` numbers in the collection; ``lon``, ``lat (n,)`` degrees of the centres;
    ``box (n, 4)`` west, south, east, north, west > east over ±180; ``time (n,) int64``
    microseconds since 1970, ``NO_TIME`` where there is none.
    """

    rows: NDArray[np.int64]
    lon: Floats
    lat: Floats
    box: Floats
    time: NDArray[np.int64]
    wkb: pa.ChunkedArray

    def take(self, keep: NDArray[Any]) -> ChipBlock:
        """Return the rows at positions or where a mask is true."""
        at = np.flatnonzero(keep) if keep.dtype == bool else keep
        return ChipBlock(
            self.rows[at],
            self.lon[at],
            self.lat[at],
            self.box[at],
            self.time[at],
            self.wkb.take(pa.array(at)),
        )

    def footprints(self) -> NDArray[Any]:
        """Return the footprints as shapely polygons in degrees, cut at ±180."""
        return np.asarray(shapely.from_wkb(self.wkb.to_numpy()), dtype=object)


def chip_blocks(reader: Reader, rows: int = BLOCK_ROWS) -> Iterator[ChipBlock]:
    """Yield all chips of a collection, in the order of its rows."""
    first = 0
    for table in reader.columns(("lon", "lat", "bbox", "geometry", "datetime")):
        for start in range(0, table.num_rows, rows):
            piece = table.slice(start, rows)
            yield _block(piece, first + start)
        first += table.num_rows


def _block(table: pa.Table, first: int) -> ChipBlock:
    box = table["bbox"].combine_chunks()
    sides = [box.field(side).to_numpy() for side in ("xmin", "ymin", "xmax", "ymax")]
    return ChipBlock(
        np.arange(first, first + table.num_rows),
        table["lon"].to_numpy(),
        table["lat"].to_numpy(),
        np.stack(sides, axis=1),
        table["datetime"].cast(pa.int64()).fill_null(NO_TIME).to_numpy(),
        table["geometry"],
    )
