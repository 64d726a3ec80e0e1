"""The grid against ESA's own answers, and against itself at its edges."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.errors import InputError, PlaceError
from embeddings.grid import EARTH_RADIUS_KM, MajorTomGrid
from embeddings.places import utm_epsg
from embeddings.types import Bounds

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
GRID = MajorTomGrid(10)
DISTANCES = st.sampled_from([0.32, 1, 7.3, 10, 25, 50, 100, 556.6, 1000])

# name, lat, lon, cell, EPSG: computed with ESA-PhiLab/Major-TOM f7078cd at 10 km.
LANDMARKS = [
    ("London", 51.5074, -0.1278, "573U_1L", 32630),
    ("Paris", 48.8566, 2.3522, "543U_17R", 32631),
    ("Warsaw", 52.2297, 21.0122, "581U_143R", 32634),
    ("Rome", 41.9028, 12.4964, "466U_103R", 32633),
    ("New York", 40.7128, -74.0060, "453U_625L", 32618),
    ("Sydney", -33.8688, 151.2093, "378D_1396R", 32756),
    ("Nairobi", -1.2921, 36.8219, "15D_409R", 32737),
    ("Quito", -0.1807, -78.4678, "3D_874L", 32717),
    ("Tokyo", 35.6762, 139.6503, "397U_1263R", 32654),
    ("Rio", -22.9068, -43.1729, "256D_443L", 32723),
    ("Suva", -18.1248, 178.4501, "202D_1888R", 32760),
    ("Longyearbyen", 78.2232, 15.6267, "870U_35R", 32633),
    ("Bergen", 60.3913, 5.3221, "672U_29R", 32632),
    ("Ushuaia", -54.8019, -68.3030, "611D_438L", 32719),
    ("Null island", 0.0, 0.0, "1D_1L", 32730),
    ("Ross ice shelf", -82.731987, -178.492844, "922D_249L", 32701),
    ("on the antimeridian", 10.0, 180.0, "111U_1973R", 32660),
    ("east of it", 10.0, -179.95, "111U_1973L", 32601),
    ("just east of it", 35.5, -179.9999, "395U_1632L", 32601),
]


def shared_rows(name: str) -> list[dict[str, str]]:
    path = SHARED / "majortom-grid" / name
    if not path.exists():
        pytest.skip(f"needs {name} of the evaluation data in ../shared/data/majortom-grid")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def slow_edges(total: int, span: float) -> np.ndarray:
    """All edges of a circle or meridian, as the definition builds them."""
    return np.sort(np.mod(np.linspace(-span / 2, span / 2, total + 1)[:-1], span) - span / 2)


def slow_row_souths(distance_km: float) -> np.ndarray:
    souths = slow_edges(int(np.ceil(np.pi * EARTH_RADIUS_KM / distance_km)), 180.0)
    return souths[np.abs(souths) <= 85]


@pytest.mark.shared_data
def test_every_official_case_gives_the_same_cell_corner_and_zone() -> None:
    cases = shared_rows("grid_cases_10km.csv")
    lat, lon = (np.array([float(case[key]) for case in cases]) for key in ("lat", "lon"))
    rows, cols = GRID.cells(lon, lat, official_wrap=True)
    sw_lon, sw_lat = GRID.corner(rows, cols)
    assert len(cases) >= 1400
    assert GRID.names(rows, cols).tolist() == [case["cell"] for case in cases]
    assert rows.tolist() == [int(case["grid_row_u"]) for case in cases]
    assert cols.tolist() == [int(case["grid_col_r"]) for case in cases]
    assert sw_lat.tolist() == [float(case["sw_lat"]) for case in cases]
    assert sw_lon.tolist() == [float(case["sw_lon"]) for case in cases]
    assert GRID.utm_epsg(rows, cols).tolist() == [int(case["utm_epsg"]) for case in cases]


@pytest.mark.shared_data
def test_without_the_official_wrap_only_points_south_of_the_grid_are_refused() -> None:
    cases = shared_rows("grid_cases_10km.csv")
    south = [case for case in cases if float(case["lat"]) <= -84.97005988023952]
    wrapped = [case for case in cases if float(case["lat"]) < 0 < int(case["grid_row_u"])]
    assert south == wrapped
    assert south
    for case in south:
        with pytest.raises(PlaceError, match="official_wrap=True"):
            GRID.cells(float(case["lon"]), float(case["lat"]))


@pytest.mark.shared_data
def test_every_official_row_has_the_same_columns() -> None:
    official = shared_rows("rows_10km.csv")
    rows = np.arange(GRID.first_row, GRID.last_row + 1)
    first, count = GRID.columns(rows)
    last = first + count - 1
    assert GRID.n_rows == len(official) == 1893
    assert count.tolist() == [int(row["ncols"]) for row in official]
    for cols, key in ((first, "first"), (last, "last")):
        names = [name.split("_") for name in GRID.names(rows, cols).tolist()]
        assert names == [[row["row"], row[f"{key}_col"]] for row in official]
        lon, lat = GRID.corner(rows, cols)
        assert lon.tolist() == [float(row[f"{key}_lon"]) for row in official]
        assert lat.tolist() == [float(row["lat"]) for row in official]


@pytest.mark.parametrize(("place", "lat", "lon", "cell", "epsg"), LANDMARKS)
def test_landmarks(place: str, lat: float, lon: float, cell: str, epsg: int) -> None:
    rows, cols = GRID.cells(lon, lat)
    assert (str(GRID.names(rows, cols)), int(GRID.utm_epsg(rows, cols))) == (cell, epsg), place


@pytest.mark.parametrize(
    ("distance_km", "n_rows", "n_cells"),
    [
        (100, 189, 51_145),
        (50, 379, 204_034),
        (25, 757, 815_638),
        (20, 947, 1_273_910),
        (10, 1893, 5_094_350),
    ],
)
def test_counts(distance_km: float, n_rows: int, n_cells: int) -> None:
    grid = MajorTomGrid(distance_km)
    assert (grid.n_rows, grid.n_cells) == (n_rows, n_cells)


@pytest.mark.parametrize("distance_km", [7.3, 10, 33, 100, 556.6, 1000])
def test_edges_equal_those_the_definition_builds_bit_for_bit(distance_km: float) -> None:
    grid = MajorTomGrid(distance_km)
    souths = slow_row_souths(distance_km)
    rows = np.arange(grid.first_row, grid.last_row + 1)
    first, count = grid.columns(rows)
    assert grid.corner(rows, 0)[1].tolist() == souths.tolist()
    for i in range(0, len(rows), max(1, len(rows) // 60)):
        cols = np.arange(first[i], first[i] + count[i])
        assert grid.corner(rows[i], cols)[0].tolist() == slow_edges(count[i], 360.0).tolist()


@given(DISTANCES, st.floats(-180, 180), st.floats(-85, 90))
def test_cells_agree_with_a_search_among_all_edges(km: float, lon: float, lat: float) -> None:
    grid = MajorTomGrid(km)
    souths = slow_row_souths(km)
    row = (np.searchsorted(souths, lat) - 1) % len(souths) + grid.first_row
    first, count = grid.columns(row)
    col = (np.searchsorted(slow_edges(int(count), 360.0), lon) - 1) % count + first
    assert grid.cells(lon, lat, official_wrap=True) == (row, col)


@given(DISTANCES, st.integers(0, 2**40))
def test_a_cells_centre_and_name_lead_back_to_it(km: float, number: int) -> None:
    grid = MajorTomGrid(km)
    row = grid.first_row + number % grid.n_rows
    first, count = grid.columns(row)
    cols = first + np.array([0, number % int(count), count - 1])
    rows = np.full(3, row)
    assert np.array_equal(grid.cells(*grid.centre(rows, cols)), (rows, cols))
    assert np.array_equal(grid.parse(grid.names(rows, cols)), (rows, cols))
    assert [_only(grid.cells_in(_bounds(grid, row, col))) for col in cols] == [
        (row, col) for col in cols
    ]


def _bounds(grid: MajorTomGrid, row: int, col: int) -> Bounds:
    return Bounds(*(float(edge) for edge in grid.footprint(row, col)))


def _only(cells: tuple[np.ndarray, np.ndarray]) -> tuple[int, int]:
    (row,), (col,) = cells
    return row, col


@pytest.mark.parametrize("distance_km", [10, 25, 300])
def test_footprints_of_a_row_tile_the_circle(distance_km: float) -> None:
    grid = MajorTomGrid(distance_km)
    for row in range(grid.first_row, grid.last_row + 1, max(1, grid.n_rows // 200)):
        first, count = grid.columns(row)
        west, south, east, north = grid.footprint(row, np.arange(first, first + count))
        width = np.mod(east - west, 360.0)
        assert width == pytest.approx(np.full(count, 360 / count), abs=1e-9)
        gaps = np.mod(np.roll(west, -1) - east + 180.0, 360.0) - 180.0
        assert np.abs(gaps).max() < 1e-12
        assert (north - south) == pytest.approx(np.full(count, north[0] - south[0]))
        assert (east > west)[:-1].all()
        assert np.abs([west, east]).max() <= 180


def test_last_column_of_odd_rows_crosses_the_antimeridian() -> None:
    row, col = GRID.cells(180.0, -84.65)
    first, count = GRID.columns(row)
    west, _, east, _ = GRID.footprint(row, col)
    assert count == 371
    assert col == first + count - 1
    assert _bounds(GRID, int(row), int(col)).crosses_antimeridian
    assert (float(west), float(east)) == pytest.approx((180 - 180 / count, 180 / count - 180))
    assert GRID.cells(-180.0, -84.65) == (row, col)
    assert abs(float(GRID.centre(row, col)[0])) == pytest.approx(180)


def test_twelve_even_rows_end_with_a_column_at_180() -> None:
    """ESA's rounding puts the edge at -180 to +180 there: 624R takes the place of 624L."""
    first, count = GRID.columns(800)
    assert (int(first), int(count)) == (-623, 1248)
    assert float(GRID.corner(800, 624)[0]) == 180
    west, _, east, _ = _bounds(GRID, 800, 624).west_south_east_north()
    assert (west, east) == pytest.approx((-180, -180 + 360 / 1248))
    assert GRID.cells(-179.9, 71.9) == (800, 624)


