"""Where labels lie: the coarse map that chips are sorted out with, boxes, extents, times."""

from __future__ import annotations

from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pyproj
import pytest
import shapely

from embeddings.errors import InputError
from embeddings.probe.chip_blocks import NO_TIME
from embeddings.probe.label_places import Occupancy, degree_boxes, extent
from embeddings.probe.labels import times_of


def test_the_map_of_labels_misses_none_and_tells_most_others(rng: np.random.Generator) -> None:
    west, south = np.mod(rng.uniform(-10, 10, 100), 360) - 180, rng.uniform(0, 20, 100)
    labels = np.stack([west, south, west + rng.uniform(0, 1, 100), south + 0.5], axis=1)
    found = Occupancy.of(labels)
    west, south = np.mod(rng.uniform(-12, 12, 3000), 360) - 180, rng.uniform(-2, 22, 3000)
    east, north = west + 0.2, south + 0.2
    meets = np.zeros(3000, bool)
    for turn in (-360.0, 0.0, 360.0):
        meets |= (
            (west[:, None] + turn <= labels[:, 2])
            & (east[:, None] + turn >= labels[:, 0])
            & (south[:, None] <= labels[:, 3])
            & (north[:, None] >= labels[:, 1])
        ).any(axis=1)
    said = found.meets(west, south, np.where(east > 180, east - 360, east), north)
    assert meets.sum() > 100
    assert said[meets].all()
    assert said[~meets].mean() < 0.1


def test_one_point_has_a_map_too() -> None:
    found = Occupancy.of(np.array([[10.0, 50.0, 10.0, 50.0]]))
    west = np.array([9.0, 10.0, 10.1, -180.0])
    east = np.array([10.0, 10.5, 10.2, 180.0])
    south, north = np.full(4, 49.0), np.full(4, 50.0)
    assert found.meets(west, south, east, north).tolist() == [True, True, False, True]


def test_boxes_hold_what_was_drawn() -> None:
    degrees, utm = pyproj.CRS("EPSG:4326"), pyproj.CRS("EPSG:32632")
    shapes = np.array([shapely.box(179, 0, 182, 1), shapely.Point(-190, 5)])
    np.testing.assert_allclose(degree_boxes(shapes, degrees), [[179, 0, 182, 1], [170, 5, 170, 5]])
    (box,) = degree_boxes(np.array([shapely.box(500_000, 5e6, 600_000, 5.1e6)]), utm)
    edge = shapely.segmentize(shapely.box(500_000, 5e6, 600_000, 5.1e6), 1000)
    way = pyproj.Transformer.from_crs(utm, "OGC:CRS84", always_xy=True)
    lon, lat = way.transform(*shapely.get_coordinates(edge).T)
    assert box[0] <= lon.min() <= lon.max() <= box[2] < lon.max() + 0.2
    assert box[1] <= lat.min() <= lat.max() <= box[3] < lat.max() + 0.2
    nowhere = degree_boxes(np.array([shapely.Point(5, 95)]), degrees)
    assert np.isnan(nowhere).all()
    whole = degree_boxes(np.array([shapely.box(-179, -10, 179, 10)]), degrees)
    assert whole[0, [0, 2]].tolist() == [-180, 180]


def test_an_extent_goes_the_short_way_round() -> None:
    boxes = np.array([[170.0, 0, 175, 1], [-178.0, 2, -170, 3]])
    assert extent(boxes) == (170.0, 0.0, 190.0, 3.0)
    assert extent(boxes[:1]) == (170.0, 0.0, 175.0, 1.0)
    assert extent(np.array([[-180.0, -90, 180, 90]])) == (-180.0, -90.0, 180.0, 90.0)


def test_dates_of_every_type() -> None:
    second = 1_000_000
    day = 86_400 * second
    for column in (
        pa.array([date(1970, 1, 2), None]),
        pa.array([datetime(1970, 1, 2), None], pa.timestamp("ms")),
        pa.array([datetime(1970, 1, 2), None], pa.timestamp("ns", tz="UTC")),
        pa.array(["1970-01-02", None]),
        pa.array(["1970-01-02T01:00:00+01:00", " "]),
    ):
        assert times_of("d", column).tolist() == [day, NO_TIME]
    with pytest.raises(InputError, match=r"holds 1 texts that are no dates, for example 'May'"):
        times_of("d", pa.array(["1970-01-02", "May"]))
    with pytest.raises(InputError, match="holds int64, not dates"):
        times_of("d", pa.array([2018]))
