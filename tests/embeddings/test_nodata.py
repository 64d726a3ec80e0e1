"""Corners that hold nodata though no tag says so, against pixels that are merely saturated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.errors import InputError
from embeddings.raster_job import nodata_rule
from embeddings.sources.nodata import detect_corner_value
from embeddings.sources.raster import RasterScene
from embeddings.sources.reading import Reading

Write = Callable[..., Path]
Land = Callable[..., Any]


def cut_off(values: np.ndarray, fill: float) -> np.ndarray:
    """Fill the upper left triangle of 20 x 20 pixels in every band."""
    values = values.copy()
    for row in range(20):
        values[:, row, : 20 - row] = fill
    return values


def validity(*files: Path, **more: Any) -> tuple[np.ndarray, RasterScene]:
    with RasterScene.open([str(file) for file in files], Reading(**more)) as scene:
        return scene.read(0, 0, scene.height, scene.width)[1], scene


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [("uint8", 255), ("uint8", 0), ("uint16", 65535), ("uint16", 0), ("int16", -32768)],
)
@pytest.mark.parametrize("corner", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_a_filled_corner_is_found_and_told(
    tmp_path: Path, land: Land, write_raster: Write, dtype: str, fill: float, corner: Any
) -> None:
    down, right = corner
    values = cut_off(land(dtype=dtype), fill)[:, ::down, ::right]
    valid, scene = validity(write_raster(tmp_path / "a.tif", values))
    assert scene.nodata == fill
    assert (valid == (values != fill).any(axis=0)).all()
    assert f"a corner holds {fill:g} in every band" in scene.notes[0]
    assert "--nodata none" in scene.notes[0]


def test_a_saturated_band_in_the_corner_is_data(
    tmp_path: Path, land: Land, write_raster: Write
) -> None:
    values = land(dtype="uint8")
    values[0, :20, :20] = 255
    valid, scene = validity(write_raster(tmp_path / "a.tif", values))
    assert (scene.nodata, valid.all()) == (None, True)


def test_a_saturated_pixel_of_one_band_stays_where_255_is_nodata(
    tmp_path: Path, land: Land, write_raster: Write
) -> None:
    values = cut_off(land(dtype="uint8"), 255)
    values[1, 50, 60] = 255
    valid, _ = validity(write_raster(tmp_path / "a.tif", values))
    assert valid[50, 60]
    assert not valid[0, 0]


def test_an_odd_corner_pixel_is_no_nodata(tmp_path: Path, land: Land, write_raster: Write) -> None:
    values = land(dtype="uint8")
    values[:, 0, 0] = 255
    valid, scene = validity(write_raster(tmp_path / "a.tif", values))
    assert (scene.nodata, valid.all()) == (None, True)


def test_another_value_in_a_corner_is_data(tmp_path: Path, land: Land, write_raster: Write) -> None:
    valid, scene = validity(write_raster(tmp_path / "a.tif", cut_off(land(), 1500)))
    assert (scene.nodata, valid.all()) == (None, True)


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [
        ("int16", -9999),
        ("int32", -32768),
        ("float32", -9999),
        ("float32", -3.4028235e38),
        ("float64", -3.4028234663852886e38),
        ("float32", 1e20),
        ("float64", -1.7976931348623157e308),
        ("int32", -99),
        ("float32", -1e4),
        ("uint16", 60000),
    ],
)
def test_the_usual_fills_and_what_stands_apart_are_found(
    tmp_path: Path, land: Land, write_raster: Write, dtype: str, fill: float
) -> None:
    values = cut_off(np.maximum(land(dtype=dtype), 500), fill)
    valid, scene = validity(write_raster(tmp_path / "a.tif", values))
    assert scene.nodata == np.dtype(dtype).type(fill)
    assert int((~valid).sum()) == 210


@pytest.mark.parametrize(("dtype", "water"), [("uint8", 8), ("uint8", 120), ("uint16", 300)])
def test_flat_water_in_a_corner_is_data(
    tmp_path: Path, land: Land, write_raster: Write, dtype: str, water: int
) -> None:
    values = np.maximum(land(dtype=dtype), water + 1)
    values[:, :50] = water
    valid, scene = validity(write_raster(tmp_path / "a.tif", values))
    assert (scene.nodata, valid.all()) == (None, True)


def test_what_the_user_says_counts_in_any_band(
    tmp_path: Path, land: Land, write_raster: Write
) -> None:
    values = land(dtype="uint8")
    values[1, 50, 60] = 255
    fine = write_raster(tmp_path / "a.tif", values)
    valid, _ = validity(fine, nodata=255.0)
    assert np.argwhere(~valid).tolist() == [[50, 60]]
    coarse = np.full((1, 48, 48), 40, np.uint8)
    coarse[0, 3, 4] = 255
    coarse_file = write_raster(tmp_path / "b.tif", coarse, res=20)
    valid, _ = validity(fine, coarse_file, nodata=255.0)
    assert not valid[6:8, 8:10].any()
    assert int((~valid).sum()) == 5
    for elsewhere in (-9999.0, 0.5, 1e300):  # no value of an 8-bit file
        valid, _ = validity(fine, coarse_file, nodata=elsewhere)
        assert valid.all()
    floats = write_raster(tmp_path / "c.tif", coarse.astype(np.float32), res=20)
    for elsewhere in (-3.4028235e38, 1e300):
        valid, _ = validity(fine, floats, nodata=elsewhere)
        assert valid.all()


def test_one_saturated_band_of_any_resolution_is_data(
    tmp_path: Path, land: Land, write_raster: Write
) -> None:
    fine = cut_off(land(bands=2, dtype="uint8"), 255)
    coarse = np.full((1, 48, 48), 40, np.uint8)
    for row in range(10):
        coarse[:, row, : 10 - row] = 255
    coarse[0, 30, 30] = 255
    fine[:, 80, 20] = 255
    files = [
        write_raster(tmp_path / "fine.tif", fine),
        write_raster(tmp_path / "coarse.tif", coarse, res=20),
    ]
    with RasterScene.open([str(file) for file in files]) as scene:
        values, valid = scene.read(0, 0, 96, 96)
        assert scene.nodata == 255
        assert valid[60:62, 60:62].all()
        assert (values[2, 60:62, 60:62] == 255).all()
        assert valid[80, 20]
        # Windows meet without a seam: the mask does not depend on how the scene is read.
        pieces = [scene.read(row, 0, 3, 96)[1] for row in range(0, 96, 3)]
    assert (np.concatenate(pieces) == valid).all()
    filled = (fine == 255).all(axis=0)
    filled[80, 20] = False
    assert not valid[filled].any()
    assert (values[2][valid & (values[2] != 255)] == 40).all()
    assert int((values[2][valid] == 255).sum()) == 4


def test_where_a_file_declares_nodata_nothing_is_guessed(
    tmp_path: Path, land: Land, write_raster: Write
) -> None:
    values = cut_off(land(dtype="uint8"), 255)
    valid, scene = validity(write_raster(tmp_path / "a.tif", values, nodata=250))
    assert (scene.nodata, valid.all()) == (None, True)


def test_the_user_decides(tmp_path: Path, land: Land, write_raster: Write) -> None:
    values = cut_off(land(), 4242)
    values[:, 90, 90] = 0
    file = write_raster(tmp_path / "a.tif", values)
    valid, _ = validity(file, nodata=4242.0)
    assert (valid == (values != 4242).any(axis=0)).all()
    valid, _ = validity(write_raster(tmp_path / "b.tif", cut_off(land(), 0)), detect_nodata=False)
    assert valid.all()


def test_a_float_scene_may_hide_zeros(tmp_path: Path, land: Land, write_raster: Write) -> None:
    values = cut_off(land(dtype="float32"), 0)
    valid, scene = validity(write_raster(tmp_path / "a.tif", values))
    assert (scene.nodata, int((~valid).sum())) == (0, 210)


@pytest.mark.parametrize("told", [True, False])
def test_nodata_does_not_leak_through_resampling(
    tmp_path: Path, land: Land, write_raster: Write, told: bool
) -> None:
    fine = cut_off(land(bands=1, dtype="uint8"), 255)
    coarse = np.full((1, 48, 48), 40, np.uint8)
    for row in range(9):  # a coarse pixel less than in the fine band
        coarse[:, row, : 9 - row] = 255
    valid, scene = validity(
        write_raster(tmp_path / "fine.tif", fine),
        write_raster(tmp_path / "coarse.tif", coarse, res=20),
        **({"nodata": 255.0} if told else {}),
    )
    assert scene.nodata == 255
    with RasterScene.open([str(tmp_path / "fine.tif"), str(tmp_path / "coarse.tif")]) as again:
        values, _ = again.read(0, 0, 96, 96)
    assert not valid[fine[0] == 255].any()
    assert (values[1][valid] == 40).all()


def test_the_detector_alone() -> None:
    layers = np.ones((2, 100, 100), np.uint8)
    assert detect_corner_value(layers, "uint8") is None
    layers[:, -5:, -5:] = 255
    assert detect_corner_value(layers, "uint8") == 255
    layers[1, -1, -1] = 254
    assert detect_corner_value(layers, "uint8") is None


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (None, (None, True)),
        ("none", (None, False)),
        ("255", (255.0, False)),
        ("-9999", (-9999.0, False)),
        (0, (0.0, False)),
        ("nan", (None, False)),
    ],
)
def test_what_the_user_may_say(text: Any, rule: tuple) -> None:
    assert nodata_rule(text) == rule


def test_what_the_user_may_not_say() -> None:
    with pytest.raises(InputError, match="--nodata black is not a number"):
        nodata_rule("black")
