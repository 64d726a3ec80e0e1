"""From a place to its kin: which chip is meant, what is left out, what is said where none is."""

from __future__ import annotations

import gc
import re
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import shapely

from embeddings.errors import (
    CollectionChangedError,
    CollectionNotFoundError,
    InputError,
    NoDataAtPlaceError,
    OutsideCoverageError,
)
from embeddings.query.examples import Examples
from embeddings.query.filters import Filter
from embeddings.search import Searcher, SearchQuery, SearchResult, scanning
from embeddings.search import held as held_module
from embeddings.search import loaded as loaded_module
from embeddings.spacing import distance_m
from embeddings.store import Collection, Store
from embeddings.store.reader import Reader
from embeddings.types import Bounds, LonLat
from tests.embeddings.index_data import spec_of, write_collection

Embed = Callable[..., Collection]


@pytest.fixture(scope="module")
def searcher(small: Collection) -> Searcher:
    return Searcher(Store(small.path.parent))


def centre(collection: Collection, item: str) -> LonLat:
    row = Reader(collection).item(item).to_pylist()[0]
    return LonLat(row["lon"], row["lat"])


def found(result: SearchResult) -> list[str]:
    return result.matches["id"].to_pylist()


def test_the_best_are_those_of_the_oracle(small: Collection, searcher: Searcher) -> None:
    everything = Reader(small).items(limit=1000)
    names = everything["id"].to_pylist()
    vectors = np.concatenate([v for _, v in Reader(small).batches()]).astype(np.float64)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for name in ("a_0_0", "a_11_11", "b_5_7"):
        query = names.index(name)
        result = searcher.search("land", SearchQuery(centre(small, name), k=20))
        cosine = units @ units[query]
        cosine[query] = -2
        best = np.argsort(-cosine)[:20]
        assert found(result) == [names[i] for i in best]
        assert np.allclose(result.similarity, cosine[best], atol=1e-6)
        assert result.query_item["id"].to_pylist() == [name]
        assert (result.considered, result.matched) == (287, 287)
        assert result.expected_recall == 1


def test_k_is_how_many_at_most(small: Collection, searcher: Searcher) -> None:
    at = centre(small, "a_3_3")
    assert len(found(searcher.search("land", SearchQuery(at, k=1)))) == 1
    everything = found(searcher.search("land", SearchQuery(at, k=10_000)))
    assert len(everything) == len(set(everything)) == 287
    assert "a_3_3" not in everything


@pytest.mark.parametrize("exclude_m", [0.0, 79.0, 81.0, 300.0])
def test_the_surroundings_of_the_query_are_left_out(
    small: Collection, searcher: Searcher, exclude_m: float
) -> None:
    geod = pyproj.Geod(ellps="WGS84")
    at = centre(small, "a_5_5")
    result = searcher.search("land", SearchQuery(at, k=10_000, exclude_m=exclude_m))
    lon, lat = (result.matches[c].to_numpy() for c in ("lon", "lat"))
    _, _, away = geod.inv(np.full(len(lon), at.lon), np.full(len(lon), at.lat), lon, lat)
    assert away.min() > exclude_m * 0.995
    # 80 m apart: none, none, the four nearest, and 45 in a circle of 300 m are left out.
    assert 287 - len(away) == {0.0: 0, 79.0: 0, 81.0: 4, 300.0: 44}[exclude_m]
    assert (result.matched, result.considered) == (len(away), len(away))


def test_everything_may_be_left_out(small: Collection, searcher: Searcher) -> None:
    query = SearchQuery(centre(small, "a_5_5"), exclude_m=1e6)
    result = searcher.search("land", query)
    assert (found(result), len(result.similarity), result.matched) == ([], 0, 0)


