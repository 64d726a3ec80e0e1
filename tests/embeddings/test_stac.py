"""STAC items: which assets are bands, what they are called, and searches of an API."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.errors import BandError, InputError, SourceError, SourceNotFoundError
from embeddings.sources.raster import RasterScene
from embeddings.sources.reading import SceneFile
from embeddings.sources.scenes import find_scenes
from embeddings.sources.stac import is_stac, stac_scenes
from embeddings.sources.stac_api import ApiSearch, api_scenes
from tests.embeddings.range_server import RangeServer

COG = "image/tiff; application=geotiff; profile=cloud-optimized"
SCALED = {"nodata": 0, "scale": 0.0001, "offset": -0.1, "spatial_resolution": 10}


def asset(href: str, *bands: dict[str, Any], **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"href": href, "type": COG, "roles": ["data"]}
    if bands:
        given["eo:bands"] = list(bands)
    return {key: value for key, value in (given | more).items() if value is not None}


def earth_search() -> dict[str, Any]:
    """Assets as Earth Search describes Sentinel-2: COGs and JPEG 2000, masks as data too."""
    red, nir = {"name": "B04", "common_name": "red"}, {"name": "B08", "common_name": "nir"}
    rgb = [{"name": name} for name in ("B04", "B03", "B02")]
    return {
        "red-jp2": asset("red.jp2", red, type="image/jp2"),
        "red": asset("red.tif", red, **{"raster:bands": [SCALED]}),
        "nir": asset("nir.tif", nir, **{"raster:bands": [SCALED]}),
        "scl": asset("scl.tif", **{"raster:bands": [{"nodata": 0, "spatial_resolution": 20}]}),
        "aot": asset("aot.tif"),
        "visual": asset("tci.tif", *rgb, roles=["visual"]),
        "thumbnail": asset("small.jpg", type="image/jpeg", roles=["thumbnail"]),
        "granule_metadata": asset("meta.xml", type="application/xml", roles=["metadata"]),
    }


def item(assets: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "S2A_33TWN_20200701",
        "geometry": {"type": "Point", "coordinates": [15.0, 47.0]},
        "bbox": [15.0, 47.0, 15.0, 47.0],
        "properties": {"datetime": "2020-07-01T10:00:17.5Z", **more.pop("properties", {})},
        "links": [],
        "assets": assets,
        **more,
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write a document beside which assets are looked for."""

    def save(document: Any, name: str = "item.json") -> str:
        path = tmp_path / name
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return str(path)

    return save


def names(files: tuple[SceneFile, ...]) -> list[tuple[str, ...] | None]:
    return [file.band_names for file in files]


def test_the_bands_of_the_spectrum_are_taken_once_each(
    write: Callable[..., str], tmp_path: Path
) -> None:
    (scene,) = stac_scenes(write(item(earth_search())))
    assert scene.id == "S2A_33TWN_20200701"
    assert scene.datetime == "2020-07-01T10:00:17.500000+00:00"
    assert names(scene.files) == [("B04",), ("B08",)]
    red = scene.files[0]
    assert red.uri == str(tmp_path / "red.tif"), "the COG, not the JPEG 2000"
    assert (red.scale, red.offset, red.nodata) == (0.0001, -0.1, 0.0)


def test_assets_are_picked_by_key_band_or_common_name(write: Callable[..., str]) -> None:
    file = write(item(earth_search()))
    (scene,) = stac_scenes(file, assets=("nir", "B04", "aot"))
    assert names(scene.files) == [("B08",), ("B04",), ("aot",)]
    assert scene.files[1].uri.endswith("red.tif")
    (scene,) = stac_scenes(file, assets=("red-jp2",))
    assert scene.files[0].uri.endswith("red.jp2")
    with pytest.raises(BandError, match="no asset 'swir16'") as caught:
        stac_scenes(file, assets=("red", "swir16"))
    assert "red (B04), nir (B08), scl, aot" in str(caught.value)


