"""Pages, judged results and fused searches as clients meet them: HTTP, Python client, command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas
import pytest
import rasterio
import requests
from pydantic import SecretStr
from rasterio.windows import Window

from embed_server.client import Client, RemoteError
from embed_server.settings import LimitSettings, SecuritySettings, Settings
from embeddings.pipeline import RasterJob, embed_raster
from embeddings.sources.synthetic import write_scene

Call = Callable[..., requests.Response]
Outcome = tuple[int, str, str]
PATH = "/collections/valley/search"
TOKEN = "test-token-0123456789"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, store: Path, scene: list[str]) -> Path:
    """A store with 'valley', 'texture' (the same chips, another encoder) and 'coarse'."""
    path = Path(shutil.copytree(store, tmp_path_factory.mktemp("pair") / "store"))
    same = {"files": tuple(scene), "scene": "first"}
    embed_raster(RasterJob(path, "texture", encoder="rcf:kernel=5,dim=32", chip="16", **same))
    embed_raster(RasterJob(path, "coarse", chip="32", **same))
    other = [str(file) for file in write_scene(path.parent / "other", seed=2, size=160)]
    embed_raster(RasterJob(path, "other", tuple(other), chip="16", scene="second"))
    return path


@pytest.fixture(scope="module")
def two(pair: Path, running: Any) -> Iterator[Client]:
    settings = Settings(
        store=pair,
        limits=LimitSettings(),
        security=SecuritySettings(token=SecretStr(TOKEN)),
    )
    with running(settings) as (settled, _), Client(settled.server.url, TOKEN) as client:
        yield client


def ids(answer: dict[str, Any]) -> list[str]:
    return [feature["id"] for feature in answer["features"]]


def test_the_links_lead_through_all_pages(
    call: Call, url: str, inside: tuple[float, float]
) -> None:
    body = {"at": list(inside), "k": 23, "exclude_m": 200}
    whole = call("POST", PATH, json=body).json()
    assert (whole["links"], whole["limit"], whole["offset"]) == ([], 23, 0)
    answer = call("POST", PATH, json={**body, "limit": 10}).json()
    got, ranks, sizes = [], [], []
    while True:
        got += ids(answer)
        ranks += [feature["properties"]["rank"] for feature in answer["features"]]
        sizes.append(answer["numberReturned"])
        assert answer["numberMatched"] == whole["numberMatched"]
        assert (answer["k"], answer["limit"], answer["state"]) == (23, 10, whole["state"])
        if not answer["links"]:
            break
        (link,) = answer["links"]
        assert (link["rel"], link["method"], link["href"]) == ("next", "POST", url + PATH)
        assert link["body"] == {
            **body,
            "limit": 10,
            "offset": len(got),
            "state": whole["state"],
        }
        answer = call("POST", link["href"].removeprefix(url), json=link["body"]).json()
    assert (got, ranks, sizes) == (ids(whole), list(range(1, 24)), [10, 10, 3])


def test_the_client_turns_the_pages(client: Client, inside: tuple[float, float]) -> None:
    whole = client.search("valley", inside, k=23)
    first = client.search("valley", inside, k=23, limit=7)
    pages = list(client.pages(first))
    assert [page["offset"] for page in pages] == [0, 7, 14, 21]
    assert [name for page in pages for name in ids(page)] == ids(whole)
    assert list(client.pages(whole)) == [whole]


def test_every_stage_is_timed(call: Call, inside: tuple[float, float]) -> None:
    timing = call("POST", PATH, json={"at": list(inside)}).json()["timing_ms"]
    stages = ["open", "locate", "filter", "scan", "calibrate", "fetch", "format"]
    assert list(timing) == stages


@pytest.mark.parametrize(
    ("change", "status", "code", "says"),
    [
        ({"limit": 0}, 400, "invalid-request", "limit"),
        ({"limit": -1}, 400, "invalid-request", "limit"),
        ({"limit": "5"}, 400, "invalid-request", "limit"),
        ({"limit": True}, 400, "invalid-request", "limit"),
        ({"limit": 2.5}, 400, "invalid-request", "limit"),
        ({"offset": -1}, 400, "invalid-request", "offset"),
        ({"offset": None}, 400, "invalid-request", "offset"),
        ({"offset": 10**30}, 400, "invalid-request", "offset"),
        ({"offset": 1.5}, 400, "invalid-request", "offset"),
        ({"state": 5}, 400, "invalid-request", "state"),
        ({"state": ""}, 409, "collection-changed", "Start again at the first page"),
        ({"state": "x" * 3000}, 409, "collection-changed", "Start again at the first page"),
        ({"state": "../../etc"}, 409, "collection-changed", "Start again at the first page"),
        ({"confirmed": "first_8_8"}, 400, "invalid-request", "confirmed"),
        ({"confirmed": [7]}, 400, "invalid-request", "confirmed.0"),
        ({"rejected": [None]}, 400, "invalid-request", "rejected.0"),
        ({"rejected": None}, 400, "invalid-request", "rejected"),
        ({"confirmed": ["a"], "rejected": ["a"]}, 400, "invalid-input", "both confirmed and"),
        ({"confirmed": ["nobody"]}, 404, "item-not-found", "'nobody'"),
        ({"rejected": ["'; DROP TABLE valley"]}, 404, "item-not-found", "DROP"),
        ({"confirmed": [""] * 1001}, 400, "invalid-input", "1,001 items are confirmed"),
        ({"collections": [{"id": "valley"}]}, 400, "invalid-request", "collections"),
        ({"positive": {"images": ["chip.tif"]}}, 400, "invalid-input", "not the absolute path"),
        ({"positive": {"images": [""]}}, 400, "invalid-input", "not the absolute path"),
        ({"negative": {"images": [5]}}, 400, "invalid-request", "images.0"),
        ({"negative": {"images": ["/no/chip.tif"]}}, 400, "source-not-found", "/no/chip.tif"),
        ({"positive": {"images": ["/a\0b"]}}, 400, "source-not-found", "no image"),
        ({"positive": {"images": ["/chip"] * 101}}, 400, "invalid-input", "101 images"),
    ],
)
def test_a_bad_value_is_named(
    call: Call,
    inside: tuple[float, float],
    change: dict[str, Any],
    status: int,
    code: str,
    says: str,
) -> None:
    answer = call("POST", PATH, json={"at": list(inside), **change})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert says in problem["detail"]
    assert len(problem["detail"]) < 1000


def test_a_page_beyond_the_end_is_empty(call: Call, inside: tuple[float, float]) -> None:
    found = call("POST", PATH, json={"at": list(inside), "offset": 2**53 - 1}).json()
    assert (found["features"], found["links"], found["numberReturned"]) == ([], [], 0)


def test_judged_results_get_a_precision(call: Call, inside: tuple[float, float]) -> None:
    body = {"at": list(inside), "k": 30}
    names = ids(call("POST", PATH, json=body).json())
    judged = {"confirmed": names[:4], "rejected": names[20:23]}
    whole = call("POST", PATH, json={**body, **judged}).json()
    assert [step["labels"] for step in whole["precision"]] == [1, 2, 3, 4, 5, 6, 7]
    for step in whole["precision"]:
        assert 0 <= step["low"] <= step["precision"] <= step["high"] <= 1
    page = call("POST", PATH, json={**body, **judged, "limit": 10, "offset": 15}).json()
    assert page["precision"] == whole["precision"]
    each = ("precision", "precision_low", "precision_high")
    for one, other in zip(page["features"], whole["features"][15:25], strict=True):
        assert [one["properties"][name] for name in each] == [
            other["properties"][name] for name in each
        ]
    following = page["links"][0]["body"]
    assert (following["confirmed"], following["rejected"]) == (names[:4], names[20:23])
    few = call("POST", PATH, json={**body, "confirmed": names[:2], "rejected": names[5:9]}).json()
    assert few["precision"] is None
    assert "it takes 3 of each" in few["notes"][0]
    assert "precision" not in few["features"][0]["properties"]


def test_collections_are_searched_together(two: Client, inside: tuple[float, float]) -> None:
    whole = two.search_fused({"valley": 2.0, "texture": 1}, inside, k=20)
    assert whole["collections"] == [
        {"id": "valley", "weight": 2.0},
        {"id": "texture", "weight": 1.0},
    ]
    assert (whole["collection"], whole["query"]["id"]) == ("valley", "first_8_8")
    assert whole["numberMatched"] == two.collection("valley")["itemCount"] - 1
    for feature in whole["features"]:
        properties = feature["properties"]
        each = properties["similarities"]
        mean = (2 * each["valley"] + each["texture"]) / 3
        assert properties["similarity"] == pytest.approx(mean, abs=2e-6)
        assert properties["datetime"] == "2018-10-13T10:00:00Z", "columns are those of the first"
    ranked = [ids(two.search(name, inside, k=20)) for name in ("valley", "texture")]
    assert ids(whole) not in ranked
    pages = list(two.pages(two.search_fused({"valley": 2, "texture": 1}, inside, k=20, limit=8)))
    assert [name for page in pages for name in ids(page)] == ids(whole)
    assert pages[0]["links"][0]["href"] == f"{two.url}/search"
    schema = two._send("GET", "/api")["components"]["schemas"]["FusedSearchAnswer"]
    assert set(schema["required"]) <= set(whole) <= set(schema["properties"])


@pytest.mark.parametrize(
    ("collections", "more", "status", "says"),
    [
        ([], {}, 400, "0 collection"),
        ([{"id": "valley"}], {}, 400, "name 2 to 8"),
        ([{"id": "valley"}] * 9, {}, 400, "9 collection"),
        ([{"id": "valley"}, {"id": "valley"}], {}, 400, "named twice"),
        ([{"id": "valley"}, {"id": "sea"}], {}, 404, "There: "),
        ([{"id": "valley"}, {"id": "../valley"}], {}, 404, "There: "),
        ([{"id": "valley"}, {"id": ""}], {}, 404, "There: "),
        ([{"id": "valley"}, {"id": "texture", "weight": 0}], {}, 400, "weight of 'texture' is 0"),
        ([{"id": "valley"}, {"id": "texture", "weight": -1.5}], {}, 400, "is -1.5"),
        ([{"id": "valley"}, {"id": "texture", "weight": "1"}], {}, 400, "weight"),
        ([{"id": "valley"}, {"id": "texture", "weigth": 1}], {}, 400, "weigth"),
        (["valley", "texture"], {}, 400, "collections.0"),
        ({"valley": 1}, {}, 400, "collections"),
        (None, {}, 400, "collections"),
        ([{"id": "valley"}, {"id": "coarse"}], {}, 400, "not on one grid"),
        ([{"id": "valley"}, {"id": "other"}], {}, 400, "share no item ids"),
        ([{"id": "valley"}, {"id": "world"}], {}, 400, "share no item ids"),
        (
            [{"id": "valley"}, {"id": "texture"}],
            {"positive": {"vectors": [[1.0] * 32]}},
            400,
            "belongs to the space of one collection",
        ),
        (
            [{"id": "valley"}, {"id": "texture"}],
            {"positive": {"ids": ["nobody"]}},
            404,
            "has no item 'nobody'",
        ),
        ([{"id": "valley"}, {"id": "texture"}], {"k": 50_001}, 400, "50,001"),
        ([{"id": "valley"}, {"id": "texture"}], {"state": "old"}, 409, "Start again"),
    ],
)
def test_what_cannot_be_searched_together_is_explained(
    two: Client,
    inside: tuple[float, float],
    collections: Any,
    more: dict[str, Any],
    status: int,
    says: str,
) -> None:
    body = {"collections": collections, "at": list(inside), **more}
    with pytest.raises(RemoteError) as caught:
        two._send("POST", "/search", json=body)
    assert caught.value.status == status, caught.value
    assert says in caught.value.detail


def test_weights_that_are_no_numbers_are_refused(two: Client, inside: tuple[float, float]) -> None:
    text = json.dumps({"collections": [{"id": "valley"}, {"id": "texture"}], "at": list(inside)})
    for odd in ("NaN", "Infinity", "-Infinity", "1e999"):
        response = requests.post(
            f"{two.url}/search",
            data=text.replace('"texture"', f'"texture", "weight": {odd}'),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
            timeout=60,
        )
        assert response.status_code == 400, response.text
        assert "weight" in response.json()["detail"]


def test_a_place_in_one_collection_only_is_named(two: Client) -> None:
    with pytest.raises(RemoteError) as caught:
        two.search_fused({"valley": 1, "texture": 1}, (0.0, 0.0))
    assert (caught.value.status, caught.value.code) == (404, "outside-coverage")
    assert "collection 'valley'" in caught.value.detail


def test_the_command_searches_several_and_turns_pages(
    run: Any, pair: Path, inside: tuple[float, float], tmp_path: Path, two: Client
) -> None:
    search = ("search", "--store", pair, "--collection", "valley", "--at", "{},{}".format(*inside))
    both = (*search, "--with", "texture=0.5", "-k", 12)
    code, out, err = run(*both, "--json")
    assert (code, err) == (0, "")
    whole = json.loads(out)
    over_http = two.search_fused({"valley": 1, "texture": 0.5}, inside, k=12)
    assert ids(whole) == ids(over_http)
    assert [each["weight"] for each in whole["collections"]] == [1.0, 0.5]

    code, out, err = run(*both, "--limit", 5, "--offset", 5)
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["6", "7", "8", "9", "10"]
    following = f"--limit 5 --offset 10 --state {whole['state']}"
    assert err == f"Next page of 12 places: {following}\n"
    code, out, err = run(*both, *following.split())
    assert ([line.split()[-1] for line in out.splitlines()[1:]], err) == (ids(whole)[10:], "")
    code, out, err = run(*both, "--state", "old")
    assert (code, out) == (1, "")
    assert "Start again at the first page" in err
    code, out, err = run(*both, "--offset", 50)
    assert (code, err) == (0, "No place is on this page: there are 12.\n")

    file = tmp_path / "places.gpkg"
    assert run(*both, "--out", file)[0] == 0
    places = geopandas.read_file(file)
    for name in ("valley", "texture"):
        written = [f["properties"]["similarities"][name] for f in whole["features"]]
        assert places[f"similarity_{name}"].tolist() == written


def test_the_command_takes_judged_results(
    run: Any, pair: Path, inside: tuple[float, float]
) -> None:
    search = ("search", "--store", pair, "--collection", "valley", "--at", "{},{}".format(*inside))
    names = ids(json.loads(run(*search, "--json")[1]))
    judged = [
        *(word for name in names[:3] for word in ("--confirmed", name)),
        *(word for name in names[6:9] for word in ("--rejected", name)),
    ]
    code, out, err = run(*search, *judged)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["rank", "cosine", "precision", "lon", "lat", "id"]
    assert [float(line.split()[2]) for line in lines[1:4]] == [1.0] * 3
    assert float(lines[-1].split()[2]) < 1
    code, out, err = run(*search, *judged[:-2])
    assert "it takes 3 of each" in err
    assert out.splitlines()[0].split() == ["rank", "cosine", "lon", "lat", "id"]
    code, out, err = run(*search, "--confirmed", "nobody")
    assert (code, out, "no item 'nobody'" in err) == (1, "", True)


def test_the_command_takes_images(
    run: Any, pair: Path, scene: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chip").mkdir()
    for path in scene:
        with rasterio.open(path) as source:
            step = round(source.width / 256)
            window = Window(8 * 16 * step, 8 * 16 * step, 16 * step, 16 * step)
            place = {"transform": source.window_transform(window)}
            profile = source.profile | place | {"width": 16 * step, "height": 16 * step}
            for name in ("tiled", "blockxsize", "blockysize"):
                profile.pop(name, None)
            with rasterio.open(tmp_path / "chip" / Path(path).name, "w", **profile) as file:
                file.write(source.read(window=window))
    monkeypatch.chdir(tmp_path)
    search = ("search", "--store", pair, "--collection", "valley")
    code, out, _ = run(*search, "--like-image", "chip", "-k", 3)
    assert code == 0
    assert out.splitlines()[1].split()[-1] == "first_8_8"
    code, out, err = run(*search, "--like-image", "none.tif")
    assert (code, out, "no image 'none.tif'" in err) == (1, "", True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--with", "texture=x"), "'x' is not a weight. Write texture=0.5."),
        (("--with", "texture="), "'' is not a weight"),
        (("--with", "texture=0"), "weight of 'texture' is 0"),
        (("--with", "texture=nan"), "weight of 'texture' is nan"),
        (("--limit", "0"), "--limit"),
        (("--offset", "-1"), "--offset"),
    ],
)
def test_bad_options_are_named(run: Any, pair: Path, options: tuple[str, ...], says: str) -> None:
    search = ("search", "--store", pair, "--collection", "valley", "--at", "1,2")
    code, out, err = run(*search, *options)
    assert (code, out) == (2, "")
    assert says in err
