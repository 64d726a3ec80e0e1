"""Between the map's coordinates and places on Earth (degrees, longitude first)."""

from __future__ import annotations

import math
from typing import Iterable, Sequence

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsCoordinateTransformContext,
    QgsCsException,
    QgsGeometry,
    QgsPointXY,
    QgsRectangle,
)

from .errors import PlaceError
from .wire import Place, Polygon

WGS84 = "EPSG:4326"
BEFORE_CUT = 180.0 - 1e-7
"""A longitude some centimetres west of the antimeridian."""
TOLERANCE = 1e-6
"""Share of a coordinate by which a valid place may move on the way to WGS 84 and back."""
AREA_MARGIN_DEG = 10.0
"""Maps are good for a while beyond the area their CRS is made for."""
SAME_PLACE_DEG = 1e-4
NEAR_CUT_DEG = 10.0
"""Places within this of ±180 degrees on both sides are neighbours; others span the world."""


def wgs84() -> QgsCoordinateReferenceSystem:
    """Return WGS 84; QGIS uses it with the longitude first."""
    return QgsCoordinateReferenceSystem(WGS84)


def to_lonlat(
    point: QgsPointXY, crs: QgsCoordinateReferenceSystem, context: QgsCoordinateTransformContext
) -> tuple[float, float]:
    """Return (lon, lat) in degrees of a point in a CRS; longitudes beyond ±180 are wrapped.

    Raises PlaceError if the CRS is unknown or the point lies outside its valid area.
    """
    if not crs.isValid():
        raise PlaceError(
            "The project has no coordinate reference system, so the click has no place on Earth. "
            "Set one in Project > Properties > CRS."
        )
    place = _transformed(point, QgsCoordinateTransform(crs, wgs84(), context))
    if place is None or abs(place.y()) > 90 or not _comes_back(point, place, crs, context):
        raise PlaceError(
            f"The point {point.x():.6g}, {point.y():.6g} lies outside the area for which the "
            f"project's CRS ({crs.authid() or crs.description()}) is valid. Click on the map, or "
            "choose another CRS."
        )
    return wrap_lon(place.x()), place.y()


def wrap_lon(lon: float) -> float:
    """Bring a longitude into [-180, 180); 180 itself stays."""
    return lon if -180.0 <= lon <= 180.0 else (lon + 180.0) % 360.0 - 180.0


def footprint(polygons: Iterable[Polygon]) -> QgsGeometry:
    """Return a MultiPolygon from rings of (lon, lat)."""
    return QgsGeometry.fromMultiPolygonXY(
        [[[QgsPointXY(lon, lat) for lon, lat in ring] for ring in polygon] for polygon in polygons]
    )


def view_of(
    places: Sequence[Place],
    crs: QgsCoordinateReferenceSystem,
    context: QgsCoordinateTransformContext,
) -> QgsRectangle:
    """Return the rectangle in ``crs`` that shows the places; the first one's side comes first.

    In a CRS that is cut at ±180 degrees, places on both sides of the cut would need the whole
    world between them; then the side of the first place is shown. Places that the CRS cannot
    show, or far from the area it is made for (the other side of the Earth in a UTM zone), are left
    out. Empty if nothing can be shown.
    """
    transform = QgsCoordinateTransform(wgs84(), crs, context)
    west, east, first_lon = QgsRectangle(), QgsRectangle(), None
    for place in _within_area(places, crs):
        if not _can_show(place, transform, crs, context):
            continue
        first_lon = place.lon if first_lon is None else first_lon
        for polygon in place.polygons:
            box = _box_of(polygon, transform)
            side = west if polygon[0][0][0] < 0 else east
            side.combineExtentWith(box)
    if not west.isEmpty() and not east.isEmpty() and _lie_at_the_cut(places, transform):
        return west if (first_lon or 0.0) < 0 else east
    both = QgsRectangle(west)
    both.combineExtentWith(east)
    return both