def test_a_mask_is_read_along_under_the_name_that_was_asked(write: Callable[..., str]) -> None:
    file = write(item(earth_search()))
    (scene,) = stac_scenes(file, mask="SCL")
    assert names(scene.files) == [("B04",), ("B08",), ("SCL",)]
    (scene,) = stac_scenes(file, assets=("red", "scl"), mask="scl")
    assert names(scene.files) == [("B04",), ("scl",)]
    with pytest.raises(BandError, match="no asset 'QA_PIXEL'"):
        stac_scenes(file, mask="QA_PIXEL")


def test_bands_of_stac_1_1(write: Callable[..., str]) -> None:
    assets = {
        "a": asset(
            "a.tif",
            bands=[{"name": "B04", "eo:common_name": "red"}],
            nodata="nan",
            **{"raster:scale": 0.5, "raster:offset": 2},
        ),
        "b": asset("b.tif", **{"eo:common_name": "nir", "raster:scale": 0.25}),
        "four": asset(
            "four.tif",
            bands=[
                {"name": name, "eo:common_name": name, "raster:scale": 2, "nodata": "nan"}
                for name in ("blue", "green")
            ],
        ),
        "qa": asset("qa.tif", bands=[{"name": "QA"}]),
    }
    (scene,) = stac_scenes(write(item(assets)))
    assert names(scene.files) == [("B04",), ("nir",)]
    assert (scene.files[0].scale, scene.files[0].offset) == (0.5, 2.0)
    assert math.isnan(scene.files[0].nodata or 0.0)
    assert (scene.files[1].scale, scene.files[1].offset) == (0.25, None)
    (scene,) = stac_scenes(write(item(assets)), assets=("four",))
    assert names(scene.files) == [("blue", "green")]
    assert scene.files[0].scale == 2.0


def test_files_of_many_bands_and_of_no_spectrum(write: Callable[..., str]) -> None:
    four = [{"name": n, "common_name": n} for n in ("red", "green", "blue", "nir")]
    uneven = [{"scale": 1.0}, {"scale": 2.0}, {"scale": 2.0}, {"scale": 2.0}]
    many = item({"image": asset("naip.tif", *four, **{"raster:bands": uneven})})
    (scene,) = stac_scenes(write(many))
    assert names(scene.files) == [("red", "green", "blue", "nir")]
    assert scene.files[0].scale is None
    assert "'image' declare different scales" in scene.notes[0]
    radar = {
        "vv": asset("a.tif"),
        "vh": asset("b.tiff", type=None),
        "noise": asset("c.xml", type=None),
    }
    (scene,) = stac_scenes(write(item(radar)))
    assert names(scene.files) == [("vv",), ("vh",)]


def test_the_finest_of_several_resolutions(write: Callable[..., str]) -> None:
    red = {"name": "B04", "common_name": "red"}
    assets = {f"B04_{m}m": asset(f"{m}.tif", red, gsd=m) for m in (60, 10, 20)}
    (scene,) = stac_scenes(write(item(assets)))
    assert [Path(file.uri).name for file in scene.files] == ["10.tif"]


def test_the_offset_of_sentinel_2_is_neither_lost_nor_taken_twice(
    write: Callable[..., str],
) -> None:
    applied = {"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.00"}
    (scene,) = stac_scenes(write(item(earth_search(), properties=applied)))
    assert [file.offset for file in scene.files] == [0.0, 0.0]
    assert "it was applied" in scene.notes[0]
    # The JPEG 2000 files are ESA's own, so theirs has not been applied.
    assets = earth_search()
    assets["red-jp2"]["raster:bands"] = [SCALED]
    (scene,) = stac_scenes(write(item(assets, properties=applied)), assets=("red-jp2",))
    assert scene.files[0].offset == -0.1

    plain = {"B04": asset("B04.tif", {"name": "B04"}), "SCL": asset("SCL.tif")}
    for baseline, offset in (("05.09", -1000.0), ("02.14", None), ("odd", None)):
        document = item(plain, properties={"s2:processing_baseline": baseline})
        (scene,) = stac_scenes(write(document), mask="SCL")
        assert scene.files[0].offset == offset
        assert scene.files[1].offset == 0.0, "a mask has no reflectance"
        assert bool(scene.notes) == (offset is not None)


