"""Several collections searched as one: joined by id, against a plain loop over all rows."""

from __future__ import annotations

import gc
import hashlib
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from embeddings.errors import (
    CollectionChangedError,
    CollectionNotFoundError,
    InputError,
    ItemNotFoundError,
    OutsideCoverageError,
)
from embeddings.export import result_geojson
from embeddings.index.base import Found
from embeddings.index.build import build_index
from embeddings.index.exact import ExactIndex
from embeddings.index.ivf import IvfIndex
from embeddings.query.examples import Examples
from embeddings.query.filters import Filter
from embeddings.query.polygons import read_polygons
from embeddings.search import Searcher, SearchQuery, SearchResult, Weighted
from embeddings.search.fused_index import FusedIndex
from embeddings.search.joined import Join
from embeddings.spacing import distance_m
from embeddings.spec import EmbeddingSpec
from embeddings.store import Collection, Store
from embeddings.store.collection import Part, Scene
from embeddings.store.reader import Reader
from embeddings.store.schema import write_part
from embeddings.types import Bounds, LonLat
from tests.embeddings.index_data import clustered, spec_of, table_of

COUNT, DIMS = 3000, (64, 48, 32)
NAMES = ("optical", "radar", "place")
BOTH = (Weighted("optical", 2.0), Weighted("radar"))
ALL = tuple(Weighted(name, weight) for name, weight in zip(NAMES, (1, 0.5, 3), strict=True))


def write_table(path: Path, spec: EmbeddingSpec, table: pa.Table) -> Collection:
    """Write a collection of one part with these rows."""
    (path / "parts").mkdir(parents=True, exist_ok=True)
    write_part(path / "parts/s-00000.parquet", table, spec)
    content = (path / "parts/s-00000.parquet").read_bytes()
    rows = table.num_rows
    part = Part("parts/s-00000.parquet", rows, len(content), hashlib.sha256(content).hexdigest())
    shape = {"type": "MultiPolygon", "coordinates": []}
    box = (0.0, -60.0, 60.0, 60.0)
    scene = Scene("s", "f", (), None, shape, box, rows, 0, True, (part,), ())
    now = "2026-01-01T00:00:00+00:00"
    Collection(path, path.name, spec, "CC0-1.0", (scene,), now, now).save()
    return Collection.load(path)