def _lie_at_the_cut(places: Sequence[Place], transform: QgsCoordinateTransform) -> bool:
    """Whether the places lie around ±180 degrees and the map is cut there."""
    if any(abs(place.lon) < 180 - NEAR_CUT_DEG for place in places):
        return False
    lat = places[0].lat
    sides = [_transformed(QgsPointXY(lon, lat), transform) for lon in (BEFORE_CUT, -BEFORE_CUT)]
    return None in sides or sides[0].distance(sides[1]) > 1.0


def _within_area(places: Sequence[Place], crs: QgsCoordinateReferenceSystem) -> Sequence[Place]:
    """Return the places in or near the CRS's area of use; all if the first is not one of them."""
    area = crs.bounds()
    if area.isNull():
        return places
    west = area.xMinimum() - AREA_MARGIN_DEG
    # West > east across the antimeridian; no difference at all is the whole Earth.
    span = ((area.xMaximum() - area.xMinimum()) % 360.0 or 360.0) + 2 * AREA_MARGIN_DEG
    south, north = area.yMinimum() - AREA_MARGIN_DEG, area.yMaximum() + AREA_MARGIN_DEG
    inside = [
        place
        for place in places
        if (place.lon - west) % 360.0 <= span and south <= place.lat <= north
    ]
    return inside if inside and inside[0] is places[0] else places


def _can_show(
    place: Place,
    to_map: QgsCoordinateTransform,
    crs: QgsCoordinateReferenceSystem,
    context: QgsCoordinateTransformContext,
) -> bool:
    """Whether the CRS maps the place's centre to a point that is this place again."""
    point = _transformed(QgsPointXY(place.lon, place.lat), to_map)
    if point is None:
        return False
    back = _transformed(point, QgsCoordinateTransform(crs, wgs84(), context))
    if back is None or abs(back.y() - place.lat) > SAME_PLACE_DEG:
        return False
    turned = (back.x() - place.lon + 180.0) % 360.0 - 180.0
    return abs(turned) * math.cos(math.radians(place.lat)) <= SAME_PLACE_DEG


def _box_of(polygon: Polygon, transform: QgsCoordinateTransform) -> QgsRectangle:
    box = QgsRectangle()
    for lon, lat in polygon[0]:
        point = _transformed(QgsPointXY(lon, lat), transform)
        if point is not None:
            box.combineExtentWith(point.x(), point.y())
    return box


def _comes_back(
    point: QgsPointXY,
    place: QgsPointXY,
    crs: QgsCoordinateReferenceSystem,
    context: QgsCoordinateTransformContext,
) -> bool:
    """Whether the place is at the point again when it is brought back into the CRS.

    Far outside their area projections return places that have nothing to do with the point.
    Whole turns around the Earth are fine: maps in degrees and cylindrical ones repeat.
    """
    if crs.isGeographic():
        return True
    back_to_map = QgsCoordinateTransform(wgs84(), crs, context)
    back = _transformed(place, back_to_map)
    if back is None:
        return False
    allowed = TOLERANCE * max(abs(point.x()), abs(point.y()), 1.0)
    if abs(back.y() - point.y()) > allowed:
        return False
    shift = abs(back.x() - point.x())
    if shift <= allowed:
        return True
    turn = 360 * _map_units_per_degree(place, back, back_to_map)
    turns = shift / turn if turn > 0 else math.nan
    return round(turns) >= 1 and abs(turns - round(turns)) < TOLERANCE * 10


def _map_units_per_degree(
    place: QgsPointXY, there: QgsPointXY, to_map: QgsCoordinateTransform
) -> float:
    """Return the map distance of one degree of longitude, seen away from the map's edge."""
    neighbours = (
        _transformed(QgsPointXY(place.x() + step, place.y()), to_map) for step in (-1.0, 1.0)
    )
    return min((abs(n.x() - there.x()) for n in neighbours if n is not None), default=0.0)


def _transformed(point: QgsPointXY, transform: QgsCoordinateTransform) -> QgsPointXY | None:
    try:
        result = transform.transform(point)
    except QgsCsException:
        return None
    return result if math.isfinite(result.x()) and math.isfinite(result.y()) else None
