"""Polygons that a search is kept to: GeoJSON, or a vector file, in any CRS."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import CRSError

from embeddings.errors import InputError, SourceError
from embeddings.sources.areas import Area

HALF_TURN = 180.0
"""Degrees. Longer edges are read as drawn, and the user is told."""
KEPT = 16
"""Polygons that are remembered, each as large as a request may be."""
MOST_CROSSINGS = 100_000
"""Of edges. To make valid what crosses itself so often takes five seconds; time grows faster."""
TRIED_EDGES = 200
"""So many edges, evenly spread, tell about how often all cross each other."""


@dataclass(frozen=True)
class ReadPolygons:
    """An area, and what was noticed as it was read."""

    area: Area
    notes: tuple[str, ...]


def read_polygons(source: Mapping[str, Any] | str | Path, crs: str | None = None) -> ReadPolygons:
    """Read polygons from GeoJSON (an object, or its text) or from a file that GDAL reads.

    GeoJSON is in longitude and latitude unless ``crs`` ("EPSG:32617") or a ``crs`` member of type
    "name" says otherwise; a file says its own CRS. Edges are straight in that CRS. Longitudes may
    go on beyond ±180, or the polygon be cut there; else an edge goes the way it is drawn, however
    long. A polygon that crosses itself is made valid, and a note says so. Raises SourceError or
    InputError.
    """
    if isinstance(source, str) and source.lstrip().startswith("{"):
        source = _json(source)
    if not isinstance(source, Mapping):
        if crs is not None:
            raise InputError("A CRS can be given for GeoJSON only; a file says its own.")
        return ReadPolygons(Area.of_file(Path(source)), _notes(Path(source)))
    try:
        text = json.dumps(source)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"The GeoJSON cannot be read: {error}.") from None
    return _of_geojson(text, crs)


@lru_cache(maxsize=KEPT)
def _of_geojson(text: str, crs: str | None) -> ReadPolygons:
    """Read GeoJSON through GDAL, which takes milliseconds: the next click asks for the same."""
    source = json.loads(text)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "polygons.geojson"
        path.write_text(json.dumps(_features(source, crs)), encoding="utf-8")
        try:
            return ReadPolygons(Area.of_file(path), _notes(path))
        except SourceError as error:
            raise InputError(str(error).replace(f"'{path}'", "The GeoJSON")) from error


def _json(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"The GeoJSON cannot be read: {error}.") from None
    if not isinstance(found, Mapping):
        raise InputError("The GeoJSON is no object. Give a Polygon, a Feature or a collection.")
    return found


def _features(source: Mapping[str, Any], crs: str | None) -> dict[str, Any]:
    """Return a FeatureCollection of geometries only, with the CRS where one is named."""
    kind = source.get("type")
    if kind == "FeatureCollection":
        found = source.get("features")
    else:
        found = [source if kind == "Feature" else {"geometry": source}]
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise InputError("The GeoJSON has no list of features.")
    geometries = [each.get("geometry") for each in found]
    _check(geometries)
    if any(each is not source and each and "crs" in each for each in (*found, *geometries)):
        raise InputError("A feature of the GeoJSON has a CRS of its own. Give one, for them all.")
    features = [{"type": "Feature", "properties": {}, "geometry": g} for g in geometries if g]
    if not features:
        raise InputError("The GeoJSON holds no polygon. Give the polygons to search in.")
    answer: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if crs is None and "crs" in source:
        crs = _named(source["crs"])
    if crs is not None:
        answer["crs"] = {"type": "name", "properties": {"name": _urn(crs)}}
    return answer


def _named(member: Any) -> str:
    """Return the name in a ``crs`` member, which GDAL would fetch from a link or else pass over."""
    match member:
        case {"type": "name", "properties": {"name": str(name)}}:
            return name
    raise InputError(
        f"The GeoJSON's crs is {json.dumps(member)[:80]}; it may be a name, as in "
        '{"type": "name", "properties": {"name": "EPSG:32617"}}. Without it, coordinates are '
        "longitude and latitude."
    )


def _check(geometries: list[Any]) -> None:
    """Refuse what is no polygon or a tangle, before GDAL reads of it what it can."""
    shapes = []
    for each in geometries:
        try:
            shape = shapely.from_geojson(json.dumps(each)) if each else None
        except (shapely.errors.GEOSException, ValueError, RecursionError) as error:
            raise InputError(f"A geometry of the GeoJSON cannot be read: {error}.") from None
        if shape is not None and shape.geom_type not in ("Polygon", "MultiPolygon"):
            raise InputError(
                f"The GeoJSON holds a {shape.geom_type}. A search can be kept to polygons only."
            )
        shapes.append(shape)
    many = _crossings(np.array([shape for shape in shapes if shape is not None], object))
    if many > MOST_CROSSINGS:
        raise InputError(
            f"The edges of the GeoJSON cross each other about {many:,.0f} times; up to "
            f"{MOST_CROSSINGS:,} can be mended. Give the corners in their order around a polygon."
        )


def _crossings(shapes: Any) -> float:
    """Return how often the edges of shapes cross each other, estimated where they are many."""
    if len(shapes) < 2 and shapely.is_valid(shapes).all():
        return 0.0
    rings = shapely.get_rings(shapely.get_parts(shapes))
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    follows = ring[1:] == ring[:-1]
    start, end = xy[:-1][follows], xy[1:][follows]
    if not len(start):
        return 0.0
    tried = np.unique(np.linspace(0, len(start) - 1, TRIED_EDGES).astype(int))
    found = 0
    with np.errstate(over="ignore", invalid="ignore"):  # of places beyond any map
        for one, other in zip(start[tried], end[tried], strict=True):
            apart = _side(one, other, start) * _side(one, other, end) < 0
            found += int((apart & (_side(start, end, one) * _side(start, end, other) < 0)).sum())
    return found / len(tried) * len(start) / 2


def _side(
    start: NDArray[np.float64], end: NDArray[np.float64], place: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return numbers above 0 where places lie left of the way from start to end, below 0 right."""
    along, there = end - start, place - start
    left: NDArray[np.float64] = along[..., 0] * there[..., 1] - along[..., 1] * there[..., 0]
    return left