def vectors_of(count: int) -> list[np.ndarray]:
    """Three views of the same places: they agree in part."""
    common = [clustered(count, dim, seed=0) for dim in DIMS]
    own = [clustered(count, dim, seed=5 + i) for i, dim in enumerate(DIMS)]
    return [c + s * o for c, o, s in zip(common, own, (0.2, 0.7, 1.0), strict=True)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three collections of the same places, in different orders, each with gaps of its own."""
    path = Store.create(tmp_path_factory.mktemp("fused") / "store").path
    rng = np.random.default_rng(0)
    for name, dim, vectors in zip(NAMES, DIMS, vectors_of(COUNT), strict=True):
        lost = [] if name == "optical" else rng.choice(np.arange(20, COUNT), 200, replace=False)
        kept = rng.permutation(np.delete(np.arange(COUNT), lost))
        table = table_of(vectors, spec_of(dim), 0)
        write_table(path / name, spec_of(dim), table.take(np.sort(kept) if dim == 64 else kept))
    return path


@pytest.fixture(scope="module")
def searcher(store: Path) -> Searcher:
    return Searcher(Store(store))


class Oracle:
    """Every joined place in the order of the first collection, by a loop over dictionaries."""

    def __init__(self, store: Path, collections: tuple[Weighted, ...]) -> None:
        self.units: dict[str, dict[str, np.ndarray]] = {}
        for each in collections:
            reader = Reader(Store(store).collection(each.collection))
            ids = [name for t in reader.columns(("id",)) for name in t["id"].to_pylist()]
            values = np.concatenate([v for _, v in reader.batches()]).astype(np.float64)
            values /= np.linalg.norm(values, axis=1, keepdims=True)
            self.units[each.collection] = dict(zip(ids, values, strict=True))
        shared = set.intersection(*(set(units) for units in self.units.values()))
        self.ids = [name for name in self.units[collections[0].collection] if name in shared]
        total = sum(each.weight for each in collections)
        self.shares = {each.collection: each.weight / total for each in collections}

    def cosines(self, query: str) -> dict[str, np.ndarray]:
        return {
            name: np.array([units[other] @ units[query] for other in self.ids])
            for name, units in self.units.items()
        }

    def best(self, query: str, k: int, allowed: set[str] | None = None) -> list[str]:
        cosines = self.cosines(query)
        fused = np.sum([share * cosines[name] for name, share in self.shares.items()], axis=0)
        order = np.lexsort((np.arange(len(fused)), -fused))
        ranked = [self.ids[i] for i in order if self.ids[i] != query]
        return [name for name in ranked if allowed is None or name in allowed][:k]


def found(result: SearchResult) -> list[str]:
    return result.matches["id"].to_pylist()


def like(name: str, **more: Any) -> SearchQuery:
    return SearchQuery(positive=Examples(ids=(name,)), **more)


@pytest.mark.parametrize("collections", [BOTH, ALL, BOTH[::-1]], ids=["two", "three", "turned"])
def test_the_best_are_those_of_the_oracle(
    store: Path, searcher: Searcher, collections: tuple[Weighted, ...]
) -> None:
    oracle = Oracle(store, collections)
    for query in oracle.ids[5::700]:
        result = searcher.search_fused(collections, like(query, k=30))
        assert found(result) == oracle.best(query, 30)
        cosines = oracle.cosines(query)
        at = [oracle.ids.index(name) for name in found(result)]
        for name in oracle.units:
            assert np.allclose(result.similarities[name], cosines[name][at], atol=1e-6)
        mean = sum(oracle.shares[n] * result.similarities[n] for n in oracle.units)
        assert np.allclose(result.similarity, mean, atol=1e-6)
        assert result.matched == result.considered == len(oracle.ids) - 1
        assert result.expected_recall == 1
        assert result.collection.id == collections[0].collection
        assert dict(result.weights) == {each.collection: each.weight for each in collections}


def test_only_how_the_weights_compare_counts(searcher: Searcher) -> None:
    once = searcher.search_fused(BOTH, like("s_0_7"))
    again = searcher.search_fused((Weighted("optical", 200), Weighted("radar", 100)), like("s_0_7"))
    assert found(once) == found(again)
    other = searcher.search_fused((Weighted("optical", 0.01), Weighted("radar")), like("s_0_7"))
    alone = searcher.search("radar", like("s_0_7"))
    assert len(set(found(other)) & set(found(alone))) > len(set(found(once)) & set(found(alone)))


def test_rows_in_one_collection_only_are_no_results_and_are_counted(
    store: Path, searcher: Searcher
) -> None:
    everything = searcher.search_fused(BOTH, like("s_0_7", k=50_000))
    oracle = Oracle(store, BOTH)
    assert set(found(everything)) == set(oracle.ids) - {"s_0_7"}
    assert everything.matched == COUNT - 200 - 1
    assert everything.notes == (
        "Rows without a partner in the other collections: 200 of 'optical'.",
    )
    three = searcher.search_fused(ALL, like("s_0_7"))
    assert "of 'optical'" in three.notes[0]
    assert "of 'place'" in three.notes[0]


def test_filters_spacing_and_exclusion_hold_on_the_joined_rows(
    store: Path, searcher: Searcher
) -> None:
    oracle = Oracle(store, BOTH)
    everything = searcher.search_fused(BOTH, like("s_0_7", k=50_000)).matches
    place = dict(
        zip(
            everything["id"].to_pylist(),
            zip(everything["lon"].to_pylist(), everything["lat"].to_pylist(), strict=True),
            strict=True,
        )
    )
    inside = {name for name, (lon, lat) in place.items() if 10 <= lon <= 40 and 0 <= lat <= 30}
    wanted = Filter(bounds=Bounds(10, 0, 40, 30))
    boxed = searcher.search_fused(BOTH, like("s_0_7", k=40, filter=wanted))
    assert found(boxed) == oracle.best("s_0_7", 40, inside)
    assert boxed.matched == len(inside)

    named = searcher.search_fused(BOTH, like("s_0_7", filter=Filter(ids=("s_0_1", "none"))))
    assert found(named) == ["s_0_1"]
    nothing = searcher.search_fused(BOTH, like("s_0_7", filter=Filter(where="lon > 100")))
    assert (found(nothing), nothing.matched) == ([], 0)

    apart = searcher.search_fused(BOTH, like("s_0_7", k=15, apart_m=900_000))
    kept: list[str] = []
    for name in oracle.best("s_0_7", COUNT):
        if len(kept) < 15 and all(
            distance_m(LonLat(*place[name]), *(np.array([v]) for v in place[other]))[0] >= 900_000
            for other in kept
        ):
            kept.append(name)
    assert found(apart) == kept

    item = Reader(Store(store).collection("optical")).item("s_0_7").to_pylist()[0]
    at = LonLat(item["lon"], item["lat"])
    far = {
        name
        for name, (lon, lat) in place.items()
        if distance_m(at, np.array([lon]), np.array([lat]))[0] > 2_000_000
    }
    excluded = searcher.search_fused(BOTH, SearchQuery(at, k=25, exclude_m=2_000_000))
    assert excluded.query_item["id"].to_pylist() == ["s_0_7"]
    assert found(excluded) == oracle.best("s_0_7", 25, far)


def test_several_examples_of_all_kinds_are_resolved_in_each_collection(searcher: Searcher) -> None:
    matches = searcher.search_fused(BOTH, like("s_0_7", k=3)).matches.to_pylist()
    lon, lat = matches[2]["lon"], matches[2]["lat"]
    box = [[lon - 0.001, lat - 0.001], [lon + 0.001, lat - 0.001], [lon, lat + 0.001]]
    area = read_polygons({"type": "Polygon", "coordinates": [[*box, box[0]]]}).area
    positive = Examples(ids=("s_0_7", matches[0]["id"]), areas=(area,))
    query = SearchQuery(
        LonLat(matches[1]["lon"], matches[1]["lat"]),
        k=50,
        positive=positive,
        negative=Examples(ids=("s_0_11",)),
    )
    result = searcher.search_fused(BOTH, query)
    used = {"s_0_7", "s_0_11", *(match["id"] for match in matches)}
    assert not used & set(found(result))
    assert result.matched == COUNT - 200 - 5
    assert (np.diff(result.similarity) <= 0).all()
    assert (np.diff(result.percentile) <= 0).all()


def test_percentiles_come_from_fused_pairs(store: Path, searcher: Searcher) -> None:
    oracle = Oracle(store, BOTH)
    rng = np.random.default_rng(3)
    one, other = rng.choice(oracle.ids, (2, 40_000))
    pairs = sum(
        oracle.shares[name]
        * np.einsum(
            "ij,ij->i", np.stack([units[i] for i in one]), np.stack([units[i] for i in other])
        )
        for name, units in oracle.units.items()
    )
    result = searcher.search_fused(BOTH, like("s_0_7", k=2000))
    for rank in (100, 700, 1900):
        share = (pairs <= result.similarity[rank]).mean()
        assert result.percentile[rank] == pytest.approx(share, abs=0.02)


def test_pages_and_precision_hold_here_too(searcher: Searcher) -> None:
    whole = searcher.search_fused(BOTH, like("s_0_7", k=60))
    ids = found(whole)
    judged = {"confirmed": tuple(ids[:5]), "rejected": tuple(ids[40:46])}
    pages = [
        searcher.search_fused(
            BOTH, like("s_0_7", k=60, limit=25, offset=at, state=whole.state, **judged)
        )
        for at in (0, 25, 50)
    ]
    assert [name for page in pages for name in found(page)] == ids
    assert [page.next_offset for page in pages] == [25, 50, None]
    precision = np.concatenate([page.judged.precision for page in pages if page.judged])
    assert len(precision) == 60
    assert (np.diff(precision) <= 1e-12).all()
    assert precision[4] > 0.9 > 0.6 > precision[-1]
    with pytest.raises(CollectionChangedError):
        searcher.search_fused(BOTH[::-1], like("s_0_7", state=whole.state))


def test_the_answer_names_each_cosine(searcher: Searcher) -> None:
    result = searcher.search_fused(BOTH, like("s_0_7", k=3))
    answer = result_geojson(result)
    assert answer["collections"] == [
        {"id": "optical", "weight": 2.0},
        {"id": "radar", "weight": 1.0},
    ]
    for feature in answer["features"]:
        each = feature["properties"]["similarities"]
        mean = (2 * each["optical"] + each["radar"]) / 3
        assert feature["properties"]["similarity"] == pytest.approx(mean, abs=2e-6)


@pytest.mark.parametrize(
    ("collections", "error", "says"),
    [
        ((), InputError, "0 collection"),
        ((Weighted("optical"),), InputError, "name 2 to 8"),
        (tuple(Weighted(f"c{i}") for i in range(9)), InputError, "9 collection"),
        ((Weighted("optical"), Weighted("optical", 2)), InputError, "'optical' is named twice"),
        ((Weighted("optical"), Weighted("sonar")), CollectionNotFoundError, "'sonar'"),
        ((Weighted("optical"), Weighted("../optical")), CollectionNotFoundError, "There: "),
    ],
)
def test_collections_that_cannot_be_searched_together(
    searcher: Searcher, collections: tuple[Weighted, ...], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        searcher.search_fused(collections, like("s_0_7"))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf"), 1e-9, 1e9])
def test_weights_that_make_no_sense(weight: float) -> None:
    with pytest.raises(InputError, match=r"weight of 'a' is .* 0.001 to 1,000"):
        Weighted("a", weight)


def test_examples_that_belong_to_one_collection(store: Path, searcher: Searcher) -> None:
    with pytest.raises(InputError, match="belongs to the space of one collection"):
        searcher.search_fused(BOTH, SearchQuery(positive=Examples(vectors=((1.0,) * 64,))))
    with pytest.raises(InputError, match="belongs to the space of one collection"):
        searcher.search_fused(BOTH, like("s_0_7", negative=Examples(vectors=((1.0,) * 64,))))
    oracle = Oracle(store, BOTH)
    alone = next(name for name in oracle.units["optical"] if name not in oracle.units["radar"])
    with pytest.raises(ItemNotFoundError, match=f"'radar' has no item '{alone}'"):
        searcher.search_fused(BOTH, like(alone))
    with pytest.raises(ItemNotFoundError, match=f"'{alone}' of .* has no partner"):
        searcher.search_fused(BOTH, like("s_0_7", confirmed=(alone,)))


def test_collections_of_other_places_are_refused(tmp_path: Path) -> None:
    path = Store.create(tmp_path / "s").path
    spec = spec_of(8)
    table = table_of(clustered(50, 8), spec, 0)
    write_table(path / "a", spec, table)
    write_table(path / "empty", spec, table.slice(0, 0))
    other = table.set_column(0, "id", pa.array([f"x_{i}" for i in range(50)]))
    write_table(path / "b", spec, other)
    lon = table["lon"].to_numpy().copy()
    lon[17] += 0.001  # 100 m, half of the chip
    write_table(path / "c", spec, table.set_column(3, "lon", pa.array(lon)))
    near = table["lon"].to_numpy() + 0.0001  # 10 m: another product's own pixels
    write_table(path / "d", spec, table.set_column(3, "lon", pa.array(near)))
    searcher = Searcher(Store(path))
    with pytest.raises(InputError, match="share no item ids: 's_0_0' of 'a', 'x_0' of 'b'"):
        searcher.search_fused((Weighted("a"), Weighted("b")), like("s_0_7"))
    with pytest.raises(InputError, match="'a' and 'c' are not on one grid: 's_0_17' lies at") as no:
        searcher.search_fused((Weighted("a"), Weighted("c")), like("s_0_7"))
    for at in (lon[17], lon[17] - 0.001):
        assert f"{at:.6f}, {table['lat'][17].as_py():.6f}" in str(no.value)
    with pytest.raises(OutsideCoverageError, match="'empty' is still empty"):
        searcher.search_fused((Weighted("a"), Weighted("empty")), like("s_0_7"))
    assert searcher.search_fused((Weighted("a"), Weighted("d")), like("s_0_7")).matched == 49
    # Of chips of 22 m, 10 m is another chip.
    middle, lat = table["lon"].to_numpy(), table["lat"].to_numpy()
    sides = zip(("xmin", "xmax", "ymin", "ymax"), (middle, middle, lat, lat), strict=True)
    box = {name: axis + 1e-4 * (1 if "max" in name else -1) for name, axis in sides}
    order = [field.name for field in table.schema.field("bbox").type]
    boxes = pa.StructArray.from_arrays([pa.array(box[name]) for name in order], order)
    write_table(path / "fine", spec, table.set_column(5, "bbox", boxes))
    with pytest.raises(InputError, match="'fine' and 'd' are not on one grid"):
        searcher.search_fused((Weighted("fine"), Weighted("d")), like("s_0_7"))


def test_changed_rows_are_joined_anew_and_lost_ones_let_go(tmp_path: Path) -> None:
    path = Store.create(tmp_path / "s").path
    tables = [table_of(clustered(60, dim, seed=dim), spec_of(dim), 0) for dim in (8, 6)]
    for name, dim, table in zip("ab", (8, 6), tables, strict=True):
        write_table(path / name, spec_of(dim), table)
    searcher, pair = Searcher(Store(path)), (Weighted("a"), Weighted("b"))
    first = searcher.search_fused(pair, like("s_0_7", k=5, limit=2))
    write_table(path / "b", spec_of(6), tables[1].slice(0, 40))
    with pytest.raises(CollectionChangedError, match="Start again at the first page"):
        searcher.search_fused(pair, like("s_0_7", k=5, limit=2, offset=2, state=first.state))
    again = searcher.search_fused(pair, like("s_0_7", k=100))
    assert (again.matched, again.state == first.state) == (39, False)
    joined = weakref.ref(searcher._fused._known["a", "b"].joined)
    assert joined() is not None
    searcher.store.delete("b")
    del again, first
    searcher.search("a", like("s_0_7"))
    gc.collect()
    assert joined() is None


def test_lists_and_scan_give_one_answer(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threshold algorithm over exact lists misses nothing, whatever the weights."""
    monkeypatch.setattr("embeddings.search.fused_index.LEAST_LISTED", 1)
    held = [searcher._held.get(name) for name in NAMES]
    assert all(isinstance(each.loaded.index, ExactIndex) for each in held)
    joined = Join.of([each.loaded for each in held])
    rng = np.random.default_rng(4)
    stopped = 0
    for weights in ((1, 1, 1), (1, 0.01, 0.01), (0.2, 5, 1), (1000, 1000, 0.001)):
        index = FusedIndex(joined, weights)
        for allowed in (None, np.sort(rng.choice(joined.count, 1500, replace=False))):
            query = index.vector(int(rng.integers(joined.count)))
            for k in (1, 10, 100):
                truth = index.search(query, k, rows=allowed)
                found = index.by_lists(query, k, allowed, joined.count // 2)
                if found is not None:
                    stopped += 1
                    assert found.rows.tolist() == truth.rows.tolist()
                    assert found.cosines.tolist() == truth.cosines.tolist()
                    assert found.considered <= truth.considered
    assert stopped > 8


def test_equal_vectors_everywhere_are_ranked_by_row(tmp_path: Path) -> None:
    path = Store.create(tmp_path / "s").path
    for name, dim in (("a", 8), ("b", 6)):
        write_table(path / name, spec_of(dim), table_of(np.ones((40, dim)), spec_of(dim), 0))
    searcher = Searcher(Store(path))
    result = searcher.search_fused((Weighted("a"), Weighted("b")), like("s_0_0", k=10))
    assert found(result) == [f"s_0_{i}" for i in range(1, 11)]
    assert result.similarity.tolist() == pytest.approx([1.0] * 10)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two collections of 20,000 places with approximate indexes."""
    path = Store.create(tmp_path_factory.mktemp("indexed") / "store").path
    for name, dim, vectors in zip(NAMES[:2], DIMS, vectors_of(20_000)[:2], strict=False):
        made = write_table(path / name, spec_of(dim), table_of(vectors, spec_of(dim), 0))
        build_index(made, ivf_rows=1)
    return path


def test_over_approximate_indexes_the_recall_stated_holds(
    indexed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embeddings.index.ivf.SCAN_VALUES", 6400)
    monkeypatch.setattr("embeddings.search.fused_index.SCAN_VALUES", 6400)
    monkeypatch.setattr("embeddings.search.fused_index.LEAST_LISTED", 100)
    searcher = Searcher(Store(indexed))
    pair = (Weighted("optical"), Weighted("radar"))
    held = [searcher._held.get(name) for name in NAMES[:2]]
    assert all(isinstance(each.loaded.index, IvfIndex) for each in held)
    oracle = FusedIndex(Join.of([each.loaded for each in held]), (1, 1))
    recalls, stated, considered = [], [], []
    for row in range(100, 20_000, 500):
        result = searcher.search_fused(pair, like(f"s_0_{row}", k=20))
        truth = oracle._scan(oracle.vector(row), oracle._parts(oracle.vector(row)), 21, None)
        recalls.append((result.similarity >= truth.cosines[-1] - 1e-6).mean())
        stated.append(result.expected_recall)
        considered.append(result.considered)
    assert np.mean(considered) < 15_000, "a scan would have shown nothing"
    assert np.mean(recalls) >= np.mean(stated) - 0.01
    assert np.mean(stated) > 0.95


def test_the_recall_stated_is_that_of_the_weakest_list(
    indexed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = IvfIndex.search

    def search(self: IvfIndex, *given: Any, **more: Any) -> Found:
        return replace(real(self, *given, **more), expected_recall=self.dim / 100)

    monkeypatch.setattr(IvfIndex, "search", search)
    monkeypatch.setattr("embeddings.search.fused_index.SCAN_VALUES", 6400)
    pair = (Weighted("optical"), Weighted("radar"))
    searcher = Searcher(Store(indexed))
    assert searcher.search_fused(pair, like("s_0_7")).expected_recall == DIMS[1] / 100
    few = Filter(ids=tuple(f"s_0_{i}" for i in range(50)))
    assert searcher.search_fused(pair, like("s_0_7", filter=few)).expected_recall == 1


def test_a_new_index_is_a_new_state(indexed: Path) -> None:
    searcher = Searcher(Store(indexed))
    pair = (Weighted("optical"), Weighted("radar"))
    first = searcher.search_fused(pair, like("s_0_7", k=10, limit=5))
    build_index(Store(indexed).collection("radar"), ivf_rows=1)
    with pytest.raises(CollectionChangedError, match="or its index has"):
        searcher.search_fused(pair, like("s_0_7", k=10, limit=5, offset=5, state=first.state))
