"""Mask bands: what the user may write, and which pixels it hides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embeddings.errors import BandError, InputError
from embeddings.sources.masks import MaskRule
from embeddings.sources.raster import RasterScene
from embeddings.sources.reading import Reading

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("text", "raw", "missing"),
    [
        ("SCL", [0, 1, 2, 3, 4, 7, 8, 9, 10, 11], [1, 1, 0, 1, 0, 0, 1, 1, 1, 0]),
        ("SCL=0,1,3,8,9,10,11", [0, 4, 11], [1, 0, 1]),
        ("QA_PIXEL", [1, 2, 4, 8, 16, 32, 64, 128, 21824], [1, 1, 1, 1, 1, 0, 0, 0, 0]),
        ("QA_PIXEL=bit3,bit4", [1, 8, 16, 24], [0, 1, 1, 1]),
        ("QA_PIXEL = bit3, 1", [1, 8, 16], [1, 1, 0]),
        ("cloud_mask=1", [0, 1, 2], [0, 1, 0]),
        ("probability>=40", [39, 40, 41], [0, 1, 1]),
        ("probability>40", [39, 40, 41], [0, 0, 1]),
        ("clear<0.5", [0.2, 0.5], [1, 0]),
        ("clear<=-1", [-1, 0], [1, 0]),
    ],
)
def test_what_means_missing(text: str, raw: list[float], missing: list[int]) -> None:
    rule = MaskRule.parse(text)
    assert rule.missing(np.array(raw)).tolist() == [bool(value) for value in missing]
    assert MaskRule.parse(rule.text) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clouds", "which values of clouds mean missing"),
        ("", "is not a mask"),
        ("=3", "is not a mask"),
        ("SCL=cloud", "is not a mask"),
        ("SCL=bit64", "is not a mask"),
        ("p>=many", "is not a mask"),
        ("SCL=", "is not a mask"),
    ],
)
def test_what_is_no_mask(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        MaskRule.parse(text)
    assert '"SCL=0,1,3,8,9,10"' in str(caught.value)


@pytest.fixture
def scene(tmp_path: Path, write_raster: Write) -> list[str]:
    """B02 and B03 of 10 m and a mask of 20 m whose upper half is class 9 (cloud)."""
    values = np.arange(1, 801, dtype=np.uint16).reshape(2, 20, 20)
    classes = np.full((1, 10, 10), 4, np.uint8)
    classes[0, :5] = 9
    classes[0, 7, 3] = 3
    return [
        str(write_raster(tmp_path / "B02.tif", values[:1])),
        str(write_raster(tmp_path / "B03.tif", values[1:])),
        str(write_raster(tmp_path / "T33_SCL_20m.tif", classes, res=20)),
    ]


def test_a_mask_band_hides_pixels_and_is_not_encoded(scene: list[str]) -> None:
    expected = np.ones((20, 20), bool)
    expected[:10] = False
    expected[14:16, 6:8] = False
    with RasterScene.open(scene, Reading(mask="SCL")) as opened:
        values, valid = opened.read(0, 0, 20, 20)
        part = opened.read(13, 5, 4, 4)[1]
        assert (opened.bands, opened.mask) == (("B02", "B03"), "SCL=0,1,3,8,9,10")
        assert opened.pixel_rule()["mask"] == opened.mask
        rule = opened.reading_rule()
        assert opened.files == tuple(scene)
        assert opened.notes == []
    assert (valid == expected).all()
    assert (part == expected[13:17, 5:9]).all()
    assert (values[1] == np.arange(401, 801).reshape(20, 20)).all()
    with RasterScene.open(scene, Reading(mask="SCL=9", bands=("B03", "SCL"))) as opened:
        assert opened.bands == ("B03",)
        assert opened.read(0, 0, 20, 20)[1].sum() == 200
        assert opened.reading_rule() != rule


def test_the_mask_may_be_a_band_that_only_bands_names(tmp_path: Path, write_raster: Write) -> None:
    values = np.full((3, 8, 8), 5, np.uint8)
    values[2, 0] = 9
    file = str(write_raster(tmp_path / "a.tif", values))
    with RasterScene.open([file], Reading(mask="SCL", bands=("B02", "B03", "SCL"))) as opened:
        assert opened.bands == ("B02", "B03")
        assert opened.read(0, 0, 8, 8)[1].sum() == 56


def test_a_mask_band_that_is_not_there(scene: list[str]) -> None:
    with pytest.raises(BandError, match="no mask band QA_PIXEL; it has B02, B03, T33_SCL_20m"):
        RasterScene.open(scene, Reading(mask="QA_PIXEL"))
    with pytest.raises(BandError, match="only the mask band"):
        RasterScene.open(scene[2:], Reading(mask="SCL"))
    with pytest.raises(BandError, match="may be any of"):
        MaskRule.parse("SCL").locate(["may_SCL", "june_SCL"])