def test_dates(write: Callable[..., str]) -> None:
    start = {"datetime": None, "start_datetime": "2020-07-01T00:00:00+02:00"}
    (scene,) = stac_scenes(write(item(earth_search(), properties=start)))
    assert scene.datetime == "2020-06-30T22:00:00+00:00"
    (scene,) = stac_scenes(write(item(earth_search(), properties={"datetime": None})))
    assert scene.datetime is None
    with pytest.raises(SourceError, match=r"S2A_33TWN_20200701.*last summer"):
        stac_scenes(write(item(earth_search(), properties={"datetime": "last summer"})))


def test_collections_of_items_and_mosaics(write: Callable[..., str]) -> None:
    second = item(earth_search(), id="S2A_33TWM_20200701")
    third = item(earth_search(), id="S2A_33TWN_20200706")
    third["properties"]["datetime"] = "2020-07-06T10:00:00Z"
    file = write({"type": "FeatureCollection", "features": [third, item(earth_search()), second]})
    assert [ref.id for ref in find_scenes([file])] == [
        "S2A_33TWN_20200706",
        "S2A_33TWN_20200701",
        "S2A_33TWM_20200701",
    ]
    mosaic, single = find_scenes([file], mosaic=True, assets=("red",), mask="scl=3,8")
    assert mosaic.id == "2020-07-01"
    assert [member.id for member in mosaic.members] == ["S2A_33TWN_20200701", "S2A_33TWM_20200701"]
    assert [len(member.files) for member in mosaic.members] == [2, 2]
    assert single.id == "S2A_33TWN_20200706"