def test_poles() -> None:
    assert GRID.names(*GRID.cells([0.001, 45], [90, 85.2])).tolist() == ["946U_0R", "946U_43R"]
    assert GRID.south_limit == -84.97005988023952
    assert GRID.north_limit == pytest.approx(85.0598802)
    with pytest.raises(PlaceError, match=r"2 of 3 points .*\(0, -90\), \(7, -84.9701\), at or sou"):
        GRID.cells([0, 5, 7], [-90, -84.9, GRID.south_limit])
    assert GRID.names(*GRID.cells(45, -90, official_wrap=True)) == "946U_43R"
    assert GRID.cells(0, np.nextafter(GRID.south_limit, 0))[0] == -946


@pytest.mark.parametrize(
    ("lon", "lat", "said"),
    [
        (np.nan, 0, "not numbers"),
        (0, np.inf, "not numbers"),
        (0, 90.001, "latitude ±90"),
        (541, 0, "longitude ±540"),
    ],
)
def test_what_is_no_place_is_refused(lon: float, lat: float, said: str) -> None:
    with pytest.raises(PlaceError, match=said):
        GRID.cells([0, lon], [0, lat])
    with pytest.raises(PlaceError, match="1 of 2 points"):
        utm_epsg([0, lon], [0, lat])


def test_longitudes_wrap() -> None:
    lon = np.array([190.0, -190.0, 359.9, 540.0])
    wrapped = np.array([-170.0, 170.0, -0.1, -180.0])
    assert np.array_equal(GRID.cells(lon, 12.3), GRID.cells(wrapped, 12.3))


