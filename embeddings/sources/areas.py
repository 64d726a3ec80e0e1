"""Areas of interest: a box, or the polygons of a vector file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from embeddings.errors import SourceError, SourceNotFoundError
from embeddings.types import Bounds


@dataclass(frozen=True)
class Area:
    """A shape in degrees (OGC:CRS84) and its box; the box alone crosses the antimeridian."""

    outline: Any
    bounds: Bounds
    exact: bool
    """Whether the outline says more than the box."""

    @classmethod
    def of_box(cls, bounds: Bounds) -> Area:
        """Make an area of a box."""
        west, south, east, north = bounds.west_south_east_north()
        parts = [(west, 180.0), (-180.0, east)] if bounds.crosses_antimeridian else [(west, east)]
        boxes = [shapely.box(left, south, right, north) for left, right in parts]
        return cls(shapely.union_all(boxes), bounds, exact=False)

    @classmethod
    def of_file(cls, path: Path) -> Area:
        """Make an area of all polygons in a file that GDAL reads, in any CRS.

        Raises SourceNotFoundError or SourceError.
        """
        if not path.exists():
            raise SourceNotFoundError(f"There is no file '{path}'. Check the path.")
        import pyogrio.raw
        from pyogrio.errors import DataSourceError

        try:
            meta, _, wkb, _ = pyogrio.raw.read(path, columns=[])
        except (DataSourceError, ValueError) as error:
            raise SourceError(f"'{path}' is not a vector file that GDAL reads: {error}.") from error
        if meta["crs"] is None:
            raise SourceError(f"'{path}' has no CRS. Assign one first, for example with ogr2ogr.")
        shapes = shapely.make_valid(shapely.from_wkb(wkb))
        shapes = shapes[shapely.area(shapes) > 0]
        if not len(shapes):
            raise SourceError(f"'{path}' holds no polygon. Give the polygons of the area.")
        if not pyproj.CRS(meta["crs"]).is_geographic:
            extent = float(np.ptp(shapely.total_bounds(shapes).reshape(2, 2), axis=0).max())
            shapes = shapely.segmentize(shapes, extent / 1000)
        turn = pyproj.Transformer.from_crs(meta["crs"], "OGC:CRS84", always_xy=True)
        shapes = shapely.transform(shapes, lambda xy: np.stack(turn.transform(*xy.T), axis=1))
        outline = shapely.union_all(shapely.make_valid(shapes))
        west, south, east, north = outline.bounds
        shapely.prepare(outline)
        return cls(outline, Bounds(west, south, east, north), exact=True)

    @property
    def fingerprint(self) -> str:
        """A hash of the shape."""
        return hashlib.sha256(shapely.to_wkb(self.outline, byte_order=1)).hexdigest()

    def contains(self, lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether places ``(n,)`` in degrees lie inside; True for all in a mere box."""
        if not self.exact:
            return np.ones(len(lon), dtype=bool)
        return np.asarray(shapely.contains_xy(self.outline, lon, lat))