def test_items_by_a_pattern(write: Callable[..., str], tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(item(earth_search(), id=name), f"{name}.json")
    assert [ref.id for ref in find_scenes([str(tmp_path / "*.json")])] == ["a", "b"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("not json", "is no JSON"),
        ("[1]", "is no STAC: its 'type' is null"),
        ({"type": "Feature"}, "lacks id, geometry, properties, assets"),
        ({"type": "Topology"}, "its 'type' is \"Topology\""),
        ({"type": "Collection", "id": "x"}, "is a STAC Collection, not an item"),
        ({"type": "FeatureCollection", "features": []}, "holds no items"),
        ({"type": "FeatureCollection", "features": [3]}, "something that is no STAC item"),
        (item({}), "has no raster among its assets (none)"),
        (item({"a": {"href": "a.pdf"}}), "has no raster among its assets (a)"),
        (
            item({"a": {"title": "no address"}}),
            "asset 'a' of item 'S2A_33TWN_20200701' has no href",
        ),
        (item({"visual": asset("a.tif", roles=["visual"])}), "no asset to embed"),
    ],
)
def test_bad_stac_is_told(write: Callable[..., str], document: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        stac_scenes(write(document))
    assert message in str(caught.value)


def test_what_is_no_item_lacks_a_geometry_or_assets(write: Callable[..., str]) -> None:
    for key in ("geometry", "assets"):
        document = item(earth_search())
        del document[key]
        with pytest.raises(InputError, match=f"lacks {key}"):
            stac_scenes(write(document))


def test_what_looks_like_stac() -> None:
    assert is_stac("a/b.json")
    assert is_stac("https://a.org/collections/x/items/y?token=1")
    assert not is_stac("https://a.org/items/a.tif?x=.json")
    assert not is_stac("a/b.tif")


@pytest.fixture
def served(
    tmp_path: Path, write_raster: Callable[..., Path], land: Callable[..., Any]
) -> Callable[..., Path]:
    """Write an item with relative references beside two bands."""

    def write(**more: Any) -> Path:
        for name, seed in (("red", 1), ("nir", 2)):
            write_raster(tmp_path / "data" / f"{name}.tif", land(64, 64, 1, seed=seed), nodata=0)
        assets = {
            name: asset(f"./{name}.tif", {"name": band}, **{"raster:bands": [{"scale": 0.5}]})
            for name, band in (("red", "B04"), ("nir", "B08"))
        }
        path = tmp_path / "data" / "item.json"
        path.write_text(json.dumps(item(assets, **more)))
        return path

    return write


def test_an_item_over_http_gives_the_pixels_of_the_local_one(served: Callable[..., Path]) -> None:
    file = served()
    (local,) = find_scenes([str(file)])
    with RasterScene.open(local.files) as scene:
        expected = scene.read(0, 0, 64, 64)[0]
        assert scene.bands == ("B04", "B08")
        assert scene.scale == (0.5, 0.5)
    with RangeServer(file.parent) as server:
        (remote,) = find_scenes([server.url("item.json")])
        assert remote.files[0].uri == server.url("red.tif")
        with RasterScene.open(remote.files) as scene:
            assert np.array_equal(scene.read(0, 0, 64, 64)[0], expected)


def test_references_of_a_downloaded_item_lead_to_where_it_came_from(
    served: Callable[..., Path], tmp_path: Path
) -> None:
    file = served(links=[{"rel": "self", "href": "https://a.org/x/item.json"}])
    (scene,) = stac_scenes(str(file))
    assert scene.files[0].uri == str(file.parent / "red.tif"), "what is there is taken"
    moved = tmp_path / "elsewhere" / "item.json"
    moved.parent.mkdir()
    moved.write_bytes(file.read_bytes())
    (scene,) = stac_scenes(str(moved))
    assert scene.files[0].uri == "https://a.org/x/red.tif"


def test_items_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="no file"):
        find_scenes([str(tmp_path / "none.json")])
    with RangeServer(tmp_path) as server, pytest.raises(SourceNotFoundError, match="404"):
        find_scenes([server.url("none.json")])


class Api:
    """A STAC API of ``count`` items, two a page; ``post`` has the next pages asked with POST."""

    def __init__(self, server: RangeServer, count: int, *, post: bool = False) -> None:
        self.server, self.post = server, post
        self.queries: list[dict[str, Any]] = []
        self.items = [
            item(earth_search(), id=f"item-{i}", properties={"eo:cloud_cover": 20.0 * i})
            for i in range(count)
        ]
        server.answers["/api/search"] = self.search

    def search(self, query: dict[str, str], body: bytes) -> bytes:
        asked = json.loads(body) if body else query
        self.queries.append(asked)
        start = int(asked.get("token", 0))
        page: dict[str, Any] = {
            "type": "FeatureCollection",
            "features": self.items[start : start + 2],
            "links": [{"rel": "self", "href": f"{self.server.root}/api/search"}],
        }
        if start + 2 < len(self.items):
            address, token = f"{self.server.root}/api/search", start + 2
            link = {"rel": "next", "href": f"{address}?token={token}", "method": "GET"}
            if self.post:
                link = {"rel": "next", "href": address, "method": "POST", "merge": True}
                link |= {"body": {"token": str(token)}}
            page["links"].append(link)
        return json.dumps(page).encode()


@pytest.mark.parametrize("post", [False, True])
def test_pages_of_a_search_are_followed(tmp_path: Path, post: bool) -> None:
    with RangeServer(tmp_path) as server:
        api = Api(server, 3, post=post)
        text = f"stac:{server.root}/api/collections/s2?bbox=14,46,16,48&datetime=2020-07-01"
        scenes = find_scenes([text], assets=("red",), mask="scl")
        assert [scene.id for scene in scenes] == ["item-0", "item-1", "item-2"]
        assert scenes[0].files[0].uri == f"{server.root}/api/red.tif"
        assert [method for method, _ in server.requests] == ["GET", "POST" if post else "GET"]
    day = "2020-07-01T00:00:00Z/2020-07-01T23:59:59Z"
    assert api.queries[0] == {
        "collections": "s2",
        "limit": "100",
        "bbox": "14,46,16,48",
        "datetime": day,
    }
    if post:
        assert api.queries[1] == {
            "collections": ["s2"],
            "limit": 100,
            "bbox": [14.0, 46.0, 16.0, 48.0],
            "datetime": day,
            "token": "2",
        }


