"""Opening scenes: every CRS, transform, dtype and kind of mask, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from rasterio.transform import from_origin

from embeddings.errors import BandError, SourceError, SourceNotFoundError
from embeddings.sources.chips import chip_layout
from embeddings.sources.grids import TargetGrid
from embeddings.sources.raster import RasterScene
from embeddings.sources.reading import Reading
from embeddings.sources.remote import fingerprint_of

Write = Callable[..., Path]


def opened(*files: Path, **more: Any) -> RasterScene:
    return RasterScene.open([str(file) for file in files], Reading(**more))


def read(scene: RasterScene) -> tuple[np.ndarray, np.ndarray]:
    return scene.read(0, 0, scene.height, scene.width)


def flat(value: float = 100, size: int = 20, bands: int = 1, dtype: str = "uint16") -> np.ndarray:
    return np.full((bands, size, size), value, dtype)


@pytest.mark.parametrize(
    ("crs", "origin", "res"),
    [
        ("EPSG:32633", (500_000, 5_200_000), 10),
        ("EPSG:32733", (500_000, 6_200_000), 10),
        ("EPSG:4326", (15.0, 47.0), 0.0001),
        ("EPSG:3857", (1_670_000, 5_940_000), 10),
        ("EPSG:3035", (4_321_000, 3_210_000), 10),
        ("EPSG:3413", (-200_000, -900_000), 10),
    ],
)
def test_pixels_lie_where_pyproj_puts_them(
    tmp_path: Path, write_raster: Write, crs: str, origin: tuple[float, float], res: float
) -> None:
    file = write_raster(tmp_path / "a.tif", flat(), crs=crs, origin=origin, res=res)
    to_lonlat = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    with opened(file) as scene:
        lon, lat = scene.xy(np.array([0.0, 7.5]), np.array([0.0, 3.25]))
        x = np.array([origin[0], origin[0] + 7.5 * res])
        y = np.array([origin[1], origin[1] - 3.25 * res])
        assert np.allclose((lon, lat), to_lonlat.transform(x, y), atol=1e-9)


@pytest.mark.parametrize(
    ("crs", "origin", "res", "expected"),
    [
        ("EPSG:32633", (500_000, 5_200_000), 10, (10, 10)),
        # At 60 degrees north a degree of longitude is half as long, and Mercator is twice as wide.
        ("EPSG:4326", (15.0, 60.0), 0.001, (111.4, 55.8)),
        ("EPSG:3857", (1_670_000, 8_399_738), 10, (5, 5)),
    ],
)
def test_a_pixel_is_measured_on_the_ground_at_the_centre(
    tmp_path: Path, write_raster: Write, crs: str, origin: Any, res: float, expected: Any
) -> None:
    file = write_raster(tmp_path / "a.tif", flat(), crs=crs, origin=origin, res=res)
    with opened(file) as scene:
        assert scene.pixel_m == pytest.approx(expected, rel=0.005)
        assert scene.gsd_m == pytest.approx(np.sqrt(expected[0] * expected[1]), rel=0.005)
        layout = chip_layout(scene, "100m", None)
        assert layout.chip_px == tuple(max(1, round(100 / side)) for side in expected)


def test_a_bottom_up_raster_lies_the_right_way_up(tmp_path: Path, write_raster: Write) -> None:
    values = np.arange(400, dtype=np.uint16).reshape(1, 20, 20)
    up = Affine(10, 0, 500_000, 0, 10, 5_199_800)
    a = write_raster(tmp_path / "a.tif", values)
    b = write_raster(tmp_path / "b.tif", values[:, ::-1], transform=up)
    with opened(a) as north, opened(b) as south:
        assert south.pixel_m == pytest.approx(north.pixel_m, rel=1e-6)
        assert (read(south)[0][:, ::-1] == read(north)[0]).all()
        top = north.xy(np.array([3.5]), np.array([0.5]))
        bottom = south.xy(np.array([3.5]), np.array([19.5]))
        assert np.allclose(top, bottom, atol=1e-12)


def test_a_rotated_raster_keeps_its_place(tmp_path: Path, write_raster: Write) -> None:
    turned = from_origin(500_000, 5_200_000, 10, 10) @ Affine.rotation(30)
    file = write_raster(tmp_path / "a.tif", flat(), transform=turned)
    to_lonlat = pyproj.Transformer.from_crs("EPSG:32633", "OGC:CRS84", always_xy=True)
    with opened(file) as scene:
        assert scene.pixel_m == pytest.approx((10, 10), rel=0.001)
        x, y = turned * (4.0, 9.0)
        assert np.allclose(
            scene.xy(np.array([4.0]), np.array([9.0])), np.transpose([to_lonlat.transform(x, y)])
        )


def test_bands_are_named_by_file_or_description(tmp_path: Path, write_raster: Write) -> None:
    one = write_raster(tmp_path / "B02.tif", flat())
    two = write_raster(tmp_path / "B03.tif", flat(), descriptions=("green",))
    many = write_raster(tmp_path / "s.tif", flat(bands=2), descriptions=("red", None))
    with opened(one, two) as scene:
        assert scene.bands == ("B02", "B03")
    with opened(many) as scene:
        assert scene.bands == ("red", "B2")
    twin = write_raster(tmp_path / "twin" / "B02.tif", flat())
    with pytest.raises(BandError, match="Two bands have the same name"):
        opened(one, twin)


def test_bands_of_several_files_are_told_apart(tmp_path: Path, write_raster: Write) -> None:
    alpha = np.full((20, 20), 255, np.uint8)
    files = [
        write_raster(tmp_path / "may.tif", flat(bands=2), descriptions=("red", None)),
        write_raster(tmp_path / "june.tif", flat(bands=2), descriptions=("red", None)),
        write_raster(tmp_path / "slope.tif", flat(dtype="uint8"), alpha=alpha),
    ]
    with opened(*files) as scene:
        assert scene.bands == ("may_red", "may_B2", "june_red", "june_B2", "slope")
    with opened(files[0]) as scene:
        assert scene.bands == ("red", "B2")


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 12])
def test_an_alpha_band_is_a_mask_and_no_band(
    tmp_path: Path, write_raster: Write, bands: int
) -> None:
    alpha = np.full((20, 20), 255, np.uint8)
    alpha[:5] = 0
    file = write_raster(tmp_path / "a.tif", flat(bands=bands, dtype="uint8"), alpha=alpha)
    with opened(file) as scene:
        assert len(scene.bands) == bands
        assert (read(scene)[1] == (alpha > 0)).all()
        assert scene.nodata is None


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 13])
@pytest.mark.parametrize("res", [10.0, 20.0])
def test_there_is_no_data_beside_a_file_however_many_bands_it_has(
    tmp_path: Path, write_raster: Write, bands: int, res: float
) -> None:
    values = np.full((bands, 20, 20), 7, np.uint16)
    with opened(write_raster(tmp_path / "a.tif", values)) as scene:
        # Ten pixels to the west of the file, and as many of its own as fit.
        transform = Affine(res, 0, 500_000 - 10 * res, 0, -res, 5_200_000)
        grid = TargetGrid(scene.grid.crs_wkt, transform, 20, 10)
        with scene.onto(grid) as moved:
            found, there = moved.read(0, 0, 10, 20)
    # GDAL's averages reach a pixel too far at the edge.
    assert not there[:, :9].any()
    assert there[:, 10:].all()
    assert (found[:, :, 10:] == 7).all()


def test_a_mask_band_masks(tmp_path: Path, write_raster: Write) -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[3:9, 2:7] = 255
    with opened(write_raster(tmp_path / "a.tif", flat(bands=2), mask=mask)) as scene:
        assert (read(scene)[1] == (mask > 0)).all()


def test_nodata_declared_by_one_band_counts_for_all(tmp_path: Path, write_raster: Write) -> None:
    values = flat()
    values[0, 4, 5] = 7
    a = write_raster(tmp_path / "a.tif", values, nodata=7)
    b = write_raster(tmp_path / "b.tif", flat(7))
    with opened(a, b) as scene:
        _, valid = read(scene)
        assert not valid[4, 5]
        assert valid.sum() == 399


@pytest.mark.parametrize("nodata", [np.nan, None])
def test_nan_is_no_data_declared_or_not(
    tmp_path: Path, write_raster: Write, nodata: float | None
) -> None:
    values = flat(0.5, dtype="float32", bands=2)
    values[0, 1, 1], values[1, 2, 2], values[0, 3, 3] = np.nan, np.inf, -np.inf
    with opened(write_raster(tmp_path / "a.tif", values, nodata=nodata)) as scene:
        _, valid = read(scene)
        assert np.argwhere(~valid).tolist() == [[1, 1], [2, 2], [3, 3]]


def test_the_files_own_scale_and_offset_apply(tmp_path: Path, write_raster: Write) -> None:
    file = write_raster(
        tmp_path / "a.tif", flat(200, bands=2), scales=(0.5, 1.0), offsets=(-10.0, 0.0)
    )
    with opened(file) as scene:
        values, _ = read(scene)
        assert (values[0].max(), values[1].max()) == (90, 200)
    with opened(file, offset=5) as scene:
        values, _ = read(scene)
        assert (values[0].max(), values[1].max()) == (92.5, 205)  # added before the scale


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [("03.01", 1500), ("04.00", 500), ("05.11", 500), ("soon", 1500), (None, 1500)],
)
def test_the_offset_of_sentinel_2_baselines(
    tmp_path: Path, write_raster: Write, baseline: str | None, expected: int
) -> None:
    tags = {"PROCESSING_BASELINE": baseline} if baseline else {}
    file = write_raster(tmp_path / "a.tif", flat(1500), tags=tags)
    with opened(file) as scene:
        assert read(scene)[0].max() == expected
        told = [note for note in scene.notes if "-1000 was added" in note]
        assert len(told) == (expected == 500)
    with opened(file, offset=0.0) as scene:
        assert read(scene)[0].max() == 1500


def test_nodata_is_compared_before_the_offset(tmp_path: Path, write_raster: Write) -> None:
    values = flat(1500)
    values[0, :4] = 0
    with opened(write_raster(tmp_path / "a.tif", values), nodata=0.0, offset=-1000.0) as scene:
        pixels, valid = read(scene)
        assert valid.sum() == 16 * 20
        assert set(pixels[0][valid].tolist()) == {500}


def test_coarse_bands_are_resampled_onto_the_finest(tmp_path: Path, write_raster: Write) -> None:
    ramp = np.tile(np.arange(10, dtype=np.float32) * 100, (10, 1))[None]
    fine = write_raster(tmp_path / "fine.tif", flat(dtype="float32"))
    coarse = write_raster(tmp_path / "coarse.tif", ramp, res=20)
    with opened(coarse, fine) as scene:
        assert (scene.height, scene.width) == (20, 20)
        assert scene.bands == ("coarse", "fine")
        assert scene.notes == ["coarse.tif was resampled (bilinear) from 20 to 10 units a pixel."]
        values, valid = read(scene)
        assert valid.all()
        # Centres of fine pixels lie a quarter of a coarse pixel beside the coarse centres.
        assert values[0, 10, 2:18].tolist() == [25 + 50 * i for i in range(1, 17)]


def test_the_mask_of_a_coarse_band_is_kept(tmp_path: Path, write_raster: Write) -> None:
    mask = np.full((10, 10), 255, np.uint8)
    mask[:, :5] = 0
    fine = write_raster(tmp_path / "fine.tif", flat())
    coarse = write_raster(tmp_path / "coarse.tif", flat(size=10), res=20, mask=mask)
    with opened(fine, coarse) as scene:
        _, valid = read(scene)
        assert not valid[:, :10].any()
        assert valid[:, 10:].all()


def test_no_pixel_is_made_up_where_a_coarse_band_ends(tmp_path: Path, write_raster: Write) -> None:
    fine = write_raster(tmp_path / "fine.tif", flat())
    coarse = write_raster(tmp_path / "coarse.tif", flat(size=10)[:, :, :9], res=20)
    with opened(fine, coarse) as scene:
        values, valid = read(scene)
        assert not valid[:, 18:].any()
        assert (values[:, valid] == 100).all()


def test_one_set_of_bands_pairs_by_name_or_else_by_order(
    tmp_path: Path, write_raster: Write
) -> None:
    a = write_raster(tmp_path / "B02.tif", flat(1))
    b = write_raster(tmp_path / "B03.tif", flat(2))
    with opened(b, a) as scene:
        scene.pair(("B02", "B03"))
        assert read(scene)[0][:, 0, 0].tolist() == [1, 2]
        assert scene.notes == []
    with opened(b, a) as scene:
        scene.pair(("x", "y"))
        assert (scene.bands, read(scene)[0][:, 0, 0].tolist()) == (("x", "y"), [2, 1])
        assert "B03 as x, B02 as y" in scene.notes[0]
    for names in (("B02",), ("B02", "B04"), ("x", "y", "z")):
        with opened(a, b) as scene, pytest.raises(BandError, match="given: B02, B03"):
            scene.pair(names)


def test_files_that_cannot_be_used(tmp_path: Path, write_raster: Write) -> None:
    good = write_raster(tmp_path / "good.tif", flat())
    (tmp_path / "text.tif").write_text("not a raster")
    (tmp_path / "empty.tif").touch()
    write_raster(tmp_path / "nowhere.tif", flat(), crs=None)
    write_raster(tmp_path / "complex.tif", flat(dtype="complex64"))
    write_raster(tmp_path / "unplaced.tif", flat(), transform=Affine.identity())
    write_raster(tmp_path / "other_crs.tif", flat(), crs="EPSG:32634")
    write_raster(tmp_path / "far.tif", flat(), origin=(600_000, 5_200_000))
    write_raster(tmp_path / "shifted.tif", flat(size=10), res=20, origin=(500_030, 5_200_000))
    cases = [
        ("no.tif", SourceNotFoundError, "There is no file"),
        (".", SourceNotFoundError, "There is no file"),
        ("text.tif", SourceError, "is not a raster that GDAL can read"),
        ("empty.tif", SourceError, "is not a raster that GDAL can read"),
        ("nowhere.tif", SourceError, "has no CRS"),
        ("complex.tif", SourceError, "no bands of plain numbers"),
        ("unplaced.tif", SourceError, "no georeference"),
        ("other_crs.tif", BandError, "share one CRS"),
        ("far.tif", BandError, "do not share a place"),
        ("shifted.tif", BandError, "do not share a place"),
    ]
    for name, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            opened(good, tmp_path / name)
        assert name == "." or name in str(caught.value)


def test_a_damaged_file_is_an_error_in_words(tmp_path: Path, write_raster: Write) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2000, (1, 256, 256)).astype(np.uint16)
    file = write_raster(tmp_path / "a.tif", values, compress="deflate", tiled=True)
    with rasterio.open(file) as dataset:
        start = int(dataset.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
    data = bytearray(file.read_bytes())
    data[start : start + 64] = b"\xff" * 64
    file.write_bytes(data)
    with opened(file, detect_nodata=False) as scene, pytest.raises(SourceError, match="is damaged"):
        read(scene)


def test_files_beside_the_pixels_count_by_what_they_change(
    tmp_path: Path, write_raster: Write
) -> None:
    file = write_raster(tmp_path / "a.tif", flat())

    def identity() -> tuple[list[str], str]:
        with opened(file) as scene:
            return [fingerprint_of(name) for name in scene.files], scene.reading_rule()

    first = identity()
    with rasterio.open(file) as dataset:
        dataset.statistics(1)  # as QGIS does: writes a.tif.aux.xml
    (tmp_path / "a.tif.ovr").write_bytes(file.read_bytes())
    assert {path.name for path in tmp_path.iterdir()} == {"a.tif", "a.tif.aux.xml", "a.tif.ovr"}
    assert identity() == first
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(file, "r+") as dataset:
        dataset.write_mask(np.full((20, 20), 255, np.uint8))
    masked = identity()
    assert masked[0] != first[0]
    with rasterio.open(tmp_path / "a.tif.msk", "r+") as dataset:
        dataset.write(np.zeros((1, 20, 20), np.uint8))
    assert identity()[0] != masked[0]
    (tmp_path / "a.tif.msk").unlink()
    (tmp_path / "a.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><NoDataValue>7</NoDataValue></PAMRasterBand>"
        "</PAMDataset>"
    )
    assert identity()[1] != first[1]


def test_files_that_may_not_be_read(
    tmp_path: Path, write_raster: Write, closed: Callable[[Path], None]
) -> None:
    file = write_raster(tmp_path / "folder" / "a.tif", flat())
    with pytest.raises(SourceError, match="cannot be read"):
        opened(tmp_path / ("x" * 300))
    closed(file)
    for work in (opened, lambda path: fingerprint_of(str(path))):
        with pytest.raises(SourceError, match=r"cannot be read \(Permission denied"):
            work(file)
    closed(file.parent)
    with pytest.raises(SourceError, match=r"cannot be read \(Permission denied"):
        opened(file)
