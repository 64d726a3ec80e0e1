"""A GeoTIFF of classes as units that a sample can be drawn from: its pixels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyproj
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from embeddings.errors import InputError, SourceError
from embeddings.probe.lottery import Lottery
from embeddings.probe.map_areas import BLOCK, PixelAreas
from embeddings.probe.map_units import Strata, unknown_of
from embeddings.sources.footprints import polygons

Ints = NDArray[np.int64]

MOST_CLASSES = 1000


class PixelMap:
    """Band 1 of a raster of whole numbers; what is nodata belongs to no class."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.strata = Strata()
        try:
            with rasterio.open(path) as file:
                self._check(file)
                tags = file.tags()
                self.provenance = dict(json.loads(tags.get("TERRAKIN", "{}")))
                named = json.loads(tags.get("CLASSES", "{}"))
                self._names = {int(code): str(name) for name, code in named.items()}
                self.unknown = unknown_of(self.provenance)
                self._areas = PixelAreas(pyproj.CRS(file.crs.to_wkt()), file.transform)
                for window, values in self._blocks(file):
                    self._count(window, values)
        except (RasterioError, ValueError) as error:
            raise SourceError(f"'{path}' cannot be read as a map of classes: {error}") from error
        if not self.strata.names:
            raise InputError(f"'{path}' has no pixel with a class. Predict an area with chips.")

    def draw(self, sizes: Mapping[str, int], seed: int) -> pa.Table:
        """Draw units; see ``MapUnits``."""
        lottery = Lottery(sizes, seed)
        with rasterio.open(self._path) as file:
            for window, values in self._blocks(file):
                size = self._size(window)
                for code in np.unique(values.compressed()).tolist():
                    row, col = np.nonzero((values.data == code) & ~np.ma.getmaskarray(values))
                    places = np.stack([row + int(window.row_off), col + int(window.col_off)], 1)
                    lottery.offer(self._name(code), places, size)
        names, drawn = lottery.drawn()
        return self._table(names, drawn[:, 0], drawn[:, 1])

    def _table(self, names: list[str], row: Ints, col: Ints) -> pa.Table:
        corners_col = col[:, None] + np.array([0, 1, 1, 0])
        corners_row = row[:, None] + np.array([1, 1, 0, 0])
        lon, lat = self._areas.degrees(corners_col.astype(float), corners_row.astype(float))
        shapes, _ = polygons(lon, lat)
        middle = self._areas.degrees(col.astype(float) + 0.5, row.astype(float) + 0.5)
        return pa.table(
            {
                "unit": [f"{r}_{c}" for r, c in zip(row.tolist(), col.tolist(), strict=True)],
                "map_class": pa.array(names, pa.string()),
                "lon": middle[0],
                "lat": middle[1],
                "geometry": pa.array(shapely.to_wkb(shapes), pa.binary()),
            }
        )

    def _check(self, file: Any) -> None:
        if file.crs is None or file.transform.is_identity:
            raise InputError(f"'{self._path}' has no CRS or no place; it cannot be a map.")
        if not np.issubdtype(np.dtype(file.dtypes[0]), np.integer):
            raise InputError(
                f"'{self._path}' holds {file.dtypes[0]}, which are no classes. A sample is drawn "
                "from a map of classes only."
            )

    def _blocks(self, file: Any) -> Iterator[tuple[Window, Any]]:
        """Yield windows and their values with nodata masked, always in the same order."""
        high = self._areas.block_rows
        wide = file.width if high == 1 else BLOCK
        for strip in range(0, file.height, BLOCK):
            rows = min(BLOCK, file.height - strip)
            whole = file.read(1, window=Window(0, strip, file.width, rows), masked=True)
            for top in range(0, rows, high):
                for left in range(0, file.width, wide):
                    values = whole[top : top + high, left : left + wide]
                    if values.count():
                        yield Window(left, strip + top, values.shape[1], values.shape[0]), values

    def _count(self, window: Window, values: NDArray[Any]) -> None:
        size = self._size(window)
        codes, counts = np.unique(np.ma.compressed(values), return_counts=True)
        for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
            self.strata.add(self._name(code), count, count * size)
        if len(self.strata.names) > MOST_CLASSES:
            raise InputError(
                f"'{self._path}' has more than {MOST_CLASSES} different values; it is no map of "
                "classes."
            )

    def _size(self, window: Window) -> float:
        """Return the hectares of a pixel."""
        return self._areas.pixel(
            int(window.col_off), int(window.row_off), int(window.width), int(window.height)
        )

    def _name(self, code: int) -> str:
        return self._names.get(code, str(code))
