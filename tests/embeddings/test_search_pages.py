"""Pages of an answer: disjoint, complete, of one state; and what is kept between them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from embeddings.errors import CollectionChangedError, CollectionNotFoundError, InputError
from embeddings.index.base import Found
from embeddings.index.build import build_index
from embeddings.index.exact import ExactIndex
from embeddings.query.calibration import Scale
from embeddings.query.examples import Examples
from embeddings.query.filters import Filter
from embeddings.query.polygons import read_polygons
from embeddings.search import Searcher, SearchQuery, SearchResult
from embeddings.search.pages import Answer, Answers, digest
from embeddings.search.searchable import Directed
from embeddings.store import Collection, Store
from embeddings.types import Bounds, LonLat, TimeRange

Embed = Callable[..., Collection]


@pytest.fixture
def searcher(small: Collection) -> Searcher:
    return Searcher(Store(small.path.parent))


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The k of every search of an index, as they come."""
    asked: list[int] = []
    real = ExactIndex.search

    def search(self: ExactIndex, query: Any, k: int, **more: Any) -> Found:
        asked.append(k)
        return real(self, query, k, **more)

    monkeypatch.setattr(ExactIndex, "search", search)
    return asked


def like(name: str, **more: Any) -> SearchQuery:
    return SearchQuery(positive=Examples(ids=(name,)), **more)


def found(result: SearchResult) -> list[str]:
    return result.matches["id"].to_pylist()


def pages(searcher: Searcher, query: SearchQuery, limit: int) -> list[SearchResult]:
    result = searcher.search("land", replace(query, limit=limit))
    got = [result]
    while result.next_offset is not None:
        following = replace(query, limit=limit, offset=result.next_offset, state=result.state)
        result = searcher.search("land", following)
        got.append(result)
    return got


