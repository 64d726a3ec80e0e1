"""Areas from class to class, with intervals that hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from embeddings.analysis.change.transitions import transitions
from embeddings.errors import InputError

CLASSES = ("forest", "field", "town")


def one_hot(codes: list[int]) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[codes]


def test_sure_classes_are_counted() -> None:
    before, after = one_hot([0, 0, 1, 2]), one_hot([0, 1, 1, 1])
    hectares = np.array([1.0, 2.0, 4.0, 8.0])
    found = transitions(before, after, hectares, np.arange(4), CLASSES)
    expected = [[1, 2, 0], [0, 4, 0], [0, 8, 0]]
    np.testing.assert_allclose(found.mapped, expected)
    np.testing.assert_allclose(found.expected, expected, atol=1e-6)
    np.testing.assert_array_equal(found.places, [[1, 1, 0], [0, 1, 0], [0, 1, 0]])
    assert (found.low <= found.mapped).all()
    assert (found.mapped <= found.high).all()
    told = found.to_json()
    assert told["mapped_ha"] == expected
    assert told["classes"] == list(CLASSES)


def test_places_that_did_not_change_keep_their_class() -> None:
    """The probe says forest, then field, with little confidence; nothing changed there."""
    before = np.array([[0.6, 0.4, 0.0]] * 10, np.float32)
    after = np.array([[0.45, 0.55, 0.0]] * 10, np.float32)
    blocks, hectares = np.arange(10), np.ones(10)
    free = transitions(before, after, hectares, blocks, CLASSES)
    still = transitions(before, after, hectares, blocks, CLASSES, np.zeros(10, bool))
    assert free.mapped[0, 1] == 10
    assert still.mapped[0, 0] == 10
    assert still.mapped.sum() == 10
    assert still.expected[0, 1] == 0
    assert still.high[0, 1] == 0
    assert still.expected.sum() == pytest.approx(10)


def test_what_one_date_says_holds_for_a_place_that_did_not_change() -> None:
    """The last class is unknown: sure at one date, at the other, at both, and where all changed."""
    wood, nothing = [0.9, 0.1, 0.0], [0.0, 0.0, 1.0]
    before = np.array([wood, nothing, nothing, wood], np.float32)
    after = np.array([nothing, wood, nothing, nothing], np.float32)
    changed = np.array([False, False, False, True])
    hectares = np.array([1.0, 2.0, 4.0, 8.0])
    found = transitions(before, after, hectares, np.arange(4), CLASSES, changed, unknown=2)
    np.testing.assert_allclose(found.mapped, [[3, 0, 8], [0, 0, 0], [0, 0, 4]])
    np.testing.assert_allclose(found.expected, [[2.7, 0, 7.2], [0, 0.3, 0.8], [0, 0, 4]], atol=1e-6)
    assert found.before.tolist() == [0, 0, 2, 0]
    assert found.after.tolist() == [0, 0, 2, 2]


def test_intervals_hold_the_true_area(rng: np.random.Generator) -> None:
    hits = 0
    for _ in range(20):
        block = np.repeat(np.arange(25), 20)
        share = np.clip(rng.beta(2, 4, 25)[block] + rng.normal(0, 0.02, 500), 0.01, 0.99)
        # Errors are alike within a region.
        truth = rng.random(25)[block] < share
        after = np.stack([1 - share, share, np.zeros(500)], axis=1).astype(np.float32)
        found = transitions(one_hot([0] * 500), after, np.ones(500), block, CLASSES)
        hits += found.low[0, 1] <= truth.sum() <= found.high[0, 1]
    assert hits >= 17


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="4 places and 3 classes"):
        transitions(one_hot([0] * 4), one_hot([0] * 3), np.ones(4), np.arange(4), CLASSES)
    with pytest.raises(InputError, match="no place at both dates"):
        transitions(one_hot([]), one_hot([]), np.ones(0), np.arange(0), CLASSES)
