"""The approximate index against the exact scan: recall, filters, ties, what it says of itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embeddings import codec
from embeddings.errors import InputError, StoreFormatError
from embeddings.index.build import build_index
from embeddings.index.curve import RecallCurve
from embeddings.index.exact import ExactIndex
from embeddings.index.ivf import IvfIndex
from embeddings.index.lists import LISTS_FILE, Lists, Plan
from embeddings.index.open import open_index
from embeddings.index.scan import unit
from embeddings.index.shapes import upper_tail
from embeddings.index.vectors import VectorFile
from embeddings.query.examples import Background, direction
from embeddings.store.collection import Collection
from tests.embeddings.index_data import clustered, spec_of, write_collection

COUNT, DIM, PARTS = 20_000, 64, 4

HALF = 2e-4
"""How far float16 moves a cosine of 64 values."""


def pieces(vectors: np.ndarray) -> list[Any]:
    return [lambda piece=piece: piece for piece in np.array_split(vectors, PARTS)]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    made = clustered(COUNT, DIM)
    made[[3, 7000, 19_999]] = 0
    made[100:140] = made[100]  # forty equal ones
    return made


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Collection:
    path = tmp_path_factory.mktemp("ivf") / "clusters"
    made = write_collection(path, spec_of(DIM), pieces(vectors))
    build_index(made, ivf_rows=1)
    return made


@pytest.fixture(scope="module")
def index(collection: Collection) -> IvfIndex:
    opened = open_index(collection)
    assert isinstance(opened, IvfIndex)
    return opened


@pytest.fixture(scope="module")
def exact(vectors: np.ndarray) -> ExactIndex:
    return ExactIndex([vectors], COUNT, DIM)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this small index use its lists as a large one does."""
    monkeypatch.setattr("embeddings.index.ivf.SCAN_VALUES", 100 * DIM)


def shared(found: Any, truth: Any) -> float:
    """Share of the true best found, where what is equal to the last counts too."""
    return float((found.cosines >= truth.cosines[-1] - HALF).mean())


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("k", [1, 10, 50, 100, 1000])
def test_the_recall_is_what_was_asked_for_and_what_is_stated(
    index: IvfIndex, exact: ExactIndex, k: int
) -> None:
    recalls, stated, considered = [], [], []
    for query in clustered(400, DIM, seed=9):
        found, truth = index.search(query, k), exact.search(query, k)
        assert len(found.rows) == len(set(found.rows.tolist())) == k
        recalls.append(len(np.intersect1d(found.rows, truth.rows)) / k)
        stated.append(found.expected_recall)
        considered.append(found.considered)
    assert np.mean(recalls) >= 0.985
    assert abs(np.mean(recalls) - np.mean(stated)) <= 0.01
    assert np.mean(considered) < COUNT * (0.6 if k > 100 else 0.3)


@pytest.mark.usefixtures("few")
def test_cosines_are_those_of_the_scan_to_the_precision_of_float16(
    index: IvfIndex, vectors: np.ndarray
) -> None:
    for query in clustered(20, DIM, seed=10):
        found = index.search(query, 200)
        v, q = vectors[found.rows].astype(np.float64), query.astype(np.float64)
        true = v @ q / np.linalg.norm(v, axis=1) / np.linalg.norm(q)
        assert np.abs(found.cosines - true).max() < HALF
        order = np.lexsort((found.rows, -found.cosines))
        assert order.tolist() == list(range(200))
        assert found.cosines.tolist() == index.search(query, 200).cosines.tolist()


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.02, 0.001, 0.0001, 0.0])
@pytest.mark.parametrize("k", [1, 100, 3000])
def test_a_filter_gives_exactly_k_or_all_there_are(
    index: IvfIndex, exact: ExactIndex, share: float, k: int
) -> None:
    rng = np.random.default_rng(int(share * 1e6) + k)
    recalls = []
    for query in clustered(10, DIM, seed=11):
        mask = rng.random(COUNT) < share
        found, truth = index.search(query, k, mask), exact.search(query, k, mask)
        assert len(found.rows) == len(set(found.rows.tolist())) == min(k, mask.sum())
        assert mask[found.rows].all()
        same = index.search(query, k, rows=np.flatnonzero(mask))
        assert same.rows.tolist() == found.rows.tolist()
        assert found.considered <= mask.sum()
        if len(found.rows):
            recalls.append(shared(found, truth))
    assert not recalls or np.mean(recalls) >= 0.98


