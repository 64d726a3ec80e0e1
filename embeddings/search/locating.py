"""Which chip is meant by a place, and what is said where there is none."""

from __future__ import annotations

from enum import Enum

import numpy as np
import pyarrow as pa
import pyproj
import shapely

from embeddings.errors import NoDataAtPlaceError, OutsideCoverageError
from embeddings.search.loaded import Loaded
from embeddings.spacing import distance_m
from embeddings.store import Collection, Scene
from embeddings.types import LonLat


def locate(collection: Collection, loaded: Loaded, at: LonLat) -> int:
    """Return the row whose footprint contains the place; of several, the nearest centre's.

    Raises NoDataAtPlaceError inside a scene, OutsideCoverageError elsewhere; both name the
    nearest chip.
    """
    candidates = loaded.around(at)
    if candidates.num_rows:
        point = shapely.Point(*at.lonlat())
        inside = shapely.intersects(shapely.from_wkb(candidates["geometry"].to_pylist()), point)
        candidates = candidates.filter(pa.array(inside))
    if candidates.num_rows:
        away = distance_m(at, candidates["lon"].to_numpy(), candidates["lat"].to_numpy())
        order = np.lexsort((candidates["position"].to_numpy(), away))
        return int(candidates["position"][int(order[0])].as_py())
    raise _nothing_there(collection, loaded, at)


def _nothing_there(
    collection: Collection, loaded: Loaded, at: LonLat
) -> NoDataAtPlaceError | OutsideCoverageError:
    nearest, away = loaded.items.nearest(at)
    item = loaded.rows(np.array([nearest]))
    where = f"{at.lon:.5f}, {at.lat:.5f}"
    near = (
        f"The nearest chip is '{item['id'][0].as_py()}', {away / 1000:,.2f} km away at "
        f"{loaded.items.lon[nearest]:.5f}, {loaded.items.lat[nearest]:.5f}."
    )
    point = shapely.Point(*at.lonlat())
    if collection.spec.layout is None:
        return OutsideCoverageError(
            f"{where} lies in no cell of collection '{collection.id}'; a collection of land has no "
            f"cells at sea. {near}"
        )
    scenes = [s for s in collection.scenes if shapely.geometry.shape(s.footprint).intersects(point)]
    if scenes:
        reason = min((_why_no_chip(scene, at) for scene in scenes), key=list(_Reason).index)
        what = "data" if reason is _Reason.MASKED else "chip"
        return NoDataAtPlaceError(f"There is no {what} at {where}: {reason.value} {near}")
    return OutsideCoverageError(f"{where} lies outside collection '{collection.id}'. {near}")


class _Reason(Enum):
    """Why a scene has no chip at a place, the most telling first."""

    UNFINISHED = "the scene is not embedded to its end. Run its embed command again."
    MASKED = "the scene is masked there, so no chip was embedded."
    GAP = "it lies between two chips, since the stride is larger than the chip."
    MARGIN = "it lies in the margin of the scene, where no whole chip fits."


def _why_no_chip(scene: Scene, at: LonLat) -> _Reason:
    if scene.grid is None or "transform" not in scene.grid:
        return _Reason.MASKED if scene.complete else _Reason.UNFINISHED
    a, b, c, d, e, f = scene.grid["transform"]
    to_scene = pyproj.Transformer.from_crs("OGC:CRS84", scene.grid["crs"], always_xy=True)
    x, y = to_scene.transform(*at.lonlat())
    col, row = np.linalg.solve([[a, b], [d, e]], [x - c, y - f])
    between = False
    for pixel, chips, side, step in zip(
        (row, col),
        (scene.grid["rows"], scene.grid["cols"]),
        scene.grid["chip_px"],
        scene.grid["stride_px"],
        strict=True,
    ):
        if not 0 <= pixel <= (chips - 1) * step + side:
            return _Reason.MARGIN
        between |= bool(pixel % step > side)
    if between:
        return _Reason.GAP
    return _Reason.MASKED if scene.complete else _Reason.UNFINISHED
