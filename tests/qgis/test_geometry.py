"""Map coordinates to places and back."""

from __future__ import annotations

import pytest


@pytest.fixture
def geometry(terrakin):  # noqa: ARG001 - makes the package importable
    from terrakin.core import geometry

    return geometry


@pytest.fixture
def to_lonlat(geometry):
    from qgis.core import QgsCoordinateReferenceSystem, QgsPointXY, QgsProject

    def convert(authid, x, y):
        crs = QgsCoordinateReferenceSystem(authid)
        return geometry.to_lonlat(QgsPointXY(x, y), crs, QgsProject.instance().transformContext())

    return convert


@pytest.mark.parametrize(
    ("authid", "point", "lonlat"),
    [
        ("EPSG:4326", (13.9, 45.3), (13.9, 45.3)),
        ("EPSG:4326", (190.0, 10.0), (-170.0, 10.0)),
        ("EPSG:4326", (-540.5, -10.0), (179.5, -10.0)),
        ("EPSG:4326", (180.0, 0.0), (180.0, 0.0)),
        ("EPSG:4326", (0.0, 90.0), (0.0, 90.0)),
        ("EPSG:3857", (1549192.0, 5669712.0), (13.916629, 45.305291)),
        ("EPSG:3857", (20037508.342789244 * 1.1, 0.0), (-162.0, 0.0)),
        ("EPSG:3857", (20037508.342789244 * -2.3, 0.0), (-54.0, 0.0)),
        ("EPSG:32633", (412000.0, 5018000.0), (13.877395, 45.309988)),
        ("EPSG:32601", (170000.0, 0.0), (-179.964294, 0.0)),
        ("EPSG:3832", (3339584.7237982033, 0.0), (-180.0, 0.0)),
        ("EPSG:3031", (0.0, 1000000.0), (0.0, -80.815265)),
    ],
)
def test_points_become_places(to_lonlat, authid, point, lonlat):
    lon, lat = to_lonlat(authid, *point)
    if abs(lonlat[0]) == 180:
        assert abs(lon) == pytest.approx(180, abs=1e-9)
    else:
        assert lon == pytest.approx(lonlat[0], abs=1e-6)
    assert lat == pytest.approx(lonlat[1], abs=1e-6)


@pytest.mark.parametrize(
    ("authid", "point"),
    [
        ("EPSG:4326", (0.0, 90.5)),
        ("EPSG:3857", (0.0, 1e9)),
        ("EPSG:32633", (1e9, 1e9)),
        ("EPSG:2154", (1e8, 1e8)),
        ("ESRI:54009", (1.8e7, 8e6)),
        ("EPSG:27700", (5e7, 2e5)),
    ],
)
def test_points_outside_the_crs_are_refused(terrakin, to_lonlat, authid, point):  # noqa: ARG001
    from terrakin.core.errors import PlaceError

    with pytest.raises(PlaceError, match=f"{authid}.*choose another CRS"):
        to_lonlat(authid, *point)


def test_project_without_crs(terrakin, to_lonlat):  # noqa: ARG001
    from terrakin.core.errors import PlaceError

    with pytest.raises(PlaceError, match="no coordinate reference system"):
        to_lonlat("", 0, 0)


def place(geometry, lon, lat, size=0.01):
    from terrakin.core.wire import Place

    def ring(west, east):
        return ((west, lat), (east, lat), (east, lat + size), (west, lat + size), (west, lat))

    if lon + size > 180:
        polygons = ((ring(lon, 180.0),), (ring(-180.0, lon + size - 360),))
    else:
        polygons = ((ring(lon, lon + size),),)
    centre = geometry.wrap_lon(lon + size / 2)
    return Place("p", polygons, 1, 0.9, centre, lat + size / 2, None, None)


@pytest.fixture
def view(geometry):
    from qgis.core import QgsCoordinateReferenceSystem, QgsProject

    def of(places, authid):
        crs = QgsCoordinateReferenceSystem(authid)
        return geometry.view_of(places, crs, QgsProject.instance().transformContext())

    return of


def test_view_holds_all_places(geometry, view):
    box = view([place(geometry, 13.0, 45.0), place(geometry, -60.0, -3.0)], "EPSG:4326")
    assert (box.xMinimum(), box.xMaximum()) == (-60.0, pytest.approx(13.01))


def test_view_at_the_antimeridian_stays_on_the_first_side(geometry, view):
    places = [place(geometry, -179.95, 5.0), place(geometry, 179.9, 5.0)]
    for authid in ("EPSG:4326", "EPSG:3857"):
        assert view(places, authid).xMaximum() < 0
        assert view(places[::-1], authid).xMinimum() > 0


def test_view_in_a_pacific_crs_shows_both_sides(geometry, view):
    places = [place(geometry, -179.95, 5.0), place(geometry, 179.9, 5.0)]
    assert 10_000 < view(places, "EPSG:3832").width() < 20_000


def test_view_of_a_chip_cut_in_two(geometry, view):
    chip = place(geometry, 179.995, 5.0)
    assert len(chip.polygons) == 2
    assert view([chip], "EPSG:4326").width() < 0.01


def test_view_of_places_all_over_the_world_shows_them_on_both_sides_of_the_cut(geometry, view):
    places = [place(geometry, lon, 10.0, 0.25) for lon in (100.0, 175.0, -100.0, -175.0)]
    for authid, world in (("EPSG:4326", 360.0), ("EPSG:3857", 40_075_017.0)):
        assert 0.9 * world < view(places, authid).width() <= world


def test_view_in_a_utm_zone_leaves_out_the_other_side_of_the_earth(geometry, view):
    near = [place(geometry, 15.0, 45.0, 0.25), place(geometry, 12.0, 44.0, 0.25)]
    places = ((-165.0, 45.0), (-150.0, -30.0), (-60.0, -3.0), (104.0, 0.0))
    far = [place(geometry, lon, lat, 0.25) for lon, lat in places]
    box = view(near, "EPSG:32633")
    assert 200_000 < box.width() < 400_000
    assert view([*near, *far], "EPSG:32633") == box
    assert view(far[2:3], "EPSG:32633").width() > 0, "who works there wants to see it"


def test_view_in_an_area_across_the_antimeridian(geometry, view):
    here, kin, far = (place(geometry, lon, 5.0) for lon in (170.0, -100.0, 15.0))
    assert view([here, kin, far], "EPSG:3832") == view([here, kin], "EPSG:3832")


def test_view_of_nothing_is_empty(view):
    assert view([], "EPSG:4326").isEmpty()


def test_footprints_are_multipolygons_with_holes(geometry):
    outer = ((0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 4.0), (0.0, 0.0))
    hole = ((1.0, 1.0), (2.0, 1.0), (2.0, 2.0), (1.0, 2.0), (1.0, 1.0))
    shape = geometry.footprint(((outer, hole), (tuple((x + 10, y) for x, y in outer),)))
    assert shape.isMultipart()
    assert shape.area() == pytest.approx(31.0)
