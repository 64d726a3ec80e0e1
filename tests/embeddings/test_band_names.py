"""Which band an encoder means: numbers, common names, sensors, what cannot be told apart."""

from __future__ import annotations

import pytest

from embeddings.encoders.base import BandWant
from embeddings.errors import BandError
from embeddings.sources.band_names import find, label, match

RED = BandWant("B04", "red", 0.665)
GREEN = BandWant("B03", "green", 0.560)
EDGE = BandWant("B05", "rededge1", 0.704)
NIR = BandWant("B08", "nir", 0.833)
SWIR = BandWant("B11", "swir16", 1.61)


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        ([RED, GREEN], ["B02", "B03", "B04"], [2, 1]),
        ([RED, GREEN], ["b2", "b3", "b4"], [2, 1]),
        ([RED, GREEN], ["Blue", "GREEN", "red"], [2, 1]),
        ([RED], ["T17SPU_20181013T155151_B02_10m", "T17SPU_20181013T155151_B04_10m"], [1]),
        ([EDGE, NIR], ["rededge2", "rededge071", "nir", "nir08"], [1, 2]),
        ([BandWant("B8A", "nir08", 0.865)], ["B08", "B8A"], [1]),
        # Landsat's numbers are others: its B5 is near infrared, its B6 short-wave infrared.
        ([RED, NIR, SWIR], ["LC08_T1_SR_B4", "LC08_T1_SR_B5", "LC08_T1_SR_B6"], [0, 1, 2]),
        ([RED, NIR], ["LT05_T1_SR_B3", "LT05_T1_SR_B4"], [0, 1]),
        ([BandWant("SR_B5", "nir08")], ["LC08_T1_SR_B4", "LC08_T1_SR_B5"], [1]),
        ([BandWant("VV"), BandWant("VH")], ["vh", "vv"], [1, 0]),
        ([BandWant("B5", "nir", 0.865)], ["red", "nir08"], [1]),
        # A plain name goes before a longer one.
        ([RED], ["red", "slope_red"], [0]),
        ([BandWant("red")], ["B03", "B04"], [1]),
        ([BandWant("swir2")], ["B11", "B12"], [1]),
    ],
)
def test_a_band_is_found_by_what_it_is(
    wanted: list[BandWant], there: list[str], expected: list[int]
) -> None:
    assert match(wanted, there) == expected


@pytest.mark.parametrize(
    ("want", "there"),
    [
        (EDGE, ["B02", "B03"]),
        (EDGE, ["LC09_SR_B4", "LC09_SR_B5"]),  # by number alone it would be Landsat's infrared
        (NIR, ["red", "nir08"]),  # 0.833 and 0.865 um are two bands of Sentinel-2
        (BandWant("B13"), ["B01", "B02"]),
    ],
)
def test_a_band_that_is_not_there_is_named(want: BandWant, there: list[str]) -> None:
    with pytest.raises(BandError) as caught:
        match([want], there)
    text = str(caught.value)
    assert f"needs band {label(want)}; the scene has {', '.join(there)}." in text
    assert "--bands" in text


def test_how_a_missing_band_is_described() -> None:
    with pytest.raises(BandError, match=r"needs band B05 \(rededge1, 0.704 um\); the scene has"):
        match([EDGE], ["B02"])
    assert label(BandWant("VV")) == "VV"


def test_a_band_is_given_once_and_doubt_is_an_error() -> None:
    with pytest.raises(BandError, match="may be any of may_red, june_red"):
        match([RED], ["may_red", "june_red"])
    two = [BandWant("a", "nir"), BandWant("b", "nir08")]
    assert find(two, ["LC08_SR_B5"]) == [0, None]
