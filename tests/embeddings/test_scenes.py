"""What is found in files, folders and patterns: which rasters make a scene, its name and date."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.errors import InputError, SourceError, SourceNotFoundError
from embeddings.sources.raster import RasterScene
from embeddings.sources.reading import SceneRef
from embeddings.sources.scene_dates import scene_time
from embeddings.sources.scenes import MosaicRef, describe, find_scenes
from embeddings.store.layout import check_scene

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, write_raster: Callable[..., Path], land: Callable[..., Any]) -> Make:
    """Write a raster of ``bands`` bands below the temporary folder; keywords as write_raster."""

    def write(name: str, bands: int = 1, **more: Any) -> Path:
        return write_raster(tmp_path / name, land(16, 16, bands), **more)

    return write


def found(*inputs: object, **more: Any) -> dict[str, list[str]]:
    """Names of the files of every scene, by id."""
    scenes = find_scenes([str(given) for given in inputs], **more)
    return {ref.id: [Path(file.uri).name for file in ref.files] for ref in scenes}


def test_files_of_different_bands_are_one_scene(make: Make, tmp_path: Path) -> None:
    files = [make(f"s2/{name}.tif") for name in ("B02", "B03", "B8A")]
    expected = {"s2": ["B02.tif", "B03.tif", "B8A.tif"]}
    assert found(*files) == expected
    assert found(tmp_path / "s2") == expected
    assert found(tmp_path / "s2" / "B*.tif") == expected
    assert found(*files, each=True) == {"B02": ["B02.tif"], "B03": ["B03.tif"], "B8A": ["B8A.tif"]}


def test_the_order_of_files_is_kept(make: Make) -> None:
    files = [make(f"s2/{name}.tif") for name in ("B04", "B02")]
    assert found(*files) == {"s2": ["B04.tif", "B02.tif"]}


def test_files_of_different_described_bands_are_one_scene(make: Make, tmp_path: Path) -> None:
    make("s/optical.tif", 2, descriptions=("red", "nir"))
    make("s/radar.tif", 2, descriptions=("vv", "vh"))
    make("s/height.tif")
    assert found(tmp_path / "s") == {"s": ["height.tif", "optical.tif", "radar.tif"]}


def test_files_of_the_same_bands_are_a_scene_each(make: Make, tmp_path: Path) -> None:
    for year in (1985, 1990, 1995):
        make(f"years/{year}.tif", 3)
    assert list(found(tmp_path / "years")) == ["1985", "1990", "1995"]
    make("described/a.tif", 2, descriptions=("red", "nir"))
    make("described/b.tif", 2, descriptions=("nir", "red"))
    assert list(found(tmp_path / "described")) == ["a", "b"]
    # What all bands are called names none of them: they are B1 and B2.
    make("alike/a.tif", 2, descriptions=("Gray", "Gray"))
    make("alike/b.tif", 2)
    assert list(found(tmp_path / "alike")) == ["a", "b"]


def test_folders_of_the_same_bands_are_a_scene_each(make: Make, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        for band in ("B02", "B03"):
            make(f"{folder}/{band}.tif")
    expected = {"first": ["B02.tif", "B03.tif"], "second": ["B02.tif", "B03.tif"]}
    assert found(tmp_path / "*" / "B*.tif") == expected
    assert found(tmp_path / "first", tmp_path / "second") == expected
    assert found(tmp_path / "*") == expected
    assert list(found(tmp_path / "second", tmp_path / "first")) == ["second", "first"]


def test_folders_are_looked_at_on_their_own(make: Make, tmp_path: Path) -> None:
    """Bands that carry the date in their names are not mixed up with those of another date."""
    for folder, day in (("imgs_1", "20160809"), ("imgs_2", "20180211")):
        for band in ("B02", "B03"):
            make(f"{folder}/T32_{day}_{band}.tif")
    scenes = find_scenes([str(tmp_path / "imgs_1"), str(tmp_path / "imgs_2")], datetime="%Y%m%d")
    assert [(ref.id, (ref.datetime or "")[:10]) for ref in scenes] == [
        ("imgs_1", "2016-08-09"),
        ("imgs_2", "2018-02-11"),
    ]


def test_bands_that_overlap_are_refused(make: Make, tmp_path: Path) -> None:
    make("mixed/a.tif", 3)
    make("mixed/b.tif", 4)
    with pytest.raises(InputError, match="neither the bands of one scene nor") as caught:
        find_scenes([str(tmp_path / "mixed")])
    text = str(caught.value)
    assert "a.tif' has B1, B2, B3" in text
    assert "b.tif' has B1, B2, B3, B4" in text
    assert "'--each' makes every file a scene" in text
    assert list(found(tmp_path / "mixed", each=True)) == ["a", "b"]
    make("one/B02.tif")
    make("one/B03.tif")
    make("two/B02.tif")
    with pytest.raises(InputError, match="neither the bands"):
        find_scenes([str(tmp_path / "one" / "*.tif"), str(tmp_path / "two" / "B02.tif")])


def test_ids_are_made_unique_the_same_way_every_time(make: Make, tmp_path: Path) -> None:
    for name in ("a/2020.tif", "b/2020.tif", "b/2021.tif", "x/b/2021.tif", "x/B/2021.tif"):
        make(name, 2)
    files = [
        tmp_path / name
        for name in ("a/2020.tif", "b/2020.tif", "b/2021.tif", "x/b/2021.tif", "x/B/2021.tif")
    ]
    ids = list(found(*files))
    assert ids == ["a-2020", "b-2020", "b-2021", "b-2021-2", "B-2021-3"]
    assert list(found(*files)) == ids
    assert all(check_scene(name) for name in ids)
    for folder in ("p", "q"):
        make(f"{folder}/img/B02.tif")
        make(f"{folder}/img/B03.tif")
    assert list(found(tmp_path / "p" / "img", tmp_path / "q" / "img")) == ["p-img", "q-img"]


def test_ids_of_names_that_no_file_system_likes(make: Make) -> None:
    assert list(found(make("Bild 1 (März).tif"))) == ["Bild-1-M-rz"]


def test_a_scene_is_named_by_the_user(make: Make, tmp_path: Path) -> None:
    file = make("a.tif", 2)
    assert list(found(file, scene="mine")) == ["mine"]
    make("b.tif", 2)
    with pytest.raises(InputError, match=r"2 were found: a, b\. Leave it out"):
        find_scenes([str(tmp_path)], scene="mine")
    with pytest.raises(InputError, match="cannot name a scene"):
        find_scenes([str(file)], scene="../x")


def test_other_files_of_a_folder_are_left_out(make: Make, tmp_path: Path) -> None:
    make("s/a.tif", 2)
    make("s/deeper/b.tif", 2)
    make("s/C.TIF", 2)
    for name in ("a.tif.aux.xml", "a.tif.ovr", "notes.txt", ".hidden.tif"):
        (tmp_path / "s" / name).write_bytes(b"x")
    assert found(tmp_path / "s") == {"C": ["C.TIF"], "a": ["a.tif"]}
    assert found(tmp_path / "s" / "**" / "*.tif") == {"a": ["a.tif"], "b": ["b.tif"]}


def test_inputs_that_hold_nothing_are_told(make: Make, tmp_path: Path) -> None:
    make("s/deeper/b.tif")
    with pytest.raises(InputError, match="No file was given"):
        find_scenes([])
    with pytest.raises(SourceNotFoundError, match=r"holds no raster .* folders are not searched"):
        find_scenes([str(tmp_path / "s")])
    with pytest.raises(SourceNotFoundError, match="No file that can be used matches"):
        find_scenes([str(tmp_path / "*.jpg")])
    with pytest.raises(SourceNotFoundError, match=r"no file '.*none\.tif'"):
        find_scenes([str(tmp_path / "none.tif")])
    file = str(tmp_path / "s" / "deeper" / "b.tif")
    with pytest.raises(InputError, match="was given twice"):
        find_scenes([file, file])
    with pytest.raises(InputError, match="--assets chooses among the assets of STAC"):
        find_scenes([file], assets=("red",))


def test_a_damaged_file_stops_its_own_scene_only(make: Make, tmp_path: Path) -> None:
    for year in (1985, 1990):
        make(f"years/{year}.tif", 2)
    (tmp_path / "years" / "1987.tif").write_bytes(b"no raster")
    assert list(found(tmp_path / "years")) == ["1985", "1987", "1990"]
    make("bands/B02.tif")
    (tmp_path / "bands" / "B03.tif").write_bytes(b"no raster")
    with pytest.raises(SourceError, match=r"B03\.tif' is not a raster"):
        find_scenes([str(tmp_path / "bands")])


def test_a_file_with_brackets_in_its_name_is_no_pattern(make: Make) -> None:
    assert found(make("a[1].tif")) == {"a-1": ["a[1].tif"]}


def test_vrt_and_paths_that_workers_can_open(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("s/B02.tif")
    (tmp_path / "s" / "all.vrt").write_text(
        '<VRTDataset rasterXSize="16" rasterYSize="16"><SRS>EPSG:32633</SRS>'
        "<GeoTransform>500000, 10, 0, 5200000, 0, -10</GeoTransform>"
        '<VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">B02.tif</SourceFilename><SourceBand>1</SourceBand>'
        '<SrcRect xOff="0" yOff="0" xSize="16" ySize="16"/>'
        '<DstRect xOff="0" yOff="0" xSize="16" ySize="16"/></SimpleSource></VRTRasterBand>'
        "</VRTDataset>"
    )
    monkeypatch.chdir(tmp_path / "s")
    (scene,) = find_scenes(["all.vrt"])
    (plain,) = find_scenes(["B02.tif"])
    monkeypatch.chdir(tmp_path)
    sent = pickle.loads(pickle.dumps(scene))
    assert sent == scene
    with RasterScene.open(sent.files) as virtual, RasterScene.open(plain.files) as real:
        assert np.array_equal(virtual.read(0, 0, 16, 16)[0], real.read(0, 0, 16, 16)[0])


def test_scenes_of_a_day_become_a_mosaic(make: Make, tmp_path: Path) -> None:
    for name in ("a_20200702", "b_20200701", "c_20200702"):
        make(f"days/{name}.tif", 2)
    options = {"datetime": "%Y%m%d", "mosaic": True}
    single, mosaic = find_scenes([str(tmp_path / "days")], **options)
    assert isinstance(single, SceneRef)
    assert single.id == "b_20200701"
    assert isinstance(mosaic, MosaicRef)
    assert mosaic.id == "2020-07-02"
    assert mosaic.datetime == "2020-07-02T00:00:00+00:00"
    assert [member.id for member in mosaic.members] == ["a_20200702", "c_20200702"]
    (undated,) = find_scenes([str(tmp_path / "days")], mosaic=True)
    assert (undated.id, undated.datetime) == ("mosaic", None)
    (named,) = find_scenes([str(tmp_path / "days")], mosaic=True, scene="all")
    assert named.id == "all"


def test_scenes_are_described(make: Make, tmp_path: Path) -> None:
    file = make("days/a_20200702.tif", 2)
    (one,) = find_scenes([str(file)], datetime="%Y%m%d")
    assert describe(one) == f"a_20200702 ({file}, 2020-07-02)"
    make("days/b_20200702.tif", 2)
    (mosaic,) = find_scenes([str(file.parent)], datetime="%Y%m%d", mosaic=True)
    assert describe(mosaic) == "2020-07-02 (mosaic of 2 scenes, 2020-07-02)"
    make("s2/B02.tif")
    make("s2/B03.tif")
    (bands,) = find_scenes([str(tmp_path / "s2")])
    assert describe(bands) == f"s2 (2 files of {tmp_path / 's2'})"


def test_a_date_for_all_and_a_pattern_for_each(make: Make, tmp_path: Path) -> None:
    for year in (1985, 1990):
        make(f"years/{year}.tif", 2)
    by_name = find_scenes([str(tmp_path / "years")], datetime="%Y")
    assert [ref.datetime for ref in by_name] == [
        "1985-01-01T00:00:00+00:00",
        "1990-01-01T00:00:00+00:00",
    ]
    for_all = find_scenes([str(tmp_path / "years")], datetime="2020-07-01T12:00:00+02:00")
    assert {ref.datetime for ref in for_all} == {"2020-07-01T10:00:00+00:00"}
    make("20200701/B02.tif")
    make("20200701/B03.tif")
    (by_folder,) = find_scenes([str(tmp_path / "20200701")], datetime="%Y%m%d")
    assert by_folder.datetime == "2020-07-01T00:00:00+00:00"
    make("nodate/x.tif")
    with pytest.raises(InputError, match=r"finds no date in 'x\.tif' or 'nodate'"):
        find_scenes([str(tmp_path / "nodate")], datetime="%Y%m%d")


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("%Y%m%d", "T32TPP_20180211T102141_B05.tif", "2018-02-11T00:00:00"),
        ("%Y%m%dT%H%M%S", "T32TPP_20180211T102141_B05.tif", "2018-02-11T10:21:41"),
        ("%Y%j", "LT05_2010123.tif", "2010-05-03T00:00:00"),
        ("%Y", "LC08_007066_2020.tif", "2020-01-01T00:00:00"),
        ("%Y", "20180211.tif", "2018-01-01T00:00:00"),
        ("%Y%m%d", "9920180211.tif", "2018-02-11T00:00:00"),
        ("%d_%b_%Y", "x-03_Jul_2020-y.tif", "2020-07-03T00:00:00"),
        ("100%%_%Y", "100%_1999.tif", "1999-01-01T00:00:00"),
        ("(%Y)", "a(2001).tif", "2001-01-01T00:00:00"),
    ],
)
def test_patterns_are_found_in_names(pattern: str, name: str, expected: str) -> None:
    assert scene_time(pattern, [name]) == f"{expected}+00:00"


def test_dates_that_are_none() -> None:
    assert scene_time(None, ["x"]) is None
    assert scene_time("2020-07-01", []) == "2020-07-01T00:00:00+00:00"
    for asked in ("summer", "%Y%m%d", "%", "%Q", "%Y%Y", "%d"):
        with pytest.raises(InputError):
            scene_time(asked, ["99999999.tif"])


@pytest.mark.shared_data
def test_real_folders(shared: Path) -> None:
    samples = shared / "satclip-samples"
    patches = found(samples / "example_s2", samples / "ssl4eo" / "example" / "images")
    assert len(patches) == 23
    years = find_scenes([str(shared / "landsat-pucallpa")], datetime="%Y")
    assert [ref.datetime[:4] for ref in years] == [str(y) for y in range(1985, 2021, 5)]
    assert list(found(shared / "sentinel2-carolina" / "sentinel-2")) == ["sentinel-2"]
