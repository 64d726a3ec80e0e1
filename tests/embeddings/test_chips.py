"""Cutting scenes: sizes, batches that cover every chip once, pixels, centres and footprints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddings.errors import InputError
from embeddings.sources import chips as chips_module
from embeddings.sources.chips import BATCH_BYTES, BATCH_CHIPS, ChipGrid, chip_layout
from embeddings.sources.footprints import polygons
from embeddings.sources.raster import RasterScene
from embeddings.sources.reading import Reading
from embeddings.spec import ChipLayout

Write = Callable[..., Path]


def grid_of(
    height: int, width: int, chip: tuple[int, int], stride: tuple[int, int], bands: int = 1
) -> ChipGrid:
    """A grid over a scene of which only the shape is known."""
    scene: Any = SimpleNamespace(height=height, width=width, bands=("b",) * bands, first_px=(0, 0))
    return ChipGrid(scene, ChipLayout("", "", chip, stride))


def scene_of(height: int = 100, width: int = 120, pixel_m: Any = (10.0, 10.0)) -> Any:
    return SimpleNamespace(height=height, width=width, pixel_m=pixel_m, bands=("b",))


@pytest.mark.parametrize(
    ("chip", "stride", "pixel_m", "chip_px", "stride_px"),
    [
        ("32", None, (10, 10), (32, 32), (32, 32)),
        ("320m", None, (10, 10), (32, 32), (32, 32)),
        ("0.5km", "250m", (10, 10), (50, 50), (25, 25)),
        ("160m", "16", (9.25, 7.6), (17, 21), (16, 16)),
        ("14m", None, (10, 10), (1, 1), (1, 1)),
        (" 8 ", "4", (10, 10), (8, 8), (4, 4)),
    ],
)
def test_sizes_become_whole_pixels(
    chip: str, stride: str | None, pixel_m: Any, chip_px: Any, stride_px: Any
) -> None:
    layout = chip_layout(scene_of(pixel_m=pixel_m), chip, stride)
    assert (layout.chip_px, layout.stride_px) == (chip_px, stride_px)
    assert (layout.chip_asked, layout.stride_asked) == (chip, stride or chip)


@pytest.mark.parametrize(
    ("chip", "stride", "message"),
    [
        ("0", None, "less than one pixel"),
        ("4m", None, "less than one pixel"),
        ("8", "0", "less than one pixel"),
        ("8", "0m", "less than one pixel"),
        ("-8", None, "is not a size"),
        ("8px", None, "is not a size"),
        ("", None, "is not a size"),
        ("1e3", None, "is not a size"),
        ("8.5", None, "is not a whole number of pixels"),
        ("101", None, "the scene has only 120 x 100"),
        ("2km", None, "the scene has only 120 x 100"),
        ("9" * 400, None, "larger than the Earth"),
        ("9" * 400 + "km", None, "larger than the Earth"),
    ],
)
def test_sizes_that_make_no_sense(chip: str, stride: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        chip_layout(scene_of(), chip, stride)


@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    st.tuples(st.integers(1, 600), st.integers(1, 600)),
    st.tuples(st.integers(1, 700), st.integers(1, 700)),
    st.integers(1, 13),
)
@settings(deadline=None, max_examples=150)
def test_batches_cover_every_chip_once_in_bounded_memory(
    size: tuple[int, int], chip: tuple[int, int], stride: tuple[int, int], bands: int
) -> None:
    chip = (min(chip[0], size[0]), min(chip[1], size[1]))
    grid = grid_of(*size, chip, stride, bands)
    if grid.chips > 200_000:
        return
    seen = np.zeros((grid.rows, grid.cols), dtype=int)
    batches = grid.batches()
    assert [batch.number for batch in batches] == list(range(len(batches)))
    for batch in batches:
        seen[batch.row : batch.row + batch.rows, batch.col : batch.col + batch.cols] += 1
        window = ((batch.rows - 1) * stride[0] + chip[0]) * ((batch.cols - 1) * stride[1] + chip[1])
        if batch.chips > 1:
            assert 4 * bands * window <= BATCH_BYTES
            assert 4 * bands * batch.chips * chip[0] * chip[1] <= BATCH_BYTES
        assert 1 <= batch.chips <= BATCH_CHIPS
    assert (seen == 1).all()
    # The last chip lies in the scene, and one more would not.
    assert (grid.rows - 1) * stride[0] + chip[0] <= size[0] < grid.rows * stride[0] + chip[0]
    assert (grid.cols - 1) * stride[1] + chip[1] <= size[1] < grid.cols * stride[1] + chip[1]


@pytest.mark.parametrize("stride", [(8, 6), (5, 3), (11, 13)])
def test_chips_hold_their_pixels_whatever_the_batches(
    tmp_path: Path,
    write_raster: Write,
    monkeypatch: pytest.MonkeyPatch,
    stride: tuple[int, int],
) -> None:
    monkeypatch.setattr(chips_module, "BATCH_CHIPS", 7)
    values = np.arange(2 * 50 * 67, dtype=np.uint16).reshape(2, 50, 67) + 1
    values[:, 24, 28] = 0
    file = write_raster(tmp_path / "a.tif", values)
    with RasterScene.open([str(file)], Reading(nodata=0.0)) as scene:
        grid = ChipGrid(scene, ChipLayout("", "", (8, 6), stride))
        assert len(grid.batches()) > 2
        found = {}
        for batch in grid.batches():
            read = grid.read(batch)
            found |= dict(zip(map(tuple, read.place.tolist()), read.pixels, strict=True))
    for row in range(grid.rows):
        for col in range(grid.cols):
            top, left = row * stride[0], col * stride[1]
            expected = values[:, top : top + 8, left : left + 6]
            if (expected == 0).any():
                assert (row, col) not in found
            else:
                assert (found[row, col] == expected).all()
    assert grid.chips - 4 <= len(found) < grid.chips


@pytest.mark.parametrize("min_valid", [1e-9, 0.3, 0.75, 1.0])
def test_chips_with_too_little_data_are_absent_and_holes_hold_the_mean(
    tmp_path: Path, write_raster: Write, min_valid: float
) -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(1, 3000, (2, 40, 48)).astype(np.float32)
    hidden = rng.random((40, 48)) < np.linspace(0, 1.2, 48)
    values[1, hidden] = np.nan
    file = write_raster(tmp_path / "a.tif", values)
    with RasterScene.open([str(file)]) as scene:
        grid = ChipGrid(scene, ChipLayout("", "", (8, 8), (5, 7)))
        read = grid.read(grid.batches()[0], min_valid)
    kept, absent = read.place.tolist(), read.absent_place.tolist()
    for row in range(grid.rows):
        for col in range(grid.cols):
            window = np.s_[row * 5 : row * 5 + 8, col * 7 : col * 7 + 8]
            there = ~hidden[window]
            if there.mean() < min_valid or not there.any():
                assert read.absent_share[absent.index([row, col])] == np.float32(there.mean())
                continue
            i = kept.index([row, col])
            assert read.share[i] == np.float32(there.mean())
            for band, chip in zip(values, read.pixels[i], strict=True):
                assert (chip[there] == band[window][there]).all()
                mean = band[window][there].mean(dtype=np.float64)
                assert chip[~there] == pytest.approx(np.full((~there).sum(), mean), rel=1e-6)
    assert len(kept) + len(absent) == grid.chips
    assert read.pixels.dtype == read.share.dtype == read.absent_share.dtype == np.float32
    assert read.place.dtype == read.absent_place.dtype == np.int64


@pytest.mark.parametrize("min_valid", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_is_above_0_and_at_most_1(
    tmp_path: Path, write_raster: Write, min_valid: float
) -> None:
    with RasterScene.open(
        [str(write_raster(tmp_path / "a.tif", np.ones((1, 9, 9), np.uint8)))]
    ) as scene:
        grid = ChipGrid(scene, chip_layout(scene, "8", None))
        with pytest.raises(InputError, match="more than 0 and at most 1"):
            grid.read(grid.batches()[0], min_valid)


def test_chips_of_a_part_are_those_of_the_whole_scene(tmp_path: Path, write_raster: Write) -> None:
    values = np.arange(80 * 90, dtype=np.uint16).reshape(1, 80, 90) + 1
    file = str(write_raster(tmp_path / "a.tif", values))
    with RasterScene.open([file]) as scene:
        whole = ChipGrid(scene, chip_layout(scene, "8", "6"))
        all_chips = whole.read(whole.batches()[0])
        box = scene.grid.part(20, 31, 30, 40).bounds
        firsts = {int(chip[0, 0, 0]): i for i, chip in enumerate(all_chips.pixels)}
    with RasterScene.open([file], Reading(bbox=box)) as scene:
        part = ChipGrid(scene, chip_layout(scene, "8", "6"))
        chips = part.read(part.batches()[0])
        assert len(chips.place) >= 4 * 5
        same = [firsts[int(chip[0, 0, 0])] for chip in chips.pixels]
        assert (all_chips.pixels[same] == chips.pixels).all()
        for mine, theirs in (
            (part.centres(chips.place), whole.centres(all_chips.place[same])),
            (part.footprints(chips.place)[1], whole.footprints(all_chips.place[same])[1]),
        ):
            assert np.allclose(mine, theirs, atol=1e-10)
        a, b, x, *_ = part.to_json()["transform"]
        assert (a, b) == (10, 0)
        assert x > 500_000
        assert (x - 500_000) % 60 == 0
    with RasterScene.open([file], Reading(bbox=box)) as scene:
        # Where no chip of the whole scene's grid fits, the part has a grid of its own.
        assert ChipGrid(scene, chip_layout(scene, "28", "28")).start_px == (0, 0)


def test_names_and_order_of_chips() -> None:
    grid = grid_of(100, 60, (10, 10), (10, 10))
    place = np.argwhere(np.ones((grid.rows, grid.cols)))
    assert grid.names("s", place[[0, 7]]) == ["s_0_0", "s_1_1"]
    order = grid.order(place)
    assert order.dtype == np.uint64
    assert len(set(order.tolist())) == 60
    empty = np.empty((0, 2), np.int64)
    assert (len(grid.order(empty)), grid.names("s", empty)) == (0, [])


@pytest.mark.parametrize("most", [1, 3, 100])
def test_a_sample_is_rows_of_chips_spread_over_the_scene(most: int) -> None:
    grid = grid_of(100, 100, (10, 10), (10, 10))
    rows = [batch.row for batch in grid.sample_rows(most)]
    assert rows == sorted(set(rows))
    assert len(rows) == min(most, 10)
    assert rows[0] == 0
    assert most == 1 or rows[-1] == 9


@pytest.mark.parametrize(
    ("crs", "origin", "res"),
    [("EPSG:32633", (500_000, 5_200_000), 10), ("EPSG:4326", (15, 47), 0.0001)],
)
def test_centres_and_footprints_lie_on_the_ground(
    tmp_path: Path, write_raster: Write, crs: str, origin: Any, res: float
) -> None:
    file = write_raster(
        tmp_path / "a.tif", np.ones((1, 40, 50), np.uint8), crs=crs, origin=origin, res=res
    )
    to_lonlat = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    with RasterScene.open([str(file)]) as scene:
        grid = ChipGrid(scene, chip_layout(scene, "8", "4"))
        place = np.array([[0, 0], [2, 5]])
        lon, lat = grid.centres(place)
        shapes, boxes = grid.footprints(place)
    for i, (row, col) in enumerate(place * 4):
        left, top = origin[0] + col * res, origin[1] - row * res
        expected = to_lonlat.transform(left + 4 * res, top - 4 * res)
        assert (lon[i], lat[i]) == pytest.approx(expected, abs=1e-10)
        corners = [(left + dx * res, top - dy * res) for dx, dy in ((0, 0), (0, 8), (8, 8), (8, 0))]
        square = shapely.Polygon([to_lonlat.transform(*corner) for corner in corners])
        assert shapely.symmetric_difference(shapes[i], square).area < 1e-15
        assert boxes[i].tolist() == list(shapes[i].bounds)


def ring(west: float, south: float, east: float, north: float) -> tuple[np.ndarray, np.ndarray]:
    wrapped = (np.array([[west, west, east, east]]) + 180) % 360 - 180
    return wrapped, np.array([[north, south, south, north]], float)


def test_a_footprint_over_the_antimeridian_is_cut() -> None:
    shapes, boxes = polygons(*ring(179.9, 10, 180.2, 11))
    assert boxes.tolist() == [pytest.approx([179.9, 10, -179.8, 11])]
    assert boxes[0, 0] > boxes[0, 2]
    assert shapes[0].geom_type == "MultiPolygon"
    west, east = sorted((part.bounds for part in shapes[0].geoms), reverse=True)
    assert west == pytest.approx((179.9, 10, 180, 11))
    assert east == pytest.approx((-180, 10, -179.8, 11))
    assert all(part.exterior.is_ccw for part in shapes[0].geoms)


@pytest.mark.parametrize("west", [179.9, -180.0, 0.0, -0.05])
def test_a_footprint_that_only_touches_a_meridian_is_whole(west: float) -> None:
    shapes, boxes = polygons(*ring(west, 10, west + 0.1, 11))
    assert shapes[0].geom_type == "Polygon"
    assert boxes[0] == pytest.approx([west, 10, west + 0.1, 11])
    assert shapes[0].bounds == pytest.approx((west, 10, west + 0.1, 11))


@pytest.mark.parametrize(("latitude", "pole"), [(85.0, 90.0), (-85.0, -90.0)])
def test_a_footprint_around_a_pole_holds_the_pole(latitude: float, pole: float) -> None:
    for lons in ([-135, -45, 45, 135], [135, 45, -45, -135], [170, -100, -10, 80]):
        shapes, boxes = polygons(np.array([lons], float), np.full((1, 4), latitude))
        assert boxes[0].tolist() == [-180, min(latitude, pole), 180, max(latitude, pole)]
        assert shapely.is_valid(shapes[0])
        for lon in (-179, -60, 0, 33, 179):
            assert shapes[0].contains(shapely.Point(lon, (latitude + pole) / 2))
            assert not shapes[0].intersects(shapely.Point(lon, latitude * 0.9))


@pytest.mark.parametrize("west", [-180.0, 0.0])
def test_the_outline_of_a_global_raster_is_the_globe(
    tmp_path: Path, write_raster: Write, west: float
) -> None:
    file = write_raster(
        tmp_path / "a.tif",
        np.ones((1, 18, 36), np.uint8),
        crs="EPSG:4326",
        origin=(west, 90),
        res=10,
    )
    with RasterScene.open([str(file)]) as scene:
        lon, lat = scene.outline()
        shapes, boxes = polygons(lon[None], lat[None])
    assert boxes[0].tolist() == [-180, -90, 180, 90]
    assert shapes[0].area == pytest.approx(360 * 180)


def test_no_rings_give_no_shapes() -> None:
    shapes, boxes = polygons(np.empty((0, 4)), np.empty((0, 4)))
    assert (len(shapes), boxes.shape) == (0, (0, 4))
