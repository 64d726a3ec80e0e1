"""Areas from files: right across the antimeridian and around the poles, in the file's own CRS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely

from embeddings.errors import SourceError
from embeddings.sources.areas import Area
from embeddings.types import Bounds

lons, lats = (g.ravel() for g in np.meshgrid(np.arange(-179.5, 180), np.arange(-89.5, 90)))


def area_of(folder: Path, crs: str, *shapes: Any) -> Area:
    file = folder / "area.gpkg"
    geopandas.GeoSeries(list(shapes), crs=crs).to_file(file)
    return Area.of_file(file)


def found(area: Area) -> np.ndarray:
    """Whether each degree of the Earth is found: within the bounds, and then inside."""
    west, south, east, north = area.bounds.west_south_east_north()
    crosses = area.bounds.crosses_antimeridian
    lon_in = (lons >= west) | (lons <= east) if crosses else (lons >= west) & (lons <= east)
    return lon_in & (south <= lats) & (north >= lats) & area.contains(lons, lats)


def test_a_mercator_box_across_the_antimeridian(tmp_path: Path) -> None:
    corners = geopandas.GeoSeries.from_xy([175, -175], [-20, 10], crs=4326).to_crs(3832)
    box = shapely.box(corners.x[0], corners.y[0], corners.x[1], corners.y[1])
    area = area_of(tmp_path, "EPSG:3832", box)
    np.testing.assert_array_equal(found(area), (np.abs(lons) > 175) & (lats > -20) & (lats < 10))
    assert area.bounds.crosses_antimeridian
    assert 174 < area.bounds.west < 175
    assert -175 < area.bounds.east < -174


def test_a_utm_zone_at_the_antimeridian(tmp_path: Path) -> None:
    shape = shapely.box(300_000, 7_000_000, 1_200_000, 8_000_000)
    area = area_of(tmp_path, "EPSG:32760", shape)
    places = geopandas.GeoSeries.from_xy(lons, lats, crs=4326)
    near = (np.abs(lons) > 160) & (np.abs(lats) < 60)
    truth = near & places.to_crs(32760).within(shape).to_numpy()
    assert (truth & (lons > 0)).any()
    assert (truth & (lons < 0)).any()
    np.testing.assert_array_equal(found(area), truth)
    assert area.bounds.crosses_antimeridian


@pytest.mark.parametrize(("crs", "sign"), [("EPSG:3031", -1), ("EPSG:3995", 1)])
def test_a_disc_around_a_pole(tmp_path: Path, crs: str, sign: int) -> None:
    edge = geopandas.GeoSeries.from_xy([0], [70 * sign], crs=4326).to_crs(crs)
    radius = float(np.hypot(edge.x[0], edge.y[0]))
    area = area_of(tmp_path, crs, shapely.Point(0, 0).buffer(radius, quad_segs=200))
    np.testing.assert_array_equal(found(area), lats * sign > 70)
    assert (area.bounds.west, area.bounds.east) == (-180, 180)
    assert max(area.bounds.north * sign, area.bounds.south * sign) == 90
    # Off the pole, but across the antimeridian (3031) or Greenwich.
    (tmp_path / "beside").mkdir()
    beside = area_of(tmp_path / "beside", crs, shapely.Point(0, -sign * radius).buffer(300_000))
    assert 0 < found(beside).sum() < 500
    assert beside.bounds.south > -90
    assert beside.bounds.north < 90


def test_longitudes_beyond_180(tmp_path: Path) -> None:
    truth = (np.abs(lons) > 170) & (lats > -20) & (lats < -10)
    for west in (170, -190):
        folder = tmp_path / str(west)
        folder.mkdir()
        area = area_of(folder, "EPSG:4326", shapely.box(west, -20, west + 20, -10))
        np.testing.assert_array_equal(found(area), truth)
        assert area.bounds.crosses_antimeridian


def test_plain_areas(tmp_path: Path) -> None:
    parts = shapely.box(3, 40, 9, 50), shapely.box(-60, -10, -50, 5)
    area = area_of(tmp_path, "EPSG:4326", *parts)
    truth = shapely.contains_xy(shapely.union_all(parts), lons, lats)
    np.testing.assert_array_equal(found(area), truth)
    assert not area.bounds.crosses_antimeridian
    (tmp_path / "w").mkdir()
    world = area_of(tmp_path / "w", "EPSG:4326", shapely.box(-180, -90, 180, 90))
    assert found(world).all()
    (tmp_path / "m").mkdir()
    edge = 20037508.342789244
    mercator = area_of(tmp_path / "m", "EPSG:3857", shapely.box(-edge, -edge, edge, edge))
    np.testing.assert_array_equal(found(mercator), np.abs(lats) < 85.05)
    assert area.fingerprint != world.fingerprint != mercator.fingerprint


def test_a_box_is_its_outline() -> None:
    area = Area.of_box(Bounds(170, -20, -170, -10))
    assert area.outline.area == 200
    assert area.contains(lons, lats).all()


def test_a_ring_of_many_crossings_is_read_in_a_moment(tmp_path: Path) -> None:
    # The other way to make polygons valid takes minutes for these 15,000 crossings.
    ring = np.random.default_rng(250).uniform(0, 60, (250, 2))
    area = area_of(tmp_path, "EPSG:4326", shapely.Polygon(ring))
    assert area.polygons is not None
    assert area.polygons.shape.is_valid
    assert 0.6 * 3600 < area.polygons.shape.area < 3600


def test_polygons_off_the_map_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"area.gpkg' goes beyond the edge .* EPSG:4326"):
        area_of(tmp_path, "EPSG:3857", shapely.box(19_000_000, 0, 21_000_000, 1_000_000))