def _urn(crs: str) -> str:
    try:
        found = pyproj.CRS(crs)
    except CRSError as error:
        raise InputError(f"'{crs}' is no CRS that PROJ knows ({error}).") from None
    if not (found.is_geographic or found.is_projected):
        raise InputError(
            f"'{crs}' is a {found.type_name} ({found.name}). Polygons lie in a geographic or a "
            "projected CRS, for example EPSG:4326 or EPSG:32617."
        )
    known = found.to_authority()
    if known is None:
        raise InputError(f"'{crs}' has no code of an authority. Give one, for example EPSG:32617.")
    return f"urn:ogc:def:crs:{known[0]}::{known[1]}"


def _notes(path: Path) -> tuple[str, ...]:
    """Say what was mended, and what may be meant otherwise than it is read."""
    import pyogrio.raw

    meta, _, wkb, _ = pyogrio.raw.read(path, columns=[])
    shapes = shapely.force_2d(shapely.from_wkb(wkb))
    notes = []
    bad = [shapely.is_valid_reason(s) for s in shapes if s is not None and not s.is_valid]
    if bad:
        notes.append(
            f"{len(bad)} of {len(shapes)} polygons cross or touch themselves ({bad[0]}) and were "
            "made valid: what a loop goes around counts as inside."
        )
    rings = shapely.get_parts(shapely.boundary(shapes[~shapely.is_missing(shapes)]))
    if pyproj.CRS(meta["crs"]).is_geographic and any(_long_edge(ring) for ring in rings):
        notes.append(
            "An edge runs over more than 180 degrees of longitude and is read as drawn. If it is "
            "meant to cross the antimeridian, let longitudes go on beyond 180, or cut it there."
        )
    return tuple(notes)


def _long_edge(ring: Any) -> bool:
    x = shapely.get_coordinates(ring)[:, 0]
    return bool((abs(x[1:] - x[:-1]) > HALF_TURN).any())
