"""Confirmed and rejected results become a precision of what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings.errors import InputError, ItemNotFoundError
from embeddings.export import result_geojson, write_places
from embeddings.query.calibration import precision_curve
from embeddings.query.examples import Examples
from embeddings.search import Searcher, SearchQuery, SearchResult
from embeddings.store import Store
from tests.embeddings.index_data import clustered, spec_of, write_collection

COUNT = 4000


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    path = Store.create(tmp_path_factory.mktemp("judged") / "store").path
    vectors = clustered(COUNT, centres=20)
    write_collection(path / "c", spec_of(64), [lambda: vectors])
    return Searcher(Store(path))


def search(searcher: Searcher, **more: Any) -> SearchResult:
    return searcher.search("c", SearchQuery(positive=Examples(ids=("s_0_5",)), **more))


def ids(result: SearchResult) -> list[str]:
    return result.matches["id"].to_pylist()


def test_the_curve_is_that_of_all_results_on_every_page(searcher: Searcher) -> None:
    whole = search(searcher, k=500)
    names = ids(whole)
    ranks = [0, 3, 10, 60, 120, 200, 330, 480]
    right = np.array([True, True, True, True, False, True, False, False])
    judged = {
        "confirmed": tuple(names[r] for r, yes in zip(ranks, right, strict=True) if yes),
        "rejected": tuple(names[r] for r, yes in zip(ranks, right, strict=True) if not yes),
    }
    expected = precision_curve(whole.similarity, whole.similarity[ranks], right)
    for page in (
        search(searcher, k=500, **judged),
        search(searcher, k=500, limit=20, offset=300, **judged),
    ):
        assert page.judged is not None
        for name in ("threshold", "precision", "low", "high", "labels"):
            assert getattr(page.judged.curve, name).tolist() == getattr(expected, name).tolist()
    every = search(searcher, k=500, **judged).judged
    assert every is not None
    # At a judged result the curve and the result say the same.
    assert every.precision[ranks].tolist() == expected.precision.tolist()
    assert every.low[ranks].tolist() == expected.low.tolist()
    assert every.high[ranks].tolist() == expected.high.tolist()
    assert (np.diff(every.precision) <= 1e-12).all()
    assert ((every.low >= 0) & (every.low <= every.precision + 1e-12)).all()
    assert ((every.precision - 1e-12 <= every.high) & (every.high <= 1)).all()
    page = search(searcher, k=500, limit=20, offset=300, **judged).judged
    assert page is not None
    assert page.precision.tolist() == every.precision[300:320].tolist()
    assert page.high.tolist() == every.high[300:320].tolist()


def test_judged_items_that_were_not_found_count_by_their_cosine(searcher: Searcher) -> None:
    names = ids(search(searcher, k=1000))
    judged = {"confirmed": tuple(names[:5]), "rejected": tuple(names[700:705])}
    few = search(searcher, k=50, **judged)
    assert few.judged is not None
    assert few.judged.curve.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert few.judged.curve.precision[-1] == few.judged.precision[-1]
    # All fifty are nearer to the confirmed than to any that was rejected.
    assert few.judged.precision.tolist() == [1.0] * 50
    assert few.judged.low[-1] < 0.8
    # Found before, the same query is not searched for again; other answers change what it says.
    other = search(searcher, k=50, confirmed=judged["rejected"], rejected=judged["confirmed"])
    assert other.judged is not None
    assert other.judged.precision[-1] == 0.5


@pytest.mark.parametrize(("right", "wrong"), [(0, 9), (9, 0), (2, 9), (9, 2), (1, 0)])
def test_too_few_answers_say_nothing(searcher: Searcher, right: int, wrong: int) -> None:
    names = ids(search(searcher, k=40))
    result = search(
        searcher, k=40, confirmed=tuple(names[:right]), rejected=tuple(names[20 : 20 + wrong])
    )
    assert result.judged is None
    assert result.notes == (
        f"No precision is estimated from {right} confirmed and {wrong} rejected; it takes 3 of "
        "each.",
    )
    assert search(searcher, k=40).notes == ()


def test_examples_of_the_query_are_no_answers(searcher: Searcher) -> None:
    names = ids(search(searcher, k=40))
    more = {"confirmed": ("s_0_5", *names[:4]), "rejected": tuple(names[30:34])}
    result = search(searcher, k=40, **more)
    assert result.judged is not None
    assert result.judged.curve.labels[-1] == 8
    assert result.notes[0].startswith("1 of the confirmed or rejected are examples of this query")
    refined = SearchQuery(
        positive=Examples(ids=("s_0_5", *names[:4])), negative=Examples(ids=names[30:34]), **more
    )
    again = searcher.search("c", refined)
    assert again.judged is None
    assert again.notes[0].startswith("9 of")
    assert "from 0 confirmed and 0 rejected" in again.notes[1]


def test_answers_that_make_no_sense(searcher: Searcher) -> None:
    with pytest.raises(InputError, match="'x' is both confirmed and rejected"):
        search(searcher, confirmed=("y", "x"), rejected=("x", "z"))
    many = tuple(f"s_0_{i}" for i in range(1001))
    with pytest.raises(InputError, match="1,001 items are confirmed; 1,000 may be"):
        search(searcher, confirmed=many)
    with pytest.raises(InputError, match="1,001 items are rejected; 1,000 may be"):
        search(searcher, rejected=many)
    for odd in ("nobody", "", "'; DROP TABLE c", "s_0_5\0", "ä" * 5000):
        with pytest.raises(ItemNotFoundError, match="'c' has no item"):
            search(searcher, confirmed=("s_0_9",), rejected=("s_0_8", odd))
    twice = search(searcher, confirmed=("s_0_9",) * 5, rejected=("s_0_8",) * 5)
    assert twice.judged is None
    assert "from 1 confirmed and 1 rejected" in twice.notes[0]


def test_nothing_found_has_no_precision(searcher: Searcher) -> None:
    names = ids(search(searcher, k=40))
    more = {"confirmed": tuple(names[:4]), "rejected": tuple(names[30:34])}
    result = search(searcher, exclude_m=3e7, **more)
    assert (ids(result), result.judged) == ([], None)
    beyond = search(searcher, k=40, offset=100, **more)
    assert beyond.judged is not None
    assert len(beyond.judged.precision) == 0
    assert (
        result_geojson(beyond)["precision"]
        == result_geojson(search(searcher, k=40, **more))["precision"]
    )


def test_files_hold_the_precision(searcher: Searcher, tmp_path: Path) -> None:
    import geopandas

    names = ids(search(searcher, k=40))
    result = search(searcher, k=40, confirmed=tuple(names[:4]), rejected=tuple(names[30:34]))
    answer = result_geojson(result)
    assert [step["labels"] for step in answer["precision"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert set(answer["precision"][0]) == {"similarity", "precision", "low", "high", "labels"}
    for suffix in (".gpkg", ".parquet"):
        write_places(answer, tmp_path / f"places{suffix}")
        read = geopandas.read_file if suffix == ".gpkg" else geopandas.read_parquet
        places = read(tmp_path / f"places{suffix}")
        for name in ("precision", "precision_low", "precision_high"):
            written = [feature["properties"][name] for feature in answer["features"]]
            assert places[name].tolist() == written
    plain = result_geojson(search(searcher, k=40))
    assert plain["precision"] is None
    assert "precision" not in plain["features"][0]["properties"]