def test_shapes() -> None:
    rows, cols = GRID.cells(np.zeros((2, 1)), np.ones(3))
    assert rows.shape == cols.shape == GRID.names(rows, cols).shape == (2, 3)
    assert rows.dtype == cols.dtype == np.int32
    assert GRID.names(-3, [-874, 5]).tolist() == ["3D_874L", "3D_5R"]
    assert [int(part) for part in GRID.parse("3D_874L")] == [-3, -874]
    empty = GRID.cells([], [])
    assert [part.shape for part in (*empty, GRID.names(*empty), *GRID.parse([]))] == [(0,)] * 5
    assert [part.shape for part in GRID.footprint(*empty)] == [(0,)] * 4


@pytest.mark.parametrize(
    "name",
    ["", "573U", "573U_1X", "0D_1L", "0U_0L", "07U_1R", "7U_01R", "7U_1R ", "7u_1r", "٣U_1R"],
)
def test_malformed_names(name: str) -> None:
    with pytest.raises(InputError, match="1 of 2 cell names are malformed"):
        GRID.parse(["573U_1L", name])


@pytest.mark.parametrize("name", ["947U_0R", "947D_0R", "0U_2004R", "0U_2005L", "9999999U_0R"])
def test_cells_that_do_not_exist(name: str) -> None:
    with pytest.raises(InputError, match="10 km grid"):
        GRID.parse(["573U_1L", name])