@pytest.mark.parametrize("limit", [1, 7, 40, 49, 50, 51, 10_000])
@pytest.mark.parametrize("more", [{}, {"apart_m": 200.0}, {"filter": Filter(where="lat > 0")}])
def test_pages_are_slices_of_one_search(
    searcher: Searcher, searches: list[int], limit: int, more: dict[str, Any]
) -> None:
    query = like("a_4_4", k=50, **more)
    whole = Searcher(searcher.store).search("land", query)
    searches.clear()
    got = pages(searcher, query, limit)
    assert len(searches) == 1, "page 2 must not search again"
    assert [name for page in got for name in found(page)] == found(whole)
    assert np.concatenate([page.similarity for page in got]).tolist() == whole.similarity.tolist()
    assert np.concatenate([page.percentile for page in got]).tolist() == whole.percentile.tolist()
    assert len(got) == -(-whole.found // limit)
    for page in got:
        assert (page.found, page.matched, page.state) == (whole.found, whole.matched, whole.state)
        assert (page.considered, page.expected_recall) == (whole.considered, 1)
    assert got[-1].next_offset is None


def test_a_page_that_is_no_longer_kept_is_searched_for_again_with_the_same_k(
    searcher: Searcher, searches: list[int]
) -> None:
    whole = searcher.search("land", like("a_4_4", k=50))
    for row in range(12):
        for col in range(3):
            searcher.search("land", like(f"b_{row}_{col}"))
    searches.clear()
    page = searcher.search("land", like("a_4_4", k=50, limit=10, offset=20, state=whole.state))
    assert searches == [51]  # and one more, for the query's own row is dropped
    assert found(page) == found(whole)[20:30]


def test_a_page_beyond_the_end_is_empty(searcher: Searcher) -> None:
    for offset in (50, 51, 10**12):
        page = searcher.search("land", like("a_4_4", k=50, offset=offset))
        assert (found(page), len(page.similarity), page.found) == ([], 0, 50)
        assert page.next_offset is None
    last = searcher.search("land", like("a_4_4", k=50, offset=45, limit=10))
    assert (len(found(last)), last.next_offset) == (5, None)


def test_pages_that_make_no_sense() -> None:
    for limit in (0, -1):
        with pytest.raises(InputError, match=f"limit is {limit}"):
            like("a_4_4", limit=limit)
    with pytest.raises(InputError, match="offset is -1"):
        like("a_4_4", offset=-1)


def test_a_state_that_is_no_longer_is_refused(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    embed(tmp_path / "s", write_raster(tmp_path / "a.tif", land(seed=1)))
    searcher = Searcher(Store(tmp_path / "s"))
    query = like("a_4_4", k=30, limit=10)
    first = searcher.search("land", query)
    following = replace(query, offset=10, state=first.state)
    assert searcher.search("land", following).state == first.state
    assert Searcher(searcher.store).search("land", following).state == first.state
    with pytest.raises(CollectionChangedError, match="state nonsense, now"):
        searcher.search("land", replace(query, state="nonsense"))

    twin = write_raster(tmp_path / "b.tif", land(seed=1), origin=(520_000, 5_200_000))
    embed(tmp_path / "s", twin)
    with pytest.raises(CollectionChangedError, match="Start again at the first page") as caught:
        searcher.search("land", following)
    again = searcher.search("land", query)
    assert f"(state {first.state}, now {again.state})" in str(caught.value)
    assert found(again)[0] == "b_4_4", "the kept answer of the old rows must not be served"
    # Without a state there is nothing to compare: the page is one of the rows as they are.
    assert searcher.search("land", replace(query, offset=10)).state == again.state
    searcher.store.delete("land")
    with pytest.raises(CollectionNotFoundError):
        searcher.search("land", following)


def test_a_new_index_of_the_same_rows_mixes_no_pages(
    tmp_path: Path, land: Any, write_raster: Any, embed: Embed
) -> None:
    collection = embed(tmp_path / "s", write_raster(tmp_path / "a.tif", land(seed=1)))
    searcher = Searcher(Store(tmp_path / "s"))
    states = []
    for _ in range(3):
        first = searcher.search("land", like("a_4_4", k=30, limit=10))
        states.append(first.state)
        build_index(collection)
        with pytest.raises(CollectionChangedError, match="or its index has"):
            searcher.search("land", like("a_4_4", k=30, limit=10, offset=10, state=first.state))
    assert len(set(states)) == 3


def test_threads_that_turn_pages_agree(searcher: Searcher) -> None:
    whole = found(searcher.search("land", like("a_4_4", k=50)))
    fresh = Searcher(searcher.store)
    with ThreadPoolExecutor(6) as pool:
        queries = [like("a_4_4", k=50, limit=10, offset=10 * (i % 5)) for i in range(30)]
        got = list(pool.map(lambda query: found(fresh.search("land", query)), queries))
    assert got == [whole[10 * (i % 5) :][:10] for i in range(30)]


def test_all_stages_are_timed(searcher: Searcher) -> None:
    first = searcher.search("land", like("a_4_4", k=50, limit=10))
    assert list(first.seconds) == ["open", "locate", "filter", "scan", "calibrate", "fetch"]
    assert all(seconds > 0 for seconds in first.seconds.values())
    second = searcher.search("land", like("a_4_4", k=50, limit=10, offset=10))
    assert second.seconds["scan"] == second.seconds["locate"] == 0
    assert second.seconds["open"] > 0


def answer(rows: int) -> Answer:
    found = Found(np.arange(rows), np.zeros(rows, np.float32), rows, 1.0)
    none = np.empty(0)
    vector = np.zeros(0, np.float32)
    directed = Directed(vector, np.empty(0, np.int64), none, none, True, None)
    return Answer(directed, found, rows, Scale(none, none))


def test_few_answers_are_kept_and_the_least_asked_for_go_first() -> None:
    kept = Answers(most=3, most_bytes=10_000)
    for name in "abc":
        kept.put(name, answer(1))
    assert kept.get("a") is not None
    kept.put("d", answer(1))
    assert [name for name in "abcd" if kept.get(name)] == ["a", "c", "d"]
    kept.put("e", answer(800))  # 9,600 bytes
    assert [name for name in "acde" if kept.get(name)] == ["c", "d", "e"]
    kept.put("f", answer(100))
    assert [name for name in "cdef" if kept.get(name)] == ["f"]
    kept.put("huge", answer(2000))
    assert kept.get("huge") is None
    kept.put("f", answer(1))
    kept.put("g", answer(830))
    assert kept.get("f") is not None, "an answer put again counts once"


def test_two_queries_have_one_digest_if_they_ask_the_same() -> None:
    square = shapely.to_geojson(shapely.box(0, 0, 1, 1))
    other = shapely.to_geojson(shapely.box(0, 0, 1, 2))

    def queries() -> list[SearchQuery]:
        """All different; made anew at each call."""
        area, larger = read_polygons(square).area, read_polygons(other).area
        metric = read_polygons(square, "EPSG:32633").area
        at, ids = LonLat(1, 2), Examples(ids=("a", "b"))
        return [
            SearchQuery(at),
            SearchQuery(at, k=11),
            SearchQuery(at, exclude_m=1),
            SearchQuery(at, apart_m=1),
            SearchQuery(LonLat(1, 2.0000000001)),
            SearchQuery(positive=Examples(places=(at,))),
            SearchQuery(at, positive=ids),
            SearchQuery(at, negative=ids),
            SearchQuery(at, positive=Examples(ids=("a, b",))),
            SearchQuery(at, positive=Examples(ids=("a', 'b",))),
            SearchQuery(at, positive=Examples(vectors=((1.0, 2.0),))),
            SearchQuery(at, positive=Examples(vectors=((1.0,), (2.0,)))),
            SearchQuery(at, positive=Examples(areas=(area,))),
            SearchQuery(at, positive=Examples(areas=(larger,))),
            SearchQuery(at, filter=Filter(polygons=(area,))),
            SearchQuery(at, filter=Filter(polygons=(metric,))),
            SearchQuery(at, filter=Filter(polygons=(area, larger))),
            SearchQuery(at, filter=Filter(bounds=Bounds(0, 0, 1, 1))),
            SearchQuery(at, filter=Filter(where="lon < 1")),
            SearchQuery(at, filter=Filter(ids=())),
            SearchQuery(at, filter=Filter(ids=("lon < 1",))),
            SearchQuery(at, filter=Filter(exclude=((at, 1.0),))),
            SearchQuery(at, filter=Filter(time=TimeRange.parse("2020-01-01/.."))),
            SearchQuery(at, filter=Filter(time=TimeRange.parse("../2020-01-01"))),
        ]

    first, again = ([digest(query) for query in queries()] for _ in range(2))
    assert first == again
    assert len(set(first)) == len(first)
