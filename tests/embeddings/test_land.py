"""The land mask: known places, poles and antimeridian, shares of boxes, cells."""

from __future__ import annotations

import numpy as np
import pytest

from embeddings.errors import PlaceError
from embeddings.grid import MajorTomGrid
from embeddings.land import MASK_FILE, cells_with_land, is_land, land_share, mask


@pytest.mark.parametrize(
    ("lon", "lat", "land"),
    [
        (2.35, 48.85, True),  # Paris
        (33.0, -1.0, True),  # Lake Victoria counts as land
        (51.0, 42.0, False),  # the Caspian Sea does not
        (0.0, -90.0, True),  # the South Pole
        (180.0, -90.0, True),
        (0.0, 90.0, False),  # the North Pole
        (180.0, 66.5, True),  # Chukotka, cut by the antimeridian
        (-180.0, 66.5, True),
        (540.0, 66.5, True),
        (-30.0, 0.0, False),
        (179.99, 0.0, False),
    ],
)
def test_known_places(lon: float, lat: float, land: bool) -> None:
    assert bool(is_land(lon, lat)) is land


def test_arguments_broadcast() -> None:
    assert is_land([[2.35], [-30.0]], [48.85, 0.0]).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize(("lon", "lat"), [(np.nan, 0), (0, 91), (600, 0)])
def test_places_off_the_earth_are_refused(lon: float, lat: float) -> None:
    with pytest.raises(PlaceError):
        is_land(lon, lat)


def test_share_of_the_earth_equals_the_mask() -> None:
    assert float(land_share(-180, -90, 180, 90)) == pytest.approx(mask().mean(), abs=1e-5)


def test_share_equals_counted_squares() -> None:
    land = mask()
    for west, south in ((-180, 60), (170, -50), (10, -90), (0, 85), (-75, -10)):
        row, col = round((90 - south - 5) * 20), round((west + 180) * 20)
        counted = land[row : row + 100, col : col + 200].mean()
        share = float(land_share(west, south, west + 10, south + 5))
        assert share == pytest.approx(counted, abs=1e-5)


def test_share_over_the_antimeridian_is_that_of_both_sides() -> None:
    sides = (land_share(170, 60, 180, 70) + land_share(-180, 60, -170, 70)) / 2
    assert float(land_share(170, 60, -170, 70)) == pytest.approx(float(sides), abs=2e-5)
    assert 0 < float(sides) < 1


def test_share_of_points_is_whether_they_are_land() -> None:
    lon, lat = np.array([20.02, -30.02, 100.0, 0.0]), np.array([0.02, 0.02, -90.0, 90.0])
    assert land_share(lon, lat, lon, lat).tolist() == is_land(lon, lat).astype(float).tolist()


@pytest.mark.parametrize("box", [(0, 10, 1, 9), (0, 0, 181, 1), (0, -91, 1, 0), (np.nan, 0, 1, 1)])
def test_boxes_that_are_none_are_refused(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(PlaceError, match="west, south, east, north"):
        land_share(*box)


def test_cells_of_25_km() -> None:
    grid = MajorTomGrid(25.0)
    rows, cols, _, _ = grid.enumerate_cells()
    assert int(cells_with_land(grid, rows, cols).sum()) == 233_863


def test_the_mask_is_small() -> None:
    assert mask().shape == (3600, 7200)
    assert MASK_FILE.stat().st_size <= 300_000
