"""Major TOM fragments: how many, where they are cut, and that polygons lie where pixels are."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine

from embeddings.errors import InputError
from embeddings.grid import MajorTomGrid
from embeddings.sources.fragments import FragmentPlan, fragment_offsets, parse_fragment
from embeddings.sources.raster import RasterScene
from embeddings.sources.reading import Reading

Write = Callable[..., Path]
CELL = "533U_110R"
SIDE = 1068


def transcribed(fragment: int, image: int) -> list[int]:
    """First pixels along one side, as fragment_fn of ESA-PhiLab/Major-TOM says them."""
    overlap = 0.1 * fragment
    n = max(1, int(np.round((image - fragment) / (fragment - overlap))))
    feasible = int(np.ceil(fragment - (image - fragment) / n))
    first = [i * (fragment - feasible) for i in range(n + 1)]
    if image > fragment + n * (fragment - feasible):
        first[-1] = image - fragment
    return first


@pytest.mark.parametrize(
    ("fragment", "count", "stride"), [(224, 25, 211), (384, 9, 342), (256, 25, 203)]
)
def test_fragments_are_as_published(fragment: int, count: int, stride: int) -> None:
    offsets, step = fragment_offsets(fragment)
    assert (len(offsets) ** 2, step) == (count, stride)
    assert offsets.tolist() == [i * stride for i in range(math.isqrt(count))]
    assert offsets[-1] + fragment == SIDE


@pytest.mark.parametrize("fragment", [16, 100, 225, 300, 333, 500, 534, 700, 1000, 1067])
def test_fragments_of_any_size_are_as_published(fragment: int) -> None:
    offsets, _ = fragment_offsets(fragment)
    assert offsets.tolist() == transcribed(fragment, SIDE)
    assert offsets[0] == 0
    assert offsets[-1] + fragment == SIDE


def test_some_sizes_need_the_last_fragment_moved() -> None:
    offsets, stride = fragment_offsets(225)
    assert (stride, offsets.tolist()) == (210, [0, 210, 420, 630, 843])
    assert fragment_offsets(SIDE)[0].tolist() == [0]


@pytest.mark.parametrize(
    ("text", "pixels"),
    [("majortom:224", 224), (" MajorTOM:1068 ", 1068), ("224", None), ("2km", None)],
)
def test_the_option(text: str, pixels: int | None) -> None:
    assert parse_fragment(text) == pixels


@pytest.mark.parametrize(
    "text", ["majortom", "majortom:", "majortom:2km", "majortom:15", "majortom:1069"]
)
def test_options_that_make_no_sense(text: str) -> None:
    with pytest.raises(InputError, match="majortom:224"):
        parse_fragment(text)


def corner(cell: str) -> tuple[int, float, float]:
    """EPSG code and upper left corner of the image of a cell."""
    grid = MajorTomGrid(10.0)
    row, col = grid.parse([cell])
    epsg = int(grid.utm_epsg(row, col)[0])
    x, y = pyproj.Transformer.from_crs("OGC:CRS84", epsg, always_xy=True).transform(
        *grid.corner(row, col)
    )
    return epsg, float(x[0]) - 340, float(y[0]) - 340 + 10_680


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, write_raster: Write) -> Path:
    """The image of one cell: its first band holds the row, its second the column of a pixel."""
    epsg, left, top = corner(CELL)
    values = np.stack(np.indices((SIDE, SIDE))).astype(np.uint16) + 1
    return write_raster(
        tmp_path_factory.mktemp("image") / "a.tif", values, crs=f"EPSG:{epsg}", origin=(left, top)
    )


def test_content_and_polygon_agree(image: Path) -> None:
    epsg, left, top = corner(CELL)
    with RasterScene.open([str(image)]) as scene:
        plan = FragmentPlan(scene, 224)
        assert plan.cells == (CELL,)
        assert plan.chips == 25
        assert [batch.chips for batch in plan.batches()] == [25]
        read = plan.read(plan.batches()[0])
    assert read.pixels.shape == (25, 2, 224, 224)
    assert (read.share == 1).all()
    assert plan.names("s", read.place)[:7] == [f"s_{CELL}_0_{c}" for c in range(5)] + [
        f"s_{CELL}_1_0", f"s_{CELL}_1_1"]  # fmt: skip
    shapes, boxes = plan.footprints(read.place)
    lon, lat = plan.centres(read.place)
    to_utm = pyproj.Transformer.from_crs("OGC:CRS84", epsg, always_xy=True)
    for i, chip in enumerate(read.pixels):
        row, col = (int(band[0, 0]) - 1 for band in chip)
        assert [row, col] == (read.place[i, 1:] * 211).tolist()
        xy = np.array(to_utm.transform(*shapely.get_coordinates(shapes[i]).T))
        assert xy[0].min() == pytest.approx(left + 10 * col, abs=1e-3)
        assert xy[1].max() == pytest.approx(top - 10 * row, abs=1e-3)
        assert np.ptp(xy, axis=1) == pytest.approx([2240, 2240], abs=1e-3)
        centre = to_utm.transform(lon[i], lat[i])
        assert centre == pytest.approx((left + 10 * col + 1120, top - 10 * row - 1120), abs=1e-3)
        assert boxes[i].tolist() == list(shapes[i].bounds)


def test_an_image_slightly_off_is_taken_as_it_lies(tmp_path: Path, write_raster: Write) -> None:
    epsg, left, top = corner(CELL)
    left, top = round(left, -1), round(top, -1)
    values = np.random.default_rng(0).integers(1, 9000, (1, SIDE, SIDE)).astype(np.uint16)
    file = write_raster(tmp_path / "a.tif", values, crs=f"EPSG:{epsg}", origin=(left, top))
    with RasterScene.open([str(file)]) as scene:
        plan = FragmentPlan(scene, 384)
        read = plan.read(plan.batches()[0])
    assert (read.pixels[1, 0] == values[0, :384, 342:726]).all()
    shapes, _ = plan.footprints(read.place)
    to_utm = pyproj.Transformer.from_crs("OGC:CRS84", epsg, always_xy=True)
    x, _ = to_utm.transform(*shapely.get_coordinates(shapes[1]).T)
    assert np.min(x) == pytest.approx(left + 3420, abs=1e-3)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, write_raster: Write) -> Path:
    """A scene of 40 m pixels in another zone's UTM, about 24 x 24 km, its value the easting."""
    _, left, top = corner(CELL)
    size = 600
    transform = Affine(40, 0, left - 6000, 0, -40, top + 6000)
    x = (left - 6000 + 40 * (np.arange(size) + 0.5)) / 100
    values = np.broadcast_to(x.astype(np.float32), (1, size, size)).copy()
    values[0, :, -50:] = np.nan
    return write_raster(
        tmp_path_factory.mktemp("wide") / "a.tif", values, crs=f"EPSG:{corner(CELL)[0]}",
        transform=transform,
    )  # fmt: skip