def test_a_place_means_the_chip_that_contains_it(small: Collection, searcher: Searcher) -> None:
    rows = Reader(small).items(limit=1000).to_pylist()
    rng = np.random.default_rng(0)
    for row in rows[::40]:
        shape = shapely.from_wkb(row["geometry"])
        box = row["bbox"]
        for _ in range(5):
            point = shapely.Point(
                rng.uniform(box["xmin"], box["xmax"]), rng.uniform(box["ymin"], box["ymax"])
            )
            if shape.contains(point):
                result = searcher.search("land", SearchQuery(LonLat(point.x, point.y), k=1))
                assert result.query_item["id"].to_pylist() == [row["id"]]


def test_of_overlapping_chips_the_nearest_centre_is_meant(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    collection = embed(tmp_path / "s", write_raster(tmp_path / "a.tif", land()), stride="2")
    to_lonlat = pyproj.Transformer.from_crs("EPSG:32633", "OGC:CRS84", always_xy=True)
    searcher = Searcher(Store(tmp_path / "s"))
    # Chip (r, c) has its centre at pixel 2 r + 4, 2 c + 4.
    for row, col in ((20.2, 40.9), (21.4, 41.4), (4.0, 4.0), (0.5, 0.5), (95.5, 95.5)):
        at = LonLat(*to_lonlat.transform(500_000 + 10 * col, 5_200_000 - 10 * row))
        result = searcher.search("land", SearchQuery(at, k=1))
        expected = [min(max(round((p - 4) / 2), 0), 44) for p in (row, col)]
        assert result.query_item["id"].to_pylist() == ["a_{}_{}".format(*expected)]
    assert collection.count == 45 * 45


def test_no_data_and_no_coverage_are_told_apart_and_the_nearest_chip_is_named(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    values = land()
    values[:, :40, :40] = 0
    embed(tmp_path / "s", write_raster(tmp_path / "a.tif", values))
    searcher = Searcher(Store(tmp_path / "s"))
    to_lonlat = pyproj.Transformer.from_crs("EPSG:32633", "OGC:CRS84", always_xy=True)

    def at(col: float, row: float) -> SearchQuery:
        return SearchQuery(LonLat(*to_lonlat.transform(500_000 + 10 * col, 5_200_000 - 10 * row)))

    # The middle of the masked chip beside chip (2, 5), 80 m from its centre.
    with pytest.raises(NoDataAtPlaceError, match="masked there") as caught:
        searcher.search("land", at(36, 20))
    assert "The nearest chip is 'a_2_5', 0.08 km away at 15." in str(caught.value)
    with pytest.raises(OutsideCoverageError, match="lies outside collection 'land'") as outside:
        searcher.search("land", at(60, -100))
    assert "'a_0_7'" in str(outside.value)
    assert float(re.findall(r"([\d.]+) km away", str(outside.value))[0]) == pytest.approx(1.04)
    with pytest.raises(OutsideCoverageError, match=r"[\d,]{6}\.\d\d km away"):
        searcher.search("land", SearchQuery(LonLat(-165, -47)))


def test_margins_and_gaps_are_not_called_masked(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    values = land(90, 90)
    values[:, 24:32, 24:32] = 0
    collection = embed(
        tmp_path / "s", write_raster(tmp_path / "a.tif", values, nodata=0), stride="12"
    )
    searcher = Searcher(Store(tmp_path / "s"))
    to_lonlat = pyproj.Transformer.from_crs("EPSG:32633", "OGC:CRS84", always_xy=True)

    def asked(col: float, row: float) -> str:
        place = LonLat(*to_lonlat.transform(500_000 + 10 * col, 5_200_000 - 10 * row))
        with pytest.raises(NoDataAtPlaceError) as caught:
            searcher.search("land", SearchQuery(place))
        return str(caught.value)

    assert "in the margin of the scene, where no whole chip fits" in asked(88, 40)
    assert "in the margin" in asked(40, 84)
    assert "between two chips" in asked(10, 4)
    assert "between two chips" in asked(4, 34)
    assert "masked there" in asked(28, 28)
    unfinished = replace(collection.scenes[0], complete=False)
    collection.with_scene(unfinished).save()
    assert "not embedded to its end" in asked(28, 28)
    assert "between two chips" in asked(10, 4)


def test_one_collection_does_not_wait_for_another(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_raster(tmp_path / "a.tif", land())
    at = centre(embed(tmp_path / "s", file, collection="slow"), "a_4_4")
    embed(tmp_path / "s", file, collection="quick")
    searcher = Searcher(Store(tmp_path / "s"))
    began, go_on = threading.Event(), threading.Event()
    real = held_module.load

    def load(collection: Collection, state: str, refused: Any) -> Any:
        if collection.id == "slow":
            began.set()
            assert go_on.wait(60)
        return real(collection, state, refused)

    monkeypatch.setattr(held_module, "load", load)
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(searcher.search, "slow", SearchQuery(at))
        assert began.wait(60)
        try:
            assert pool.submit(searcher.search, "quick", SearchQuery(at)).result(60).matched == 143
            assert not slow.done()
        finally:
            go_on.set()
        assert slow.result(60).matched == 143


def test_collections_that_left_the_store_are_let_go(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    file = write_raster(tmp_path / "a.tif", land())
    at = centre(embed(tmp_path / "s", file), "a_4_4")
    searcher = Searcher(Store(tmp_path / "s"))
    searcher.search("land", SearchQuery(at))
    index = weakref.ref(searcher._held.get("land").loaded.index)
    searcher.store.delete("land")
    with pytest.raises(CollectionNotFoundError):
        searcher.search("land", SearchQuery(at))
    gc.collect()
    assert index() is None


def test_a_search_over_the_antimeridian(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    file = write_raster(
        tmp_path / "p.tif", land(64, 64), crs="EPSG:4326", origin=(179.968, 0.032), res=0.001
    )
    embed(tmp_path / "s", file)
    searcher = Searcher(Store(tmp_path / "s"))
    result = searcher.search("land", SearchQuery(LonLat(179.999, 0.004), k=100))
    assert result.query_item["id"].to_pylist() == ["p_3_3"]
    assert len(found(result)) == 63
    east = searcher.search("land", SearchQuery(LonLat(-179.996, -0.004), exclude_m=900.0, k=100))
    assert east.query_item["id"].to_pylist() == ["p_4_4"]
    # 890 m apart: the four nearest are gone, the one across the antimeridian with them.
    assert {"p_4_3", "p_3_4", "p_5_4", "p_4_5"}.isdisjoint(found(east))
    assert len(found(east)) == 59
    with pytest.raises(OutsideCoverageError, match=r"'p_4_0', [\d.]+ km away"):
        searcher.search("land", SearchQuery(LonLat(179.9, -0.004)))


def test_the_same_place_at_another_date_is_a_match_unless_left_out(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    for name, date in (("may", "2020-05-01"), ("june", "2020-06-01")):
        file = write_raster(tmp_path / f"{name}.tif", land(seed=1))
        collection = embed(tmp_path / "s", file, datetime=date)
    searcher, at = Searcher(Store(tmp_path / "s")), centre(collection, "may_4_4")
    first = searcher.search("land", SearchQuery(at, k=1))
    assert {*first.query_item["id"].to_pylist(), *found(first)} == {"may_4_4", "june_4_4"}
    other = searcher.search("land", SearchQuery(at, k=300, exclude_m=1))
    assert {"may_4_4", "june_4_4"}.isdisjoint(found(other))


def test_distances_are_great_circles() -> None:
    lon, lat = np.array([-179.9, 0.0, 179.9]), np.array([0.0, 90.0, 0.0])
    away = distance_m(LonLat(179.9, 0.0), lon, lat)
    geod = pyproj.Geod(a=6_371_008.8, b=6_371_008.8)
    _, _, expected = geod.inv([179.9] * 3, [0.0] * 3, lon, lat)
    assert np.allclose(away, expected, rtol=1e-9, atol=1e-6)


def test_queries_that_make_no_sense(searcher: Searcher) -> None:
    at = LonLat(15, 47)
    for k in (0, -1, 50_001):
        with pytest.raises(InputError, match="k is"):
            SearchQuery(at, k=k)
    for exclude in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="exclusion radius"):
            SearchQuery(at, exclude_m=exclude)
    with pytest.raises(CollectionNotFoundError, match="There: land"):
        searcher.search("sea", SearchQuery(at))


def test_a_grown_collection_gives_new_answers(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    first = embed(tmp_path / "s", write_raster(tmp_path / "a.tif", land(seed=1)))
    searcher = Searcher(Store(tmp_path / "s"))
    query = SearchQuery(centre(first, "a_4_4"), k=10_000)
    assert searcher.search("land", query).considered == 143
    twin = write_raster(tmp_path / "b.tif", land(seed=1), origin=(520_000, 5_200_000))
    embed(tmp_path / "s", twin)
    again = searcher.search("land", query)
    assert again.considered == 287
    assert found(again)[0] == "b_4_4"
    assert again.similarity[0] == pytest.approx(1, abs=1e-6)
    searcher.store.rename("land", "valley")
    with pytest.raises(CollectionNotFoundError):
        searcher.search("land", query)
    assert searcher.search("valley", query).considered == 287


def test_many_threads_search_at_once(small: Collection) -> None:
    searcher = Searcher(Store(small.path.parent))
    names = [f"a_{i}_{i}" for i in range(12)] * 2
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(
                lambda name: searcher.search("land", SearchQuery(centre(small, name), k=5)), names
            )
        )
    for name, answer, again in zip(names, answers[:12], answers[12:], strict=False):
        assert answer.query_item["id"].to_pylist() == [name]
        assert found(answer) == found(again)


def test_a_place_named_twice_is_one_example(small: Collection, searcher: Searcher) -> None:
    at = centre(small, "a_3_3")
    once = searcher.search("land", SearchQuery(at))
    twice = searcher.search("land", SearchQuery(at, positive=Examples(ids=("a_3_3",))))
    assert found(twice) == found(once)
    assert np.array_equal(twice.similarity, once.similarity)


@pytest.mark.parametrize("apart_m", [90.0, 200.0, 2_000.0])
def test_a_spacing_finds_all_there_are_however_many_crowd_around(
    small: Collection, searcher: Searcher, monkeypatch: pytest.MonkeyPatch, apart_m: float
) -> None:
    query = SearchQuery(centre(small, "a_5_5"), k=60, apart_m=apart_m)
    whole = searcher.search("land", query)
    monkeypatch.setattr(scanning, "MAX_K", 10)
    crowded = Searcher(Store(small.path.parent)).search("land", query)
    assert found(crowded) == found(whole)
    assert len(found(whole)) >= 2
    some = replace(query, filter=Filter(bounds=Bounds(-180, -90, 180, 90)))
    assert found(Searcher(Store(small.path.parent)).search("land", some)) == found(whole)


def test_rows_replaced_while_they_are_read_are_read_again(
    small: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = Searcher(Store(small.path.parent))
    refused = []

    def once(collection: Collection) -> None:
        if not refused:
            refused.append(collection.id)
            raise CollectionChangedError("It was changed.")

    monkeypatch.setattr(loaded_module, "check_unchanged", once)
    at = centre(small, "a_3_3")
    assert len(found(searcher.search("land", SearchQuery(at, k=5)))) == 5
    assert refused == ["land"]


def test_zero_vectors_are_examples_of_nothing(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    vectors[[3, 4]] = 0
    store = Store.create(tmp_path)
    write_collection(tmp_path / "z", spec_of(4), [lambda: vectors])
    searcher = Searcher(store)
    for ids in (("s_0_3",), ("s_0_1", "s_0_4")):
        with pytest.raises(InputError, match=f"vector of '{ids[-1]}' is zero"):
            searcher.search("z", SearchQuery(positive=Examples(ids=ids)))
    wide = vectors[7].astype(np.float64)
    large = tuple((1e308 * (wide / np.abs(wide).max())).tolist())
    found_large = searcher.search("z", SearchQuery(positive=Examples(vectors=(large,)), k=3))
    assert found(found_large)[0] == "s_0_7"
    assert found_large.similarity[0] == pytest.approx(1, abs=1e-5)