def test_a_search_ends_at_the_most_and_leaves_clouds_out(tmp_path: Path) -> None:
    with RangeServer(tmp_path) as server:
        Api(server, 6)
        text = f"stac:{server.root}/api/collections/s2"
        scenes = api_scenes(f"{text}?max=3")
        assert [scene.id for scene in scenes] == ["item-0", "item-1", "item-2"]
        assert "the first 3 are taken" in scenes[0].notes[-1]
        scenes = api_scenes(f"{text}?cloud=40")
        assert [scene.id for scene in scenes] == ["item-0", "item-1", "item-2"]
        assert scenes[0].notes == ()
        Api(server, 0)
        with pytest.raises(InputError, match="has no items of 's2'"):
            api_scenes(text)


def test_a_server_without_search_lists_the_items(tmp_path: Path) -> None:
    page = {"type": "FeatureCollection", "features": [item(earth_search())]}
    with RangeServer(tmp_path) as server:
        server.answers["/collections/s2/items"] = lambda *_: json.dumps(page).encode()
        (scene,) = api_scenes(f"stac:{server.root}/collections/s2?bbox=14,46,16,48")
    assert scene.id == "S2A_33TWN_20200701"


def test_bad_answers_of_an_api_are_told(tmp_path: Path) -> None:
    with RangeServer(tmp_path) as server:
        text = f"stac:{server.root}/api/collections/s2"
        with pytest.raises(SourceNotFoundError, match="404"):
            api_scenes(text)
        server.answers["/api/search"] = lambda *_: b"<html>"
        with pytest.raises(SourceError, match="does not answer like a STAC API"):
            api_scenes(text)
        circle = {
            "type": "FeatureCollection",
            "features": [item(earth_search())],
            "links": [{"rel": "next", "href": f"{server.root}/api/search"}],
        }
        server.answers["/api/search"] = lambda *_: json.dumps(circle).encode()
        with pytest.raises(SourceError, match="in a circle"):
            api_scenes(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stac:https://a.org/stac", "no search of a STAC API"),
        ("stac:a.org/collections/x", "no search of a STAC API"),
        ("stac:https://a.org/collections/x?bbx=1", "unknown: bbx"),
        ("stac:https://a.org/collections/x?max=none", "max=none is no number"),
        ("stac:https://a.org/collections/x?cloud=120", "cloud=120 is no number of 0 to 100"),
        ("stac:https://a.org/collections/x?bbox=1,2,3", "is not a box"),
        ("stac:https://a.org/collections/x?datetime=yesterday", "is not a date"),
    ],
)
def test_bad_searches_are_told(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        ApiSearch.parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("2020-07-01", "2020-07-01T00:00:00Z/2020-07-01T23:59:59Z"),
        ("2020-07-01/2020-07-31", "2020-07-01T00:00:00Z/2020-07-31T23:59:59Z"),
        ("../2020-07-31", "../2020-07-31T23:59:59Z"),
        ("2020-07-01T10:00:00+02:00/..", "2020-07-01T08:00:00Z/.."),
        ("2020-07-01T10:00:00Z", "2020-07-01T10:00:00Z"),
    ],
)
def test_times_of_a_search(given: str, asked: str) -> None:
    text = f"stac:https://a.org/v1/collections/x?datetime={given.replace('+', '%2B')}"
    search = ApiSearch.parse(text)
    assert search.root == "https://a.org/v1"
    assert search.parameters() == {"limit": "100", "datetime": asked}
