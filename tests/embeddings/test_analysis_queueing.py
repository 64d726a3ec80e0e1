"""Which places to label next."""

from __future__ import annotations

import numpy as np
import pytest

from embeddings.analysis.queueing import entropies, margins, queue, strategy_for
from embeddings.errors import InputError


def _clusters(sizes: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    own = np.repeat(np.arange(len(sizes)), sizes)
    middles = 10 * np.eye(len(sizes), 8, dtype=np.float32)
    return middles[own] + rng.normal(size=(len(own), 8)).astype(np.float32), own


def test_few_labels_cover_the_clusters_that_have_none() -> None:
    vectors, own = _clusters((60, 40, 20, 10))
    chosen = queue(vectors, 3, labelled=vectors[own == 0][:1])
    assert sorted(own[chosen]) == [1, 2, 3]
    # The largest of them comes first.
    assert own[chosen[0]] == 1


def test_unsure_places_are_asked_for_but_not_one_cluster_of_them_only() -> None:
    vectors, own = _clusters((50, 50, 50))
    sure = np.where(own == 2, 0.99, 0.55)
    sure[own == 1] = 0.56
    probabilities = np.stack([sure, 1 - sure], axis=1)
    chosen = queue(vectors, 10, labelled=vectors[:0], probabilities=probabilities)
    assert set(own[chosen]) == {0, 1}
    assert len(set(chosen.tolist())) == 10


def test_many_of_the_same_place_still_give_as_many_as_asked_for() -> None:
    same = np.ones((30, 4), np.float32)
    chosen = queue(same, 12, labelled=same[:2])
    assert len(set(chosen.tolist())) == 12
    assert len(queue(same[:5], 12, labelled=same[:2])) == 5
    assert len(queue(same[:0], 12, labelled=same[:2])) == 0


def test_the_same_seed_gives_the_same_queue() -> None:
    vectors, _ = _clusters((40, 40, 40))
    first, again = (queue(vectors, 8, labelled=vectors[:1], seed=4) for _ in range(2))
    assert first.tolist() == again.tolist()


def test_margin_and_entropy() -> None:
    probabilities = np.array([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.6, 0.3, 0.1]])
    np.testing.assert_allclose(margins(probabilities), [1, 0, 0.3], atol=1e-12)
    found = entropies(probabilities)
    assert found[0] == 0
    assert found[1] == pytest.approx(1)
    assert 0 < found[2] < 1
    np.testing.assert_allclose(margins(np.array([[0.9], [0.5]])), [0.8, 0])
    np.testing.assert_allclose(entropies(np.array([[0.5], [1.0]])), [1, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("labels", "strategy"),
    [([], "coverage"), ([1, 2], "coverage"), ([1, 3], "uncertainty"), ([20, 20], "uncertainty")],
)
def test_the_strategy_follows_the_labels_a_class(labels: list[int], strategy: str) -> None:
    assert strategy_for(np.array(labels, int)) == strategy


def test_none_asked_for_is_refused() -> None:
    with pytest.raises(InputError, match="ask for 1 to 2,000"):
        queue(np.ones((3, 2), np.float32), 0, labelled=np.ones((0, 2), np.float32))