@pytest.mark.usefixtures("few")
def test_a_filter_far_from_the_query_is_searched_as_well(
    index: IvfIndex, exact: ExactIndex
) -> None:
    """The allowed rows are those least like the query: none stands in the lists near it."""
    for query in clustered(10, DIM, seed=12):
        everything = exact.search(query, COUNT)
        mask = np.zeros(COUNT, bool)
        mask[everything.rows[-4000:]] = True
        found, truth = index.search(query, 100, mask), exact.search(query, 100, mask)
        assert len(found.rows) == 100
        assert shared(found, truth) >= 0.98


def test_few_allowed_rows_are_scanned_exactly(index: IvfIndex, exact: ExactIndex) -> None:
    query = clustered(1, DIM, seed=13)[0]
    rows = np.arange(0, COUNT, 7)
    found, truth = index.search(query, 50, rows=rows), exact.search(query, 50, rows=rows)
    assert (found.expected_recall, found.considered) == (1.0, len(rows))
    assert shared(found, truth) == 1


@pytest.mark.usefixtures("few")
def test_more_than_was_measured_is_scanned(index: IvfIndex) -> None:
    found = index.search(clustered(1, DIM, seed=14)[0], 15_000)
    assert (len(found.rows), found.considered, found.expected_recall) == (15_000, COUNT, 1.0)
    assert len(index.search(clustered(1, DIM, seed=14)[0], COUNT + 5).rows) == COUNT


@pytest.mark.usefixtures("few")
def test_equal_vectors_come_in_the_order_of_their_rows(index: IvfIndex) -> None:
    found = index.search(index.vector(110), 40)
    assert found.rows.tolist() == list(range(100, 140))
    assert len(set(found.cosines.tolist())) == 1


@pytest.mark.usefixtures("few")
def test_a_zero_vector_has_cosine_0_and_no_direction(index: IvfIndex) -> None:
    assert not index.vector(7000).any()
    query = clustered(1, DIM, seed=15)[0]
    found = index.search(query, COUNT)
    assert found.cosines[np.isin(found.rows, [3, 7000, 19_999])].tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="has no direction"):
        index.search(index.vector(7000), 5)


def test_what_cannot_be_asked_is_refused(index: IvfIndex) -> None:
    query = np.ones(DIM, np.float32)
    for wrong, message in [
        ((np.ones(3, np.float32), 5), "has shape"),
        ((np.full(DIM, np.nan, np.float32), 5), "has no direction"),
        ((query, 0), "k is 0"),
        ((query, 5, np.ones(3, bool)), "mask has shape"),
        ((query, 5, None, np.array([-1, 4])), "lie between 0"),
    ]:
        with pytest.raises(InputError, match=message):
            index.search(*wrong)


@pytest.mark.usefixtures("few")
def test_threads_get_the_answers_of_one(index: IvfIndex) -> None:
    queries = clustered(100, DIM, seed=16)
    mask = np.random.default_rng(0).random(COUNT) < 0.4

    def ask(number: int) -> list[int]:
        return index.search(queries[number], 50, mask if number % 2 else None).rows.tolist()

    alone = [ask(number) for number in range(100)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(100))) == alone


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.usefixtures("few")
def test_every_storage_type_and_a_centre(tmp_path: Path, dtype: str, centred: bool) -> None:
    vectors = clustered(6000, 32, seed=3) + np.float32(2 if centred else 0)
    scale = codec.fit_scale(vectors) if dtype == "int8" else None
    centre = tuple(vectors.mean(axis=0).astype(float).tolist()) if centred else None
    spec = spec_of(32, dtype=dtype, scale=scale, centre=centre)
    made = write_collection(tmp_path / "c", spec, pieces(vectors))
    build_index(made, ivf_rows=1)
    index = open_index(made)
    assert isinstance(index, IvfIndex)
    stored = codec.decode(codec.encode(vectors, spec.dtype, scale), spec.dtype, scale)
    middle = np.float32(0) if centre is None else np.array(centre, np.float32)
    exact = ExactIndex([stored - middle], 6000, 32)
    recalls = []
    for row in range(0, 6000, 60):
        found = index.search(index.vector(row), 20)
        truth = exact.search(exact.vector(row), 20)
        assert found.rows[0] == row
        recalls.append(shared(found, truth))
    assert np.mean(recalls) >= 0.985