def test_a_scene_is_warped_onto_every_cell_it_meets(wide: Path) -> None:
    _, left, _ = corner(CELL)
    with RasterScene.open([str(wide)]) as scene:
        plan = FragmentPlan(scene, 224)
        assert CELL in plan.cells
        assert 9 <= len(plan.cells) <= 16
        assert len(set(plan.cells)) == len(plan.cells)
        batch = plan.batches()[plan.cells.index(CELL)]
        read = plan.read(batch)
        assert len(read.place) == 25
        assert (read.place[:, 0] == batch.number).all()
        easting = 100 * read.pixels[:, 0, 100, 100]
        assert easting == pytest.approx(left + 10 * (read.place[:, 2] * 211 + 100.5), abs=1.0)
        share = []
        for each in plan.batches():
            found = plan.read(each, 0.5)
            assert len(found.place) + len(found.absent_place) == 25
            assert (found.share >= 0.5).all()
            assert (found.absent_share < 0.5).all()
            assert np.isfinite(found.pixels).all()
            share.append(found.share)
        mixed = np.concatenate(share)
        assert ((mixed > 0.5) & (mixed < 1)).any()
        assert len(list(plan.sample_rows(4))) == 4
        assert {b.number for b in plan.sample_rows(1000)} == set(range(len(plan.cells)))
        everywhere = np.array(
            [[c, r, q] for c in range(len(plan.cells)) for r in (0, 4) for q in (0, 4)]
        )
        assert len(set(plan.order(everywhere).tolist())) == len(everywhere)
        told = plan.to_json()
        assert (told["kind"], told["stride"]) == ("majortom-fragments", 211)
        assert told["cells"] == list(plan.cells)
        nothing = np.empty((0, 3), np.int64)
        assert len(plan.footprints(nothing)[0]) == len(plan.centres(nothing)[0]) == 0
        assert len(plan.order(nothing)) == len(plan.names("s", nothing)) == 0
    with RasterScene.open([str(wide)], Reading(bands=("red",))) as scene:
        assert FragmentPlan(scene, 224).read(batch).pixels.shape == (25, 1, 224, 224)


def test_a_scene_beyond_the_grid(tmp_path: Path, write_raster: Write) -> None:
    values = np.ones((1, 20, 20), np.uint8)
    file = write_raster(tmp_path / "a.tif", values, crs="EPSG:3413", origin=(-100, 100))
    with RasterScene.open([str(file)]) as scene, pytest.raises(InputError, match="No cell"):
        FragmentPlan(scene, 224)


def test_a_scene_over_the_antimeridian(tmp_path: Path, write_raster: Write) -> None:
    values = np.ones((1, 200, 200), np.uint8)
    file = write_raster(tmp_path / "a.tif", values, crs="EPSG:3832",
                        origin=(3_339_584 - 10_000, 1000_000), res=100)  # fmt: skip
    with RasterScene.open([str(file)]) as scene:
        lon = scene.outline()[0]
        assert lon.min() < -179
        assert lon.max() > 179
        plan = FragmentPlan(scene, 384)
        kept = sum(len(plan.read(batch).place) for batch in plan.batches())
        assert kept >= 9
        assert {name[-1] for name in plan.cells} == {"L", "R"}
        _, boxes = plan.footprints(np.array([[i, 0, 0] for i in range(len(plan.cells))]))
        assert (np.abs(boxes[:, ::2]) > 179).all()
