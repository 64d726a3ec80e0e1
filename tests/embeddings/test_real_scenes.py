"""The main job on real scenes: kin of a town, of the sea, of dunes; land cover against chance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.warp import Resampling, reproject

from embeddings.pipeline import RasterJob, embed_raster
from embeddings.search import Searcher, SearchQuery
from embeddings.spacing import distance_m
from embeddings.store import Collection, Store
from embeddings.store.reader import Reader
from embeddings.store.verify import verify
from embeddings.types import LonLat

pytestmark = pytest.mark.shared_data

TOWN = LonLat(-76.657, 34.718)
SEA = LonLat(-76.638, 34.650)
DUNES = LonLat(-76.606, 34.672)


def pixels(files: list[Path]) -> np.ndarray:
    bands = []
    for file in files:
        with rasterio.open(file) as dataset:
            bands.append(dataset.read(1))
    return np.stack(bands)


def places(collection: Collection) -> np.ndarray:
    """Row and column ``(n, 2)`` of every chip in the order of the rows."""
    ids = Reader(collection).items(limit=100_000)["id"].to_pylist()
    return np.array([[int(number) for number in name.rsplit("_", 2)[1:]] for name in ids])


@pytest.fixture(scope="module")
def carolina_files(shared: Path) -> list[Path]:
    return sorted((shared / "sentinel2-carolina" / "sentinel-2").glob("B0*.tif"))


@pytest.fixture(scope="module")
def carolina(
    tmp_path_factory: pytest.TempPathFactory, terrakin: Any, carolina_files: list[Path]
) -> Collection:
    """Embedded by the command, nothing said of the corners that hold 255."""
    store = tmp_path_factory.mktemp("carolina") / "store"
    done = terrakin(
        "embed", "raster", *carolina_files, "--chip", "160m", "--datetime", "2018-10-13",
        "--store", store, "--collection", "carolina",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "a corner holds 255 in every band: taken as nodata" in done.stderr
    return Store.open(store).collection("carolina")


@pytest.fixture(scope="module")
def chip_means(carolina: Collection, carolina_files: list[Path]) -> Callable[[str], np.ndarray]:
    """Band means of a chip by its id, read from the files without our code."""
    bands = pixels(carolina_files)
    assert carolina.spec.layout is not None
    height, width = carolina.spec.layout.chip_px

    def means(item: str) -> np.ndarray:
        row, col = (int(number) for number in item.rsplit("_", 2)[1:])
        chip = bands[:, row * height : (row + 1) * height, col * width : (col + 1) * width]
        return np.asarray(chip.mean(axis=(1, 2)))

    return means


def kin(collection: Collection, at: LonLat, k: int = 50) -> tuple[list[str], np.ndarray, Any]:
    """Ids of the kin of a place, their distances in metres, and their rows."""
    searcher = Searcher(Store(collection.path.parent))
    result = searcher.search(collection.id, SearchQuery(at, k=k, exclude_m=300))
    away = distance_m(at, *(result.matches[axis].to_numpy() for axis in ("lon", "lat")))
    assert away.min() > 280
    return result.matches["id"].to_pylist(), away, result.matches


def test_carolina_is_cut_into_160_m_and_no_corner_is_embedded(
    carolina: Collection, carolina_files: list[Path]
) -> None:
    layout = carolina.spec.layout
    assert layout is not None
    assert layout.chip_px == (20, 19)
    empty = (pixels(carolina_files) == 255).all(axis=0)
    height, width = layout.chip_px
    row, col = places(carolina).T
    windows = np.lib.stride_tricks.sliding_window_view(empty, (height, width))
    touched = windows[::height, ::width].any(axis=(2, 3))
    assert not touched[row, col].any()
    assert carolina.count == (~touched).sum() > 10_000
    assert carolina.scenes[0].absent == touched.sum()
    assert verify(carolina) == []


def test_town_finds_town_across_the_water(
    carolina: Collection, chip_means: Callable[[str], np.ndarray]
) -> None:
    ids, away, rows = kin(carolina, TOWN)
    infrared = np.array([chip_means(name)[7] for name in ids])
    assert infrared.min() > 60  # open water is below 20
    assert (away > 3000).sum() >= 5
    # Morehead City lies west of the Newport River, Beaufort east of it.
    assert (rows["lon"].to_numpy() < -76.69).any()


def test_sea_finds_sea(carolina: Collection, chip_means: Callable[[str], np.ndarray]) -> None:
    ids, _, _ = kin(carolina, SEA)
    assert max(chip_means(name)[7] for name in ids) < 20


def test_dunes_find_dunes(carolina: Collection, chip_means: Callable[[str], np.ndarray]) -> None:
    ids, _, rows = kin(carolina, DUNES)
    means = np.array([chip_means(name) for name in ids])
    assert means[:, 7].min() > 100
    # The banks lie south and east of the sound; town and forest lie north of it.
    assert (rows["lat"].to_numpy() < 34.70).mean() > 0.9


def test_vectors_of_real_scenes_do_not_bunch(carolina: Collection) -> None:
    vectors = np.concatenate([values for _, values in Reader(carolina).batches()])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    one, other = np.random.default_rng(0).integers(0, len(units), (2, 20_000))
    assert abs(np.median((units[one] * units[other]).sum(axis=1))) < 0.3


def precision_at_10(vectors: np.ndarray, classes: np.ndarray) -> float:
    """Mean share of the ten nearest by cosine that have the query's class, over all rows."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = units @ units.T
    np.fill_diagonal(similar, -np.inf)
    best = np.argpartition(-similar, 10, axis=1)[:, :10]
    return float((classes[best] == classes[:, None]).mean())


def test_zion_finds_its_land_cover_better_than_band_means(tmp_path: Path, shared: Path) -> None:
    folder = shared / "landsat8-zion" / "raster"
    files = sorted(folder.glob("landsat_b*.tif"))
    embed_raster(RasterJob(tmp_path / "store", "zion", tuple(map(str, files)), chip="16"))
    collection = Store.open(tmp_path / "store").collection("zion")
    with rasterio.open(files[0]) as scene, rasterio.open(folder / "nlcd.tif") as nlcd:
        cover = np.zeros(scene.shape, np.uint8)
        reproject(
            rasterio.band(nlcd, 1),
            cover,
            dst_transform=scene.transform,
            dst_crs=scene.crs,
            resampling=Resampling.nearest,
        )
    row, col = places(collection).T
    windows = np.lib.stride_tricks.sliding_window_view(cover, (16, 16))[::16, ::16][row, col]
    classes = np.array([np.bincount(chip.ravel()).argmax() for chip in windows])
    bands = np.lib.stride_tricks.sliding_window_view(pixels(files), (16, 16), axis=(1, 2))
    means = bands[:, ::16, ::16].mean(axis=(3, 4))[:, row, col].T
    vectors = np.concatenate([values for _, values in Reader(collection).batches()])
    known = classes > 0
    ours = precision_at_10(vectors[known], classes[known])
    raw = precision_at_10(means[known], classes[known])
    standard = precision_at_10(((means - means.mean(0)) / means.std(0))[known], classes[known])
    chance = float(((np.bincount(classes[known]) / known.sum()) ** 2).sum())
    assert ours > max(raw, standard) > chance, (ours, raw, standard, chance)
