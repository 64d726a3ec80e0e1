"""Rasters of classes and numbers become labels of chips: shares, names, nodata, windows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from rasterio.warp import Resampling, calculate_default_transform, reproject

from embeddings.errors import InputError, SourceError
from embeddings.probe import raster_matching
from embeddings.probe.joining import join
from embeddings.probe.label_classes import FieldOptions
from embeddings.probe.label_raster import LabelRaster
from embeddings.probe.labelled import Joined, samples
from embeddings.probe.labels import LabelOptions, read_labels
from embeddings.probe.vector_join import JoinOptions
from embeddings.store import Collection
from embeddings.store.reader import Reader
from tests.embeddings.label_data import SIDE, square_chips

Write = Callable[..., Path]
PIXELS = 5
"""Along one side of a chip."""
GRID = Affine(SIDE / PIXELS, 0, 10.0, 0, -SIDE / PIXELS, 50.0)


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """10 x 10 chips of 5 x 5 pixels of the rasters here; read only."""
    return square_chips(tmp_path_factory.mktemp("chips") / "squares")


@pytest.fixture
def pixels() -> np.ndarray:
    """Class 1 in the west, 2 in the east of column 4 and 60 % of it, nodata in the last chips."""
    values = np.full((1, 50, 50), 1, np.uint8)
    values[:, :, 22:] = 2
    values[:, 45:, 45:] = 0
    return values


def named(collection: Collection, joined: Joined) -> dict[str, str]:
    names = Reader(collection).rows(joined.rows)["id"].to_pylist()
    return dict(zip(names, [joined.classes[c] for c in joined.target], strict=True))


def joined_of(
    collection: Collection, path: Path, options: JoinOptions | None = None, **more: Any
) -> Joined:
    return join(collection, read_labels(path, LabelOptions(**more)), options)


def test_a_chip_has_the_class_that_covers_most_of_it(
    chips: Collection, pixels: np.ndarray, write_raster: Write, tmp_path: Path
) -> None:
    path = write_raster(tmp_path / "c.tif", pixels, crs="EPSG:4326", transform=GRID, nodata=0)
    joined = joined_of(chips, path)
    found = named(chips, joined)
    assert len(found) == 99
    assert "9_9" not in found
    assert {name[2:] for name, c in found.items() if c == "1"} == {"0", "1", "2", "3"}
    assert found["0_4"] == "2"
    strict = joined_of(chips, path, JoinOptions("share", 0.7))
    assert len(strict) == 89
    assert strict.report.chips_dropped[0].count == 10
    assert [(c.name, c.labels, c.chips) for c in strict.report.classes] == [
        ("1", None, 40),
        ("2", None, 49),
    ]
    assert len(set(joined.group.tolist())) == 99
    assert len(samples(chips, joined)) == 99


def test_the_pixel_at_the_centre(
    chips: Collection, pixels: np.ndarray, write_raster: Write, tmp_path: Path
) -> None:
    pixels[:, :, 20:25] = 1
    pixels[0, 2, 22] = 2  # the centre of chip 0_4, in a chip of class 1
    path = write_raster(tmp_path / "c.tif", pixels, crs="EPSG:4326", transform=GRID, nodata=0)
    found = named(chips, joined_of(chips, path, JoinOptions("centre")))
    assert (found["0_4"], found["1_4"]) == ("2", "1")
    assert named(chips, joined_of(chips, path))["0_4"] == "1"


def test_several_classes_of_a_chip(
    chips: Collection, pixels: np.ndarray, write_raster: Write, tmp_path: Path
) -> None:
    path = write_raster(tmp_path / "c.tif", pixels, crs="EPSG:4326", transform=GRID, nodata=0)
    several = joined_of(
        chips, path, JoinOptions(min_share=0.3), values=FieldOptions(task="multilabel")
    )
    rows = several.rows.tolist()
    assert several.target[rows.index(4)].tolist() == [True, True]
    assert several.target[rows.index(3)].tolist() == [True, False]
    dropped = joined_of(chips, path, JoinOptions(min_share=0.3, conflicts="drop"))
    assert len(dropped) == 89


def test_numbers_are_the_mean_of_the_pixels(
    chips: Collection, write_raster: Write, tmp_path: Path
) -> None:
    values = np.tile(np.arange(50, dtype=np.float32), (1, 50, 1))
    values[0, :5, :3] = np.nan
    path = write_raster(tmp_path / "n.tif", values, crs="EPSG:4326", transform=GRID)
    joined = joined_of(chips, path)
    assert joined.task == "number"
    # Of chip 0_0, 40 % is known.
    assert joined.rows.tolist() == list(range(1, 100))
    np.testing.assert_allclose(joined.target, joined.rows % 10 * 5 + 2.0, atol=1e-4)
    little = joined_of(chips, path, JoinOptions(min_share=0.4))
    assert little.target[0] == pytest.approx(3.5)


def test_a_raster_in_another_crs_gives_nearly_the_same(
    chips: Collection, write_raster: Write, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    fine = rng.integers(1, 4, (10, 10)).repeat(20, 0).repeat(20, 1).astype(np.uint8)[None]
    grid = GRID @ Affine.scale(0.25)
    plain = write_raster(tmp_path / "c.tif", fine, crs="EPSG:4326", transform=grid, nodata=0)
    other = tmp_path / "u.tif"
    with rasterio.open(plain) as source:
        transform, width, height = calculate_default_transform(
            source.crs, "EPSG:32632", source.width, source.height, *source.bounds
        )
        moved = np.zeros((1, height, width), np.uint8)
        reproject(
            rasterio.band(source, 1),
            moved[0],
            dst_transform=transform,
            dst_crs="EPSG:32632",
            resampling=Resampling.nearest,
        )
    write_raster(other, moved, crs="EPSG:32632", transform=transform, nodata=0)
    first, second = (named(chips, joined_of(chips, p)) for p in (plain, other))
    assert first == second
    wanted = {f"{r}_{c}": str(fine[0, r * 20, c * 20]) for r in range(10) for c in range(10)}
    assert first == wanted


def test_windows_are_read_where_chips_lie(
    chips: Collection,
    pixels: np.ndarray,
    write_raster: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_raster(tmp_path / "c.tif", pixels, crs="EPSG:4326", transform=GRID, nodata=0)
    whole = named(chips, joined_of(chips, path))
    monkeypatch.setattr(raster_matching, "MOST_PIXELS", 60)
    assert named(chips, joined_of(chips, path)) == whole
    monkeypatch.setattr(raster_matching, "MOST_PIXELS", 9)  # less than one chip
    coarse = named(chips, joined_of(chips, path))
    assert {k: v for k, v in coarse.items() if k[2:] != "4"} == {
        k: v for k, v in whole.items() if k[2:] != "4"
    }


def test_a_global_raster_is_met_across_the_antimeridian(
    write_raster: Write, tmp_path: Path
) -> None:
    chips = square_chips(tmp_path / "date", 2, 8, origin=(179.96, 10.0))
    odd = square_chips(tmp_path / "odd", 2, 3, origin=(179.985, 10.0))  # one chip is cut in two
    values = np.full((1, 180, 360), 7, np.uint8)
    values[:, :, 0] = 3
    west = write_raster(
        tmp_path / "w.tif", values, crs="EPSG:4326", transform=Affine(1, 0, -180, 0, -1, 90)
    )
    rolled = np.roll(values, 180, axis=2)
    east = write_raster(
        tmp_path / "e.tif", rolled, crs="EPSG:4326", transform=Affine(1, 0, 0, 0, -1, 90)
    )
    for path in (west, east):
        found = named(chips, joined_of(chips, path))
        assert len(found) == 16
        assert {name for name, c in found.items() if c == "3"} == {
            f"{row}_{col}" for row in (0, 1) for col in (4, 5, 6, 7)
        }
        assert set(named(odd, joined_of(odd, path, JoinOptions(min_share=0.6)))) == {
            "0_0", "0_2", "1_0", "1_2",
        }  # fmt: skip


@pytest.mark.parametrize("kind", ["table", "categories", "vat"])
def test_names_of_classes_come_with_the_raster(
    chips: Collection, pixels: np.ndarray, write_raster: Write, tmp_path: Path, kind: str
) -> None:
    path = write_raster(tmp_path / "c.tif", pixels, crs="EPSG:4326", transform=GRID, nodata=0)
    aux = "<PAMDataset><PAMRasterBand band='1'>{}</PAMRasterBand></PAMDataset>"
    if kind == "table":
        field = "<FieldDefn index='{}'><Name>{}</Name><Usage>{}</Usage></FieldDefn>"
        fields = "".join(
            field.format(i, *each)
            for i, each in enumerate((("Count", 1), ("VALUE", 5), ("What", 2)))
        )
        rows = "<Row><F>9</F><F>1</F><F>Water</F></Row><Row><F>9</F><F>2</F><F>Wood</F></Row>"
        text = f"<GDALRasterAttributeTable>{fields}{rows}</GDALRasterAttributeTable>"
        Path(f"{path}.aux.xml").write_text(aux.format(text), encoding="utf-8")
    elif kind == "categories":
        names = "".join(f"<Category>{name}</Category>" for name in ("", "Water", "Wood"))
        text = aux.format(f"<CategoryNames>{names}</CategoryNames>")
        Path(f"{path}.aux.xml").write_text(text, encoding="utf-8")
    else:
        import pyogrio.raw

        pyogrio.raw.write(
            Path(f"{path}.vat.dbf"),
            None,
            [np.array([1, 2]), np.array(["Water", "Wood"], dtype=object)],
            fields=["Value", "Class_Name"],
            driver="ESRI Shapefile",
        )
    assert joined_of(chips, path).classes == ("Water", "Wood")


def test_bands_and_nodata_are_chosen(
    chips: Collection, pixels: np.ndarray, write_raster: Write, tmp_path: Path
) -> None:
    both = np.concatenate([pixels, np.full_like(pixels, 9)])
    path = write_raster(
        tmp_path / "c.tif", both, crs="EPSG:4326", transform=GRID, descriptions=("land", "other")
    )
    with pytest.raises(InputError, match="has 2 bands"):
        read_labels(path)
    with pytest.raises(InputError, match=r"no band 'x'. It has 2 band\(s\) named land, other"):
        read_labels(path, LabelOptions(field="x"))
    plain = joined_of(chips, path, field="land")
    assert plain.classes == ("0", "1", "2")
    assert "declares no nodata" in " ".join(plain.report.notes)
    assert joined_of(chips, path, field="1", nodata=0).classes == ("1", "2")


def test_rasters_that_cannot_be_labels(
    chips: Collection, pixels: np.ndarray, write_raster: Write, tmp_path: Path
) -> None:
    nowhere = write_raster(tmp_path / "n.tif", pixels, crs=None, transform=GRID)
    with pytest.raises(SourceError, match="--labels-crs"):
        read_labels(nowhere)
    for more in ({"layer": "land"}, {"date_field": "day"}):
        with pytest.raises(InputError, match="no layers and no field of dates"):
            read_labels(nowhere, LabelOptions(crs="EPSG:4326", **more))
    raster = read_labels(nowhere, LabelOptions(crs="EPSG:4326"))
    assert isinstance(raster, LabelRaster)
    assert len(join(chips, raster)) == 100
    with pytest.raises(InputError, match="The rule contains is for polygons"):
        join(chips, raster, JoinOptions("contains"))
    heights = np.arange(2500, dtype=np.int16).reshape(1, 50, 50)
    path = write_raster(tmp_path / "h.tif", heights, crs="EPSG:4326", transform=GRID)
    with pytest.raises(InputError, match="--task number"):
        joined_of(chips, path)
    decimal = write_raster(
        tmp_path / "d.tif", heights.astype(np.float32), crs="EPSG:4326", transform=GRID
    )
    with pytest.raises(InputError, match="holds float32, which are no classes"):
        read_labels(decimal, LabelOptions(values=FieldOptions(task="classes")))
    away = write_raster(
        tmp_path / "a.tif", pixels, crs="EPSG:4326", transform=Affine.translation(40, 0) @ GRID
    )
    with pytest.raises(InputError, match=r"cover 50, 49\.9, 50\.1, 50; the collection 10, 49\.9"):
        joined_of(chips, away)
    with pytest.raises(InputError, match="holds 3 classes"):
        joined_of(
            chips, away.with_name("n.tif"), crs="EPSG:4326", values=FieldOptions(task="positive")
        )


@pytest.mark.shared_data
def test_land_cover_of_a_real_scene(shared: Path, tmp_path: Path) -> None:
    path = shared / "landsat8-zion" / "raster" / "nlcd.tif"
    with rasterio.open(path) as file:
        values, bounds, crs = file.read(1), file.bounds, file.crs
    way = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    lon, lat = way.transform((bounds.left + bounds.right) / 2, (bounds.bottom + bounds.top) / 2)
    side = 0.02
    origin = (lon - 4 * side, lat + 4 * side)
    chips = square_chips(tmp_path / "zion", 8, 8, origin=origin, side=side)
    joined = joined_of(chips, path, JoinOptions(min_share=0.0))
    assert len(joined) == 64
    found = named(chips, joined)
    back = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    agree = 0
    for name, code in found.items():
        row, col = map(int, name.split("_"))
        west, north = origin[0] + col * side, origin[1] - row * side
        x, y = back.transform([west, west + side], [north - side, north])
        window = rasterio.windows.from_bounds(x[0], y[0], x[1], y[1], rasterio.open(path).transform)
        part = values[window.round_offsets().round_lengths().toslices()]
        agree += int(code) == np.bincount(part.ravel()).argmax()
    assert agree >= 62
