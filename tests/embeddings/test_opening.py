"""How a scene is read: which bands, which part, which pixel size; what is known from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
from affine import Affine

from embeddings.encoders.base import BandWant
from embeddings.errors import BandError, InputError, SourceError
from embeddings.sources.chips import ChipGrid, chip_layout
from embeddings.sources.grids import TargetGrid
from embeddings.sources.raster import RasterScene
from embeddings.sources.reading import Reading, SceneFile

Write = Callable[..., Path]


def read(scene: RasterScene) -> tuple[np.ndarray, np.ndarray]:
    return scene.read(0, 0, scene.height, scene.width)


def levels(*values: float, size: int = 20, dtype: str = "uint16") -> np.ndarray:
    return np.stack([np.full((size, size), value, dtype) for value in values])


@pytest.fixture
def sentinel(tmp_path: Path, write_raster: Write) -> list[str]:
    """B02, B03 and B8A; the last of 20 m."""
    return [
        str(write_raster(tmp_path / "B02.tif", levels(2))),
        str(write_raster(tmp_path / "B03.tif", levels(3))),
        str(write_raster(tmp_path / "B8A.tif", levels(8, size=10), res=20)),
    ]


def test_bands_are_chosen_by_any_name(sentinel: list[str]) -> None:
    for asked, expected in (
        (("B03", "B02"), [3, 2]),
        (("b3", "B2"), [3, 2]),
        (("green",), [3]),
        (("nir08", "blue"), [8, 2]),
    ):
        with RasterScene.open(sentinel, Reading(bands=asked)) as scene:
            assert scene.bands == asked
            assert read(scene)[0][:, 0, 0].tolist() == expected
    with RasterScene.open(sentinel, Reading(bands=("B8A",))) as scene:
        assert (scene.height, scene.gsd_m) == (10, pytest.approx(20, rel=0.001))
        assert scene.files == (sentinel[2],)
        assert scene.notes == []


def test_a_band_that_is_not_there_is_named(sentinel: list[str]) -> None:
    with pytest.raises(BandError, match=r"has no band B04; it has B02, B03, B8A.*--bands"):
        RasterScene.open(sentinel, Reading(bands=("B02", "B04")))
    with pytest.raises(BandError, match="asked for twice"):
        RasterScene.open(sentinel, Reading(bands=("B02", "b02")))


def test_names_for_bands_that_have_none(tmp_path: Path, write_raster: Write) -> None:
    same = ("stack-1",) * 3
    file = str(write_raster(tmp_path / "a.tif", levels(1, 2, 3), descriptions=same))
    red = BandWant("B04", "red", 0.665)
    with RasterScene.open([file]) as scene:
        assert scene.bands == ("B1", "B2", "B3")
        with pytest.raises(BandError, match=r"needs band B04 .* has B1, B2, B3.* only positions"):
            scene.take([red])
        with pytest.raises(BandError, match="only positions"):
            scene.take([BandWant("B3", "green")])
    # B2 is a position here; all three names together name them.
    with RasterScene.open([file], Reading(bands=("B2", "B3", "B4"))) as scene:
        assert scene.bands == ("B2", "B3", "B4")
        assert "named in order: B1 as B2, B2 as B3, B3 as B4" in scene.notes[0]
        scene.take([red])
        assert scene.bands == ("B04",)
        assert (read(scene)[0] == 3).all()
    with RasterScene.open([file], Reading(bands=("B3",))) as scene:
        assert (read(scene)[0] == 3).all()
    with pytest.raises(BandError, match="give one name for each of the 3 bands"):
        RasterScene.open([file], Reading(bands=("B02", "B03")))


def test_colours_of_a_picture_are_known(tmp_path: Path, write_raster: Write) -> None:
    file = write_raster(tmp_path / "a.tif", levels(1, 2, 3, dtype="uint8"), photometric="RGB")
    with RasterScene.open([str(file)]) as scene:
        scene.take([BandWant("B02", "blue"), BandWant("B04", "red")])
        assert read(scene)[0][:, 0, 0].tolist() == [3, 1]


def test_the_encoder_takes_its_bands_from_many(sentinel: list[str]) -> None:
    with RasterScene.open(sentinel) as scene:
        scene.take([BandWant("B8A", "nir08", 0.865), BandWant("B02", "blue", 0.49)])
        assert scene.bands == ("B8A", "B02")
        assert read(scene)[0][:, 0, 0].tolist() == [8, 2]
        with scene.onto(scene.grid.part(2, 2, 4, 4)) as part:
            assert part.bands == scene.bands
            assert part.read(0, 0, 4, 4)[0][:, 0, 0].tolist() == [8, 2]


def test_what_is_known_of_a_file_goes_before_what_it_says(
    tmp_path: Path, write_raster: Write
) -> None:
    values = levels(100, 200)
    values[:, 3, 4] = 7
    file = str(write_raster(tmp_path / "a.tif", values, nodata=100, scales=(2.0, 2.0)))
    known = SceneFile(file, ("red", "nir"), scale=0.5, offset=-1.0, nodata=7)
    with RasterScene.open([known]) as scene:
        pixels, valid = read(scene)
        assert scene.bands == ("red", "nir")
        assert pixels[:, 0, 0].tolist() == [49, 99]
        assert np.argwhere(~valid).tolist() == [[3, 4]]
        rule = scene.reading_rule()
    with RasterScene.open([SceneFile(file, ("red", "nir"), 0.5, -1.0)]) as scene:
        assert np.argwhere(read(scene)[1]).tolist() == [[3, 4]]
        assert scene.reading_rule() != rule
    with RasterScene.open([known], Reading(scale=1.0, offset=5.0)) as scene:
        assert read(scene)[0][:, 0, 0].tolist() == [104, 204]
    with RasterScene.open([known], Reading(gsd_m=20)) as scene:
        assert read(scene)[1].sum() in (99, 100)
    with pytest.raises(BandError, match="has 2 bands, but 1 names"):
        RasterScene.open([SceneFile(file, ("red",))])


def test_a_stac_offset_stands_for_that_of_the_baseline(tmp_path: Path, write_raster: Write) -> None:
    tags = {"PROCESSING_BASELINE": "05.09"}
    file = str(write_raster(tmp_path / "B02.tif", levels(1500), tags=tags))
    with RasterScene.open([SceneFile(file, scale=1e-4, offset=-0.1)]) as scene:
        assert read(scene)[0][0, 0, 0] == pytest.approx(0.05)
        assert scene.notes == []
    with RasterScene.open([SceneFile(file, offset=0.0)]) as scene:
        assert read(scene)[0][0, 0, 0] == 1500


@pytest.mark.parametrize(("crs", "origin", "res"), [
    ("EPSG:32633", (500_000, 5_200_000), 10), ("EPSG:4326", (15.0, 47.0), 0.0001),
    ("EPSG:3413", (-200_000, -900_000), 10), ("EPSG:4326", (179.998, 10.0), 0.0001),
])  # fmt: skip
def test_a_box_cuts_the_pixels_that_meet_it(
    tmp_path: Path, write_raster: Write, crs: str, origin: Any, res: float
) -> None:
    values = np.arange(2500, dtype=np.uint16).reshape(1, 50, 50) + 1
    file = str(write_raster(tmp_path / "a.tif", values, crs=crs, origin=origin, res=res))
    with RasterScene.open([file]) as scene:
        lon, lat = scene.xy(np.array([20.2, 29.8, 29.8, 20.2]), np.array([10.2, 10.2, 17.7, 17.7]))
        unrolled = np.unwrap(lon, period=360)
        west, east = (float((v + 180) % 360 - 180) for v in (unrolled.min(), unrolled.max()))
    with RasterScene.open([file], Reading(bbox=(west, lat.min(), east, lat.max()))) as scene:
        top, left = scene.first_px
        assert top <= 10
        assert left <= 20
        assert top + scene.height >= 18
        assert left + scene.width >= 30
        if crs != "EPSG:3413":  # there a box of degrees lies aslant
            assert (top, left, scene.height, scene.width) == (10, 20, 8, 10)
        pixels, _ = read(scene)
        assert (pixels[0] == values[0, top:, left:][: scene.height, : scene.width]).all()
        assert scene.xy(np.array([20.2 - left]), np.array([10.2 - top]))[0] == pytest.approx(lon[0])


def test_a_box_elsewhere_and_one_around_everything(tmp_path: Path, write_raster: Write) -> None:
    file = str(write_raster(tmp_path / "a.tif", levels(1)))
    for box in ((16.0, 46.0, 17.0, 47.0), (-165.1, 46, -165, 47), (15, -47, 15.1, -46)):
        with pytest.raises(InputError, match=r"does not meet the scene, which covers 15, 46\.9"):
            RasterScene.open([file], Reading(bbox=box))
    for box in ((-180.0, -90.0, 180.0, 90.0), (170.0, 40.0, 16.0, 50.0)):
        with RasterScene.open([file], Reading(bbox=box)) as scene:
            assert (scene.height, scene.width, scene.first_px) == (20, 20, (0, 0))


def test_a_box_is_read_without_the_rest(tmp_path: Path, write_raster: Write) -> None:
    """Blocks outside the box are damaged: who touched them would fail."""
    import rasterio

    values = np.random.default_rng(0).integers(1, 2000, (1, 512, 512)).astype(np.uint16)
    file = write_raster(
        tmp_path / "a.tif", values, compress="deflate", tiled=True, blockxsize=128, blockysize=128
    )
    with rasterio.open(file) as dataset:
        starts = [
            int(dataset.get_tag_item(f"BLOCK_OFFSET_{i}_{j}", "TIFF", bidx=1))
            for i in range(4) for j in range(4) if (i, j) != (1, 2)
        ]  # fmt: skip
    data = bytearray(file.read_bytes())
    for start in starts:
        data[start : start + 64] = b"\xff" * 64
    file.write_bytes(data)
    with RasterScene.open([str(file)], Reading(detect_nodata=False)) as scene:
        box = scene.grid.part(260, 130, 120, 120).bounds
        with pytest.raises(SourceError, match=r"a\.tif' is damaged"):
            scene.read(0, 0, 64, 64)
    with RasterScene.open([str(file)], Reading(bbox=box)) as scene:
        top, left = scene.first_px
        assert (read(scene)[0][0] == values[0, top:, left:][: scene.height, : scene.width]).all()


def test_the_pixel_size_can_be_chosen(tmp_path: Path, write_raster: Write) -> None:
    rng = np.random.default_rng(1)
    values = rng.uniform(1, 100, (2, 41, 40)).astype(np.float32)
    values[:, :4, :4] = -1
    values[:, 8, 8] = -1
    file = str(write_raster(tmp_path / "a.tif", values, nodata=-1))
    with RasterScene.open([file], Reading(gsd_m=10.0)) as scene:
        assert (read(scene)[0] == values).all()
        assert scene.notes == []
        plain = scene.reading_rule()
    with RasterScene.open([file], Reading(gsd_m=20.0)) as scene:
        pixels, valid = read(scene)
        assert (scene.height, scene.width) == (20, 20)
        assert scene.transform[:6] == (20, 0, 500_000, 0, -20, 5_200_000)
        means = values[:, :40].reshape(2, 20, 2, 20, 2).mean(axis=(2, 4))
        assert np.argwhere(~valid).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
        valid[4, 4] = False
        assert np.allclose(pixels[:, valid], means[:, valid], rtol=1e-5)
        assert (pixels[:, 4, 4] > 0).all()  # of the three that are there
        assert "resampled from pixels of 10 x 10 m to 20" in scene.notes[0]
        assert scene.reading_rule() != plain
    with RasterScene.open([file], Reading(gsd_m=5.0)) as scene:
        pixels, valid = read(scene)
        assert (scene.height, scene.width) == (82, 80)
        assert valid[20:30, 20:30].all()
        assert values[0].max() >= pixels[0][valid].max() > 90
    for size, message in ((0.0, "above 0"), (-1.0, "above 0"), (500.0, "larger than the scene")):
        with pytest.raises(InputError, match=message):
            RasterScene.open([file], Reading(gsd_m=size))


def test_a_scene_on_a_given_grid(tmp_path: Path, write_raster: Write) -> None:
    values = np.full((1, 60, 60), 100, np.uint16)
    values[0, 20:30, 20:30] = 0
    file = str(write_raster(tmp_path / "a.tif", values, nodata=0))
    to_lonlat = pyproj.Transformer.from_crs("EPSG:32633", "OGC:CRS84", always_xy=True)
    west, north = to_lonlat.transform(500_000, 5_200_000)
    grid = TargetGrid(pyproj.CRS(4326).to_wkt(), Affine(1e-4, 0, west, 0, -1e-4, north), 70, 50)
    with RasterScene.open([file], Reading(gsd_m=30, bbox=(0, 0, 1, 1)), grid) as scene:
        pixels, valid = read(scene)
        assert (scene.height, scene.width, scene.bands) == (50, 70, ("a",))
    row, col = np.mgrid[:50, :70] + 0.5
    x, y = to_lonlat.transform(west + col * 1e-4, north - row * 1e-4, direction="INVERSE")
    j, i = np.floor((x - 500_000) / 10).astype(int), np.floor((5_200_000 - y) / 10).astype(int)
    inside = (i >= 0) & (j >= 0) & (i < 60) & (j < 60)
    there = inside & ~((i >= 20) & (i < 30) & (j >= 20) & (j < 30))
    assert (valid == there).all()
    assert (pixels[0][valid] == 100).all()


def test_files_that_are_not_reached(tmp_path: Path) -> None:
    for uri in ("http://127.0.0.1:9/a.tif?sig=secret", "/vsicurl/http://127.0.0.1:9/a.tif"):
        with pytest.raises(SourceError, match="cannot be opened") as caught:
            RasterScene.open([uri])
        assert "127.0.0.1:9/a.tif" in str(caught.value)
        assert "Check the address" in str(caught.value)
        assert "secret" not in str(caught.value)
    with pytest.raises(SourceError, match="There is no file"):
        RasterScene.open([str(tmp_path / "no.tif")])
    with pytest.raises(InputError, match="No file was given"):
        RasterScene.open([])


@pytest.mark.shared_data
def test_a_real_patch_without_names(shared: Path) -> None:
    for file in sorted((shared / "satclip-samples").rglob("patch_*.tif"))[:2]:
        with RasterScene.open([str(file)]) as scene:
            assert scene.bands == tuple(f"B{i}" for i in range(1, 13))
        names = (*(f"B0{i}" for i in range(1, 9)), "B8A", "B09", "B11", "B12")
        with RasterScene.open([str(file)], Reading(bands=names)) as scene:
            assert scene.bands == names
            scene.take([BandWant("B8A", "nir08", 0.865)])
            assert read(scene)[1].all()


@pytest.mark.shared_data
def test_carolina_has_its_chips(shared: Path) -> None:
    files = sorted((shared / "sentinel2-carolina" / "sentinel-2").glob("B0*.tif"))
    with RasterScene.open([str(file) for file in files]) as scene:
        grid = ChipGrid(scene, chip_layout(scene, "160m", None))
        assert sum(len(grid.read(batch).place) for batch in grid.batches()) == 10_201
