"""The map of a search: places drawn where they lie, in the order of their colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from PIL import Image
from pyproj import Transformer
from rasterio.transform import from_origin

from embeddings.errors import BandError, InputError, SourceError
from embeddings.picture import draw_results

EMPTY = (226, 228, 230)
HEADER, MARGIN = 54, 18


def write_tif(
    path: Path, values: np.ndarray, crs: str | None = "EPSG:32633", res: float = 10
) -> Path:
    count, height, width = values.shape
    origin = (15.0, 47.0) if crs == "EPSG:4326" else (500_000, 5_200_000)
    with rasterio.open(
        path, "w", driver="GTiff", dtype=values.dtype, count=count, width=width, height=height,
        crs=crs, transform=from_origin(*origin, res, res),
    ) as file:  # fmt: skip
        file.write(values)
    return path


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """900 x 600 pixels of 10 m; the left third is 0."""
    values = np.random.default_rng(0).integers(90, 110, (3, 600, 900)).astype(np.uint8)
    values[:, :, :300] = 0
    return write_tif(tmp_path / "scene.tif", values)


def square(column: int, row: int, side: int = 60) -> shapely.Polygon:
    """A footprint in degrees around a pixel of the scene."""
    to_lonlat = Transformer.from_crs("EPSG:32633", "OGC:CRS84", always_xy=True)
    box = shapely.box(column - side / 2, row - side / 2, column + side / 2, row + side / 2)
    corners = shapely.get_coordinates(box) * 10 * (1, -1) + (500_000, 5_200_000)
    return shapely.Polygon(np.stack(to_lonlat.transform(*corners.T), axis=1))


def draw(scene: Path | list[Path], out: Path, results: list, similarity: list, **more: object):
    bands = scene if isinstance(scene, list) else [scene]
    draw_results(out, bands, square(450, 300), results, similarity, "Like this", **more)
    with Image.open(out) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def map_part(page: np.ndarray) -> np.ndarray:
    return page[HEADER : HEADER + 600, MARGIN : MARGIN + 900]


def test_places_are_drawn_where_they_lie(scene: Path, tmp_path: Path) -> None:
    without = draw(scene, tmp_path / "a.png", [], [])
    page = draw(scene, tmp_path / "b.png", [square(700, 150), square(120, 420)], [0.2, 0.9])
    # The rim of an antialiased line differs a little; the line itself by much more.
    rows, cols = np.nonzero(np.abs(map_part(page) - map_part(without)).max(axis=2) > 64)
    left, right = cols < 450, cols >= 450
    for part, column, row in ((right, 700, 150), (left, 120, 420)):
        found = cols[part].min(), cols[part].max(), rows[part].min(), rows[part].max()
        wanted = (column - 30, column + 30, row - 30, row + 30)
        assert np.abs(np.subtract(found, wanted)).max() <= 4


def test_similar_places_are_lighter_and_on_top(scene: Path, tmp_path: Path) -> None:
    apart = [square(700, 150), square(700, 450)]
    page = map_part(draw(scene, tmp_path / "a.png", apart, [0.2, 0.9]))
    least, most = (168, 52, 226), (246, 250, 60)
    assert page[150, 670].tolist() == pytest.approx(least, abs=12)
    assert page[450, 670].tolist() == pytest.approx(most, abs=12)
    crossing = [square(700, 450), square(740, 450)]
    for order in (1, -1):
        # The right edge of the first lies inside the second, and shows only where it is on top.
        page = map_part(draw(scene, tmp_path / "b.png", crossing, [0.2, 0.9][::order]))
        edge = page[450, 730].tolist()
        assert (edge == pytest.approx(most, abs=12)) == (order == -1)


def test_the_query_is_marked_even_without_results(scene: Path, tmp_path: Path) -> None:
    page = map_part(draw(scene, tmp_path / "a.png", [], []))
    near = page[230:371, 380:521].reshape(-1, 3)
    assert (near == 255).all(axis=1).sum() > 300
    assert (near < 40).all(axis=1).sum() > 300
    assert not (page[:200] == 255).all(axis=2).any()


def test_no_data_is_light_grey(scene: Path, tmp_path: Path) -> None:
    untold = map_part(draw(scene, tmp_path / "a.png", [], []))
    told = map_part(draw(scene, tmp_path / "b.png", [], [], nodata=0))
    assert (told[:, :299] == EMPTY).all()
    assert not (told[:200, 302:] == EMPTY).all(axis=2).any()
    assert (untold[:, :299] < 20).all()


def test_three_files_make_the_picture_of_one(scene: Path, tmp_path: Path) -> None:
    with rasterio.open(scene) as file:
        values = file.read()
    files = [write_tif(tmp_path / f"{i}.tif", values[i : i + 1]) for i in range(3)]
    one = draw(scene, tmp_path / "one.png", [], [])
    assert np.array_equal(one, draw(files, tmp_path / "three.png", [], []))


@pytest.mark.parametrize("coarse", [0, 2])
def test_bands_of_several_resolutions_make_one_picture(tmp_path: Path, coarse: int) -> None:
    bands = []
    for i in range(3):
        side = 2 if i == coarse else 1
        values = np.full((1, 600 // side, 900 // side), 100, np.uint8)
        values[:, :, 450 // side :] = 200
        bands.append(write_tif(tmp_path / f"{i}.tif", values, res=10 * side))
    shown = map_part(draw(bands, tmp_path / "map.png", [], []))
    assert shown[100, 200].max() < 60
    assert shown[100, 700].min() > 200
    assert np.ptp(shown[100, 700]) <= 2


def test_a_value_that_no_band_can_hold_hides_nothing(scene: Path, tmp_path: Path) -> None:
    plain = draw(scene, tmp_path / "a.png", [], [])
    assert (draw(scene, tmp_path / "b.png", [], [], nodata=-9999.0) == plain).all()


def test_degrees_keep_the_proportions_on_the_ground(tmp_path: Path) -> None:
    values = np.ones((3, 500, 500), np.uint8)
    scene = write_tif(tmp_path / "degrees.tif", values, "EPSG:4326", 0.001)
    page = draw(scene, tmp_path / "a.png", [], [])
    height, width = page.shape[0] - HEADER - 64 - MARGIN // 2, page.shape[1] - 2 * MARGIN
    assert height == 900
    assert width / height == pytest.approx(np.cos(np.radians(46.75)), rel=0.01)


def test_large_scenes_are_decimated(tmp_path: Path) -> None:
    values = np.full((3, 300, 4000), 50, np.uint8)
    page = draw(write_tif(tmp_path / "wide.tif", values), tmp_path / "a.png", [], [])
    assert page.shape[1] == 1400 + 2 * MARGIN


def test_extremes_still_make_a_picture(scene: Path, tmp_path: Path) -> None:
    empty = write_tif(tmp_path / "empty.tif", np.zeros((3, 64, 64), np.uint8))
    assert (map_part(draw(empty, tmp_path / "a.png", [], [], nodata=0))[300:, :] == EMPTY).all()
    two = shapely.MultiPolygon([square(600, 100), square(800, 100)])
    draw(scene, tmp_path / "b.png", [two], [0.5], attribution="long words " * 60)


@pytest.mark.parametrize(
    ("bands", "error", "said"),
    [
        (["scene.tif"] * 2, BandError, "came with 2 band files: give three"),
        (["one.tif"], BandError, "has 1 of the three bands"),
        (["nowhere.tif"], SourceError, "has no CRS"),
        (["missing.tif"], SourceError, "cannot be read for the picture"),
    ],
)
def test_unusable_scenes(
    scene: Path, tmp_path: Path, bands: list[str], error: type[Exception], said: str
) -> None:
    write_tif(tmp_path / "one.tif", np.ones((1, 8, 8), np.uint8))
    write_tif(tmp_path / "nowhere.tif", np.ones((3, 8, 8), np.uint8), crs=None)
    with pytest.raises(error, match=said):
        draw([scene.parent / name for name in bands], tmp_path / "a.png", [], [])
    assert not (tmp_path / "a.png").exists()


def test_a_similarity_for_each_result(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 results came with 2 similarities"):
        draw(scene, tmp_path / "a.png", [square(1, 1)], [0.1, 0.2])


def test_a_failed_write_leaves_the_old_picture(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.nosuchformat" / "b.png"
    out.parent.write_text("a file where a folder is needed", encoding="utf-8")
    with pytest.raises(Exception, match=r"b\.png"):
        draw(scene, out, [], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nosuchformat", "scene.tif"]