def test_the_4_bit_code_of_very_large_collections(
    tmp_path: Path, vectors: np.ndarray, exact: ExactIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embeddings.index.lists.SQ8_BYTES", 1000)
    monkeypatch.setattr("embeddings.index.ivf.SCAN_VALUES", 100 * DIM)
    made = write_collection(tmp_path / "c", spec_of(DIM), pieces(vectors))
    report = build_index(made, ivf_rows=1)
    size = sum((report.folder / name).stat().st_size for name in ("vectors.f16", "ivf.faiss"))
    shapes = 2 * COUNT + 4 * 128 * 10 * DIM
    assert size < COUNT * (2 * DIM + DIM // 2 + 8) * 1.05 + shapes
    index = open_index(made)
    assert isinstance(index, IvfIndex)
    queries = clustered(200, DIM, seed=17)
    pairs = [(index.search(query, 100), exact.search(query, 100)) for query in queries]
    recall = np.mean([len(np.intersect1d(a.rows, b.rows)) / 100 for a, b in pairs])
    assert recall >= 0.985
    assert abs(recall - pairs[0][0].expected_recall) <= 0.01


def test_a_collection_of_zeros_is_scanned(tmp_path: Path) -> None:
    made = write_collection(tmp_path / "c", spec_of(8), pieces(np.zeros((3000, 8), np.float32)))
    assert build_index(made, ivf_rows=1).kind == "scan"
    index = open_index(made)
    assert isinstance(index, VectorFile)
    found = index.search(np.ones(8, np.float32), 4)
    assert (found.rows.tolist(), found.cosines.tolist()) == ([0, 1, 2, 3], [0, 0, 0, 0])


def test_a_curve_promises_no_more_than_was_measured() -> None:
    curve = RecallCurve(
        (1, 10, 100),
        (0.9, 0.99, 0.999),
        ((0.9, 0.99, 0.999), (0.92, 0.992, 0.999), (0.9, 0.99, 1.0)),
        ((0.94, 0.99, 1.0), (0.9, 0.98, 0.999), (0.9, 0.95, 0.995)),
        ((0.0,) * 3, (0.0,) * 3, (0.0, 0.0, 0.001)),
    )
    assert RecallCurve.from_json(asdict(curve)) == curve
    assert [curve.expected(k, 0.99) for k in (1, 10, 50, 100, 101)] == pytest.approx(
        [0.99, 0.9 + 0.08 * 0.07 / 0.072, 0.95, 0.95, 0]
    )
    assert [curve.expected(100, promise) for promise in (0, 0.45, 0.9, 0.945, 1)] == pytest.approx(
        [0, 0.45, 0.9, 0.925, 0.995]
    )
    assert curve.choose(1, 0.99) == 0.99
    assert curve.choose(5, 0.99) == 0.999
    assert curve.choose(100, 0.994) == 0.999
    assert curve.choose(100, 0.999) == 0.999  # missed by little, and said so
    assert RecallCurve.choose(replace(curve, recall=((0.5,) * 3,) * 3), 1, 0.99) is None
    assert curve.choose(101, 0.5) is None
    with pytest.raises(ValueError, match="gaps"):
        RecallCurve.from_json(
            {"ks": [1], "levels": [0.9, 1], "promised": [[1]], "recall": [[1]], "error": [[0]]}
        )


KINDS = ["row", "fresh", "alike and negatives", "unlike"]


def queries_of(kind: str, exact: ExactIndex, many: int) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Yield queries of a kind, and their own rows."""
    units = exact.vectors(np.arange(COUNT))
    known = Background.of(units[::10])
    rng = np.random.default_rng(21)
    fresh = clustered(many, DIM, seed=22)
    for number in range(many):
        row = int(rng.integers(200, COUNT - 1))
        some = rng.choice(exact.search(units[row], 200).rows, 5)
        others = rng.integers(200, 7000, 5)
        if kind == "unlike":
            some, others = rng.integers(200, 7000, int(rng.integers(2, 6))), others[:0]
        if kind in ("row", "fresh"):
            yield (units[row], [row]) if kind == "row" else (fresh[number], [])
        else:
            own = [*some.tolist(), *others.tolist()]
            yield direction(units[some], units[others], known), own


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wanted", ["all", "a tenth", "the most unlike", "near an edge"])
def test_what_is_stated_is_true_for_every_kind_of_query(
    index: IvfIndex, exact: ExactIndex, kind: str, wanted: str
) -> None:
    rng = np.random.default_rng(23)
    units = exact.vectors(np.arange(COUNT))
    edge = units[:, 0] > np.quantile(units[:, 0], 0.8)
    stated: dict[int, list[float]] = {}
    true: dict[int, list[float]] = {}
    for query, own in queries_of(kind, exact, 40):
        scores = units @ query
        mask = {
            "all": np.ones(COUNT, bool),
            "a tenth": rng.random(COUNT) < 0.1,
            "the most unlike": scores < np.quantile(scores, 0.2),
            "near an edge": edge.copy(),
        }[wanted]
        mask[own] = False
        for k in (10, 100):
            found, truth = index.search(query, k, mask), exact.search(query, k, mask)
            assert len(found.rows) == k
            stated.setdefault(k, []).append(found.expected_recall)
            true.setdefault(k, []).append(shared(found, truth))
    for k, recalls in true.items():
        error = float(np.std(recalls)) / len(recalls) ** 0.5
        assert abs(np.mean(stated[k]) - np.mean(recalls)) <= 0.01 + 2 * error
        assert np.mean(recalls) >= 0.98 - 2 * error


def smooth(count: int, dim: int = 24) -> np.ndarray:
    """Make vectors along a smooth surface: neighbours differ by less than their codes can tell."""
    rng = np.random.default_rng(24)
    wide = rng.normal(size=(3, dim))
    made = np.tanh(rng.uniform(-1, 1, (count, 3)) @ wide)
    made[0] *= 30  # an outlier widens the codes of every dimension
    made[:: count // 50, ::2] *= -3
    return np.asarray(made, np.float32)


@pytest.mark.usefixtures("few")
def test_neighbours_closer_than_their_codes_are_found(tmp_path: Path) -> None:
    vectors = smooth(COUNT)
    spec = spec_of(vectors.shape[1], dtype="float32")
    made = write_collection(tmp_path / "c", spec, pieces(vectors))
    build_index(made, ivf_rows=1)
    index = open_index(made)
    assert isinstance(index, IvfIndex)
    exact = ExactIndex([vectors], COUNT, vectors.shape[1])
    recalls, stated = [], []
    for row in range(150, COUNT, 400):
        found, truth = index.search(exact.vector(row), 20), exact.search(exact.vector(row), 20)
        recalls.append(len(np.intersect1d(found.rows, truth.rows)) / 20)
        stated.append(found.expected_recall)
    assert np.mean(recalls) >= 0.98
    assert abs(np.mean(recalls) - np.mean(stated)) <= 0.015


def test_stored_vectors_have_length_1_whatever_float16_made_of_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(25)
    made = unit(rng.normal(size=(5000, 24)).astype(np.float32))
    made[7] = 0
    rounded = made.astype(np.float16)
    rounded.tofile(tmp_path / "v")
    assert np.abs(np.linalg.norm(rounded.astype(float), axis=1)[8:] - 1).max() > 1e-4
    file = VectorFile(tmp_path / "v", 5000, 24)
    for read in (file.block(0, 5000), file.take(np.arange(5000))):
        lengths = np.linalg.norm(read.astype(float), axis=1)
        assert np.abs(np.delete(lengths, 7) - 1).max() < 1e-6
        assert not read[7].any()
    np.testing.assert_array_equal(file.block(100, 3100), file.take(np.arange(100, 3100)))
    np.testing.assert_array_equal(file.vector(4321), file.block(4321, 4322)[0])


def test_shapes_tell_how_many_rows_to_expect(index: IvfIndex, exact: ExactIndex) -> None:
    expected: dict[int, list[float]] = {10: [], 100: [], 1000: []}
    away = []
    for query, _ in [*queries_of("row", exact, 40), *queries_of("unlike", exact, 40)]:
        scores = exact.vectors(np.arange(COUNT)) @ query
        outlook = index.hunt(query, 100).outlook
        for k, shares in expected.items():
            cosine = float(np.partition(scores, -k)[-k])
            shares.append(outlook.above(cosine).sum() / k)
            away.append(abs(outlook.cosine_of(k) - cosine))
        assert outlook.above(-2).sum() == pytest.approx(COUNT)
        assert outlook.cosine_of(COUNT) == -np.inf
    for k, most in ((10, 3.0), (100, 1.5), (1000, 1.2)):
        assert 0.8 < np.median(expected[k]) < most
    assert np.median(away) < 0.03


def test_the_tail_of_the_normal_distribution() -> None:
    z = np.linspace(-8, 8, 401)
    true = [math.erfc(each / math.sqrt(2)) / 2 for each in z]
    np.testing.assert_allclose(upper_tail(z.astype(np.float32)), true, atol=2e-7)
    assert upper_tail(np.array([-np.inf, np.inf], np.float32)).tolist() == [1, 0]


def test_lists_without_their_shapes_are_refused(collection: Collection, tmp_path: Path) -> None:
    [whole] = collection.path.glob(f"index/*/{LISTS_FILE}")
    plan = Plan.of(COUNT, DIM)
    Lists(whole.parent, COUNT, plan)
    for left in (1, 100, whole.stat().st_size // 2):
        (tmp_path / LISTS_FILE).write_bytes(whole.read_bytes()[:-left])
        with pytest.raises(StoreFormatError, match="Build"):
            Lists(tmp_path, COUNT, plan)
