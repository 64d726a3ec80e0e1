"""The made-up scene: what it promises to the demo and to other tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.lib.stride_tricks import sliding_window_view

from embeddings.errors import InputError
from embeddings.sources.synthetic import BANDS, COVERS, cover_map, write_scene

SIZE = 1024


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_scene(tmp_path_factory.mktemp("scene"), seed=0, size=SIZE)


@pytest.fixture(scope="module")
def pixels(scene: list[Path]) -> np.ndarray:
    bands = []
    for path in scene:
        with rasterio.open(path) as file:
            bands.append(file.read(1).astype(float))
    return np.stack(bands)


def test_files_are_tiled_reflectance_in_utm(scene: list[Path]) -> None:
    assert [path.name for path in scene] == ["B02.tif", "B03.tif", "B04.tif", "B08.tif"]
    for path, name in zip(scene, BANDS, strict=True):
        with rasterio.open(path) as file:
            assert (file.width, file.height, file.count, file.dtypes[0]) == (
                SIZE,
                SIZE,
                1,
                "uint16",
            )
            assert (file.crs.to_epsg(), file.res, file.nodata) == (32633, (10, 10), 0)
            assert (file.block_shapes[0], file.compression.value) == ((256, 256), "DEFLATE")
            assert file.descriptions == (name,)


def test_the_corner_without_data_is_the_maps_class_0(pixels: np.ndarray) -> None:
    empty = cover_map(0, SIZE) == 0
    assert 0.02 < empty.mean() < 0.1
    assert empty[0, 0]
    assert ((pixels == 0) == empty).all()
    assert pixels.max() <= 10_000


def test_every_cover_is_there(pixels: np.ndarray) -> None:
    share = np.bincount(cover_map(0, SIZE).ravel(), minlength=len(COVERS)) / SIZE**2
    assert share.min() > 0.02
    assert share.max() < 0.25
    assert pixels[3, cover_map(0, SIZE) == COVERS.index("water")].mean() < 400


def _chips(values: np.ndarray, side: int = 16) -> np.ndarray:
    windows = sliding_window_view(values, (side, side))[::side, ::side]
    return windows.reshape(-1, side, side)


def _power_by_frequency(chips: np.ndarray) -> np.ndarray:
    """Log power in eight rings of frequency, and how much the strongest wave stands out."""
    side = chips.shape[-1]
    power = np.abs(np.fft.rfft2(chips - 1)) ** 2
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    rings = [
        power[:, (frequency > (i + 0.5) / side) & (frequency <= (i + 1.5) / side)].mean(axis=1)
        for i in range(8)
    ]
    peak = power[:, frequency > 0.15].max(axis=1) / power[:, frequency > 0.15].mean(axis=1)
    return np.log(np.stack([*rings, peak], axis=1))


def _leave_one_out(features: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of the nearest neighbour among all others, features standardised."""
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    distance = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distance, np.inf)
    return float((labels[distance.argmin(axis=1)] == labels).mean())


def test_texture_tells_the_woody_covers_apart_and_mean_colour_does_not(pixels: np.ndarray) -> None:
    woody = [COVERS.index(name) for name in ("forest", "shrub", "orchard")]
    truth = _chips(cover_map(0, SIZE))
    pure = np.isin(truth[:, 0, 0], woody) & (truth == truth[:, :1, :1]).all(axis=(1, 2))
    labels = truth[pure, 0, 0]
    bands = np.stack([_chips(band)[pure] for band in pixels], axis=1)
    colour = bands.mean(axis=(2, 3))
    texture = _power_by_frequency(bands[:, 3] / bands[:, 3].mean(axis=(1, 2), keepdims=True))
    majority = np.bincount(labels).max() / len(labels)
    assert len(labels) > 150
    assert _leave_one_out(colour, labels) < majority + 0.2
    assert _leave_one_out(texture, labels) > _leave_one_out(colour, labels) + 0.15


def test_a_seed_gives_the_same_bytes_and_another_seed_another_scene(tmp_path: Path) -> None:
    first = write_scene(tmp_path / "a", seed=3, size=128)
    again = write_scene(tmp_path / "b", seed=3, size=128)
    other = write_scene(tmp_path / "c", seed=4, size=128)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert first[0].read_bytes() != other[0].read_bytes()
    assert np.array_equal(cover_map(3, 128), cover_map(3, 128))
    assert not np.array_equal(cover_map(3, 128), cover_map(4, 128))


def test_a_choice_of_bands_holds_the_same_pixels(tmp_path: Path) -> None:
    everything = write_scene(tmp_path / "all", size=128)
    (red,) = write_scene(tmp_path / "red", size=128, bands=["B04"], tag_nodata=False)
    with rasterio.open(red) as file, rasterio.open(everything[2]) as same:
        assert file.nodata is None
        assert np.array_equal(file.read(), same.read())


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no band \['B11'\]; it has \['B02'"):
        write_scene(tmp_path, bands=["B02", "B11"])
    with pytest.raises(InputError, match="63 pixels is too small: 64 or more"):
        write_scene(tmp_path, size=63)
    assert list(tmp_path.iterdir()) == []
