"""Scenes of one date as one: the first valid pixel wins, whatever the grids of the members."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.encoders.base import BandWant
from embeddings.errors import BandError, InputError
from embeddings.sources.chips import ChipGrid, chip_layout
from embeddings.sources.mosaic import MosaicScene
from embeddings.sources.raster import RasterScene
from embeddings.sources.reading import Reading

Write = Callable[..., Path]
LEFT, TOP = 500_000.0, 5_200_000.0


@pytest.fixture
def tiles(tmp_path: Path, write_raster: Write) -> list[list[str]]:
    """Two tiles of 20 x 20 pixels, the second 12 pixels east and 4 south; each with a hole."""
    values = np.arange(1, 401, dtype=np.uint16).reshape(1, 20, 20)
    first, second = values.repeat(2, axis=0), values.repeat(2, axis=0) + 1000
    first[:, 5:8, 14:17], second[:, 0, 0] = 0, 0
    names = {"descriptions": ("B02", "B03"), "nodata": 0}
    a = write_raster(tmp_path / "a.tif", first, **names)
    b = write_raster(tmp_path / "b.tif", second, origin=(LEFT + 120, TOP - 40), **names)
    return [[str(a)], [str(b)]]


def expected(tiles: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """The mosaic by hand, the first tile on top."""
    whole = np.zeros((24, 32), np.float32)
    for files, (top, left) in zip(reversed(tiles), ((4, 12), (0, 0)), strict=True):
        with RasterScene.open(files) as scene:
            values, valid = scene.read(0, 0, 20, 20)
        part = whole[top : top + 20, left : left + 20]
        part[valid] = values[0][valid]
    return whole, whole > 0


def test_the_first_valid_pixel_wins(tiles: list[list[str]]) -> None:
    whole, there = expected(tiles)
    with MosaicScene.open(tiles) as mosaic:
        assert (mosaic.height, mosaic.width, mosaic.bands) == (24, 32, ("B02", "B03"))
        assert mosaic.transform[:6] == (10, 0, LEFT, 0, -10, TOP)
        values, valid = mosaic.read(0, 0, 24, 32)
        assert (valid == there).all()
        assert (values[:, there] == whole[there]).all()
        assert mosaic.files == (tiles[0][0], tiles[1][0])
        piece, valid = mosaic.read(3, 10, 6, 9)
        assert (valid == there[3:9, 10:19]).all()
        assert (piece[0][valid] == whole[3:9, 10:19][valid]).all()
        assert mosaic.pixel_rule()["scale"] == [1.0, 1.0]
    with MosaicScene.open(tiles[::-1]) as other:
        assert (other.height, other.width) == (24, 32)
        values, _ = other.read(0, 0, 24, 32)
        assert values[0, 10, 15] == 1000 + 6 * 20 + 3 + 1
        assert other.reading_rule() != mosaic.reading_rule()


def test_a_member_in_another_crs_lies_where_it_belongs(tmp_path: Path, write_raster: Write) -> None:
    flat = np.full((1, 60, 60), 100, np.uint16)
    a = write_raster(tmp_path / "a" / "B02.tif", flat)
    b = write_raster(
        tmp_path / "b" / "B02.tif", flat * 2, crs="EPSG:4326", origin=(15.0066, 46.9545), res=1e-4
    )
    with MosaicScene.open([[str(a)], [str(b)]]) as mosaic, RasterScene.open([str(b)]) as second:
        lon, lat = second.xy(np.array([30.0]), np.array([30.0]))
        x, y = mosaic.to_lonlat.transform(lon, lat, direction="INVERSE")
        col, row = (int(at[0]) for at in mosaic.grid.pixels(x, y))
        left, top = (round(float(at)) for at in mosaic.grid.pixels(LEFT, TOP))
        values, valid = mosaic.read(0, 0, mosaic.height, mosaic.width)
        assert valid[row, col]
        assert values[0, row, col] == 200
        assert (values[0, top : top + 60, left : left + 60] == 100).all()
        assert set(np.unique(values[0][valid])) == {100, 200}
        assert mosaic.crs.to_epsg() == 32633


def test_a_mosaic_can_be_cut_and_resampled(tiles: list[list[str]]) -> None:
    with MosaicScene.open(tiles) as whole:
        box = whole.grid.part(6, 8, 12, 10).bounds
        values, valid = whole.read(0, 0, 24, 32)
        grid = ChipGrid(whole, chip_layout(whole, "8", "4"))
        assert sum(len(grid.read(b).place) + len(grid.read(b).absent_place)
                   for b in grid.batches()) == grid.chips  # fmt: skip
    with MosaicScene.open(tiles, Reading(bbox=box)) as part:
        top, left = part.first_px
        rows, cols = np.s_[top : top + part.height], np.s_[left : left + part.width]
        assert (top, left) <= (6, 8)
        assert part.height * part.width < 15 * 13
        again, there = part.read(0, 0, part.height, part.width)
        assert (there == valid[rows, cols]).all()
        assert (again[:, there] == values[:, rows, cols][:, there]).all()
    with MosaicScene.open(tiles, Reading(gsd_m=20)) as coarse:
        assert (coarse.height, coarse.width) == (12, 16)
        assert coarse.read(0, 0, 1, 1)[0][0, 0, 0] == pytest.approx(11.5, abs=0.5)  # whole numbers


def test_bands_of_members_pair_by_name(tmp_path: Path, write_raster: Write) -> None:
    flat = np.ones((1, 8, 8), np.uint16)
    files: dict[str, Any] = {
        name: str(write_raster(tmp_path / name, flat * value))
        for name, value in (("a/B02.tif", 2), ("a/B03.tif", 3), ("b/B02.tif", 2), ("b/B04.tif", 4))
    }
    a2, a3, b2, b4 = files.values()
    with MosaicScene.open([[a2, a3], [a3, a2]]) as mosaic:
        mosaic.take([BandWant("green", "green"), BandWant("blue", "blue")])
        assert mosaic.bands == ("green", "blue")
        assert mosaic.read(0, 0, 1, 1)[0].ravel().tolist() == [3, 2]
        mosaic.pair(("blue", "green"))
        assert mosaic.read(0, 0, 1, 1)[0].ravel().tolist() == [2, 3]
    with pytest.raises(BandError, match=r"other bands: B02, B03 in .* B02, B04 in"):
        MosaicScene.open([[a2, a3], [b2, b4]])
    with pytest.raises(InputError, match="at least one scene"):
        MosaicScene.open([])


def test_bands_pair_by_what_their_names_mean(tmp_path: Path, write_raster: Write) -> None:
    """Files are named after their tile and date too, and come in any order."""
    flat = np.ones((1, 8, 8), np.uint16)
    first, second = (
        [str(write_raster(tmp_path / f"{tile}_B0{n}.tif", flat * n)) for n in order]
        for tile, order in (("T31UDQ_20170829", (2, 3, 4)), ("T32TPP_20180211", (4, 2, 3)))
    )
    with RasterScene.open(second) as scene:
        scene.pair([Path(file).stem for file in first])
        assert scene.read(0, 0, 1, 1)[0].ravel().tolist() == [2, 3, 4]
        assert scene.notes == []
    with MosaicScene.open([second, first]) as mosaic:
        assert mosaic.read(0, 0, 1, 1)[0].ravel().tolist() == [4, 2, 3]
    positions = str(write_raster(tmp_path / "p.tif", np.concatenate([flat * n for n in (2, 3, 4)])))
    with RasterScene.open([positions]) as scene:  # B1 is the first band, not Sentinel-2's
        scene.pair(("B03", "B02", "B01"))
        assert scene.read(0, 0, 1, 1)[0].ravel().tolist() == [2, 3, 4]
