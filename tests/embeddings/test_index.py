"""The exact scan against a brute-force oracle in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddings.errors import InputError
from embeddings.index.exact import ExactIndex


def index_of(vectors: np.ndarray, batch: int = 100) -> ExactIndex:
    pieces = [vectors[i : i + batch] for i in range(0, len(vectors), batch)]
    return ExactIndex(pieces, len(vectors), vectors.shape[1])


def oracle(vectors: np.ndarray, query: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """All cosines in float64; rows that are masked out have -inf."""
    v, q = vectors.astype(np.float64), query.astype(np.float64)
    norms = np.linalg.norm(v, axis=1)
    cosine = v @ q / np.where(norms > 0, norms, 1) / np.linalg.norm(q)
    return np.where(mask, cosine, -np.inf)


@given(
    st.integers(1, 400),
    st.sampled_from([1, 2, 3, 7, 64, 129]),
    st.integers(1, 500),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_it_finds_what_the_oracle_finds(
    count: int, dim: int, k: int, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, dim)).astype(np.float32) * rng.choice([1e-3, 1, 1e3])
    vectors[rng.random(count) < 0.05] = 0
    query = rng.normal(size=dim).astype(np.float32)
    mask = rng.random(count) < share
    found = index_of(vectors).search(query, k, mask)
    rows, cosines = found.rows, found.cosines
    assert (found.considered, found.expected_recall) == (mask.sum(), 1)
    truth = oracle(vectors, query, mask)
    assert len(rows) == len(set(rows.tolist())) == min(k, mask.sum())
    assert mask[rows].all()
    assert np.abs(cosines - truth[rows]).max(initial=0) < 1e-6
    assert (np.diff(cosines) <= 0).all()
    best = np.sort(truth[mask])[::-1][: len(rows)]
    assert np.abs(truth[rows] - best).max(initial=0) < 1e-6


@pytest.mark.parametrize("dim", [3, 64, 255, 256])
@pytest.mark.parametrize("count", [5, 103, 1003, 4099])
def test_equal_vectors_come_in_the_order_of_their_rows(count: int, dim: int) -> None:
    rng = np.random.default_rng(dim)
    vectors = rng.normal(size=(1, dim)).astype(np.float32).repeat(count, axis=0)
    vectors[::2] *= 2  # another length, the same direction
    found = index_of(vectors).search(rng.normal(size=dim).astype(np.float32), 4)
    rows, cosines = found.rows, found.cosines
    assert rows.tolist() == [0, 1, 2, 3]
    assert len(set(cosines.tolist())) == 1


def test_a_vector_is_most_like_itself_and_a_cosine_never_passes_1() -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 33)).astype(np.float32)
    index = index_of(vectors)
    for row in range(0, 500, 25):
        found = index.search(index.vector(row), 1)
        assert found.rows[0] == row
        assert found.cosines[0] == pytest.approx(1)
        assert found.cosines[0] <= 1
    opposite = index_of(-vectors[:1]).search(vectors[0], 1)
    assert (opposite.rows[0], opposite.cosines[0]) == (0, pytest.approx(-1))
    assert opposite.cosines[0] >= -1


def test_k_beyond_the_rows_gives_all_allowed_rows() -> None:
    vectors = np.eye(3, dtype=np.float32)
    found = index_of(vectors).search(np.array([1, 0, 0], np.float32), 10)
    assert (found.rows.tolist(), found.cosines.tolist()) == ([0, 1, 2], [1, 0, 0])
    found = index_of(vectors).search(np.ones(3, np.float32), 10, np.zeros(3, bool))
    assert (len(found.rows), len(found.cosines), found.considered) == (0, 0, 0)


def test_a_zero_vector_matches_nothing() -> None:
    vectors = np.array([[0, 0], [-1, 0]], np.float32)
    found = index_of(vectors).search(np.array([1, 0], np.float32), 2)
    assert (found.rows.tolist(), found.cosines.tolist()) == ([0, 1], [0, -1])


def test_a_vector_that_is_not_finite_matches_nothing() -> None:
    vectors = np.array([[np.nan, 1], [np.inf, 0], [1, 0]], np.float32)
    found = index_of(vectors).search(np.array([1, 0], np.float32), 3)
    assert (found.rows.tolist(), found.cosines.tolist()) == ([2, 0, 1], [1, 0, 0])


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
def test_rows_and_mask_allow_what_both_allow(seed: int, some: float, others: float) -> None:
    rng = np.random.default_rng(seed)
    index = index_of(rng.normal(size=(300, 5)).astype(np.float32))
    mask = rng.random(300) < some
    rows = np.flatnonzero(rng.random(300) < others)
    query = rng.normal(size=5).astype(np.float32)
    both = np.zeros(300, bool)
    both[rows] = mask[rows]
    found, truth = index.search(query, 40, mask, rows), index.search(query, 40, both)
    assert found.rows.tolist() == truth.rows.tolist()
    assert found.cosines.tolist() == truth.cosines.tolist()
    assert found.considered == both.sum()


def test_a_search_over_many_blocks_finds_what_the_oracle_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("embeddings.index.scan.BLOCK_ROWS", 64)
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(5000, 9)).astype(np.float32)
    for share in (1.0, 0.5, 0.1, 0.01):
        mask = rng.random(5000) < share
        query = rng.normal(size=9).astype(np.float32)
        found = index_of(vectors).search(query, 70, mask)
        truth = oracle(vectors, query, mask)
        best = np.sort(truth[mask])[::-1][:70]
        assert np.abs(truth[found.rows] - best).max() < 1e-6


@pytest.mark.parametrize("length", [1e-30, 1e30])
def test_the_length_of_a_query_does_not_matter(length: float) -> None:
    found = index_of(np.eye(2, dtype=np.float32)).search(np.array([length, 0], np.float32), 1)
    assert (found.rows.tolist(), found.cosines.tolist()) == ([0], [1])


def test_what_cannot_be_asked_is_refused() -> None:
    index, query = index_of(np.eye(3, dtype=np.float32)), np.ones(3, np.float32)
    with pytest.raises(InputError, match="k is 0"):
        index.search(query, 0)
    with pytest.raises(InputError, match="mask has shape"):
        index.search(query, 1, np.ones(4, bool))
    for wrong in ([1, 3], [-1, 1], [2, 1], [1, 1], [0, 2, 1, 2]):
        with pytest.raises(InputError, match="lie between 0 and 2"):
            index.search(query, 1, rows=np.array(wrong))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([0, 0], "has no direction"),
        ([np.nan, 1], "has no direction"),
        ([np.inf, 1], "has no direction"),
        ([1, 2, 3], "has shape"),
    ],
)
def test_a_query_without_direction_is_refused(query: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        index_of(np.ones((3, 2), np.float32)).search(np.array(query, np.float32), 1)