def test_rows_and_columns_are_integers() -> None:
    with pytest.raises(InputError, match="integers, not float64"):
        GRID.corner([1.5], [1])


@pytest.mark.parametrize("distance", [0, -10, 0.009, 1001, float("nan"), float("inf")])
def test_distances_out_of_range(distance: float) -> None:
    with pytest.raises(InputError, match=r"from 0.01 to 1000; ESA's data sets use 10"):
        MajorTomGrid(distance)


def test_enumeration_is_complete_and_ordered() -> None:
    grid = MajorTomGrid(50)
    rows, cols, lon, lat = grid.enumerate_cells()
    by_row = list(grid.all_cells())
    assert len(rows) == grid.n_cells
    assert rows.tolist() == [row for row, in_row in by_row for _ in in_row]
    assert cols.tolist() == [col for _, in_row in by_row for col in in_row]
    assert np.array_equal((lon, lat), grid.corner(rows, cols))
    assert np.array_equal(grid.cells(*grid.centre(rows, cols)), (rows, cols))


def test_enumeration_of_too_many_cells_is_refused() -> None:
    with pytest.raises(InputError, match="smaller box or a larger grid distance"):
        MajorTomGrid(0.5).enumerate_cells()


@pytest.mark.parametrize(
    "box",
    [
        (-10.3, 40.1, 12.7, 50.2),
        (170.2, -20.5, -169.9, -3.3),
        (-180, -90, 180, 90),
        (-180, -5, 170, 5),
        (179.9, 60, -179.9, 85.05),
        (10, -5, 9.99, 5),
        (5.1, 5.1, 5.1, 5.1),
        (180, 3.3, -180, 3.3),
        (-179.99, 60, -179.99, 61),
        (0, -90, 1, -84.98),
        (0, 86, 1, 90),
        (-3, 84, 3, 90),
    ],
)
@pytest.mark.parametrize("distance_km", [100, 130])
def test_cells_in_a_box_are_those_whose_footprint_overlaps_it(
    box: tuple[float, float, float, float], distance_km: float
) -> None:
    grid = MajorTomGrid(distance_km)
    rows, cols, lon, lat = grid.enumerate_cells(Bounds(*box))
    every = grid.enumerate_cells()[:2]
    west, south, east, north = grid.footprint(*every)
    width = np.mod(east - west, 360.0)
    b_west, b_south, b_east, b_north = box
    b_width = b_east - b_west if b_east >= b_west else b_east - b_west + 360
    # Two arcs overlap if one begins inside the other; nothing here touches within 1e-9.
    ahead, behind = np.mod(west - b_west, 360.0), np.mod(b_west - west, 360.0)
    over = (
        ((ahead < b_width - 1e-9) | (behind < width - 1e-9)) & (south < b_north) & (north > b_south)
    )
    expected = set(zip(every[0][over].tolist(), every[1][over].tolist(), strict=True))
    found = list(zip(rows.tolist(), cols.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert np.array_equal((lon, lat), grid.corner(rows, cols))


@pytest.mark.parametrize(("lon", "lat"), [(-180, 60.2), (180, 60.2), (0, 0), (4.3, 0)])
def test_a_box_without_size_gives_the_cell_that_holds_it(lon: float, lat: float) -> None:
    row, col = GRID.cells(lon, lat)
    assert _only(GRID.cells_in(Bounds(lon, lat, lon, lat))) == (row, col)


def test_utm_zones_of_norway_and_svalbard() -> None:
    lat = [60, 60, 60, 55.9, 64, 75, 75, 75, 75, 75, 84, 0, -1e-9, 0]
    lon = [2.9, 3, 11.9, 5, 5, 8.9, 9, 21, 33, 42, 10, 0, 0, 180]
    zones = [31, 32, 32, 31, 31, 31, 33, 35, 37, 38, 32, 31, 131, 1]
    assert utm_epsg(lon, lat).tolist() == [32600 + zone for zone in zones]
