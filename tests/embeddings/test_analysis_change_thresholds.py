"""Thresholds and probabilities: right on mixtures that are known, silent where nothing changed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from embeddings.analysis.change.thresholds import (
    ChangeProbability,
    false_discovery,
    from_clicks,
    otsu,
)

MANY = 100_000


@pytest.fixture(scope="module")
def quiet() -> np.ndarray:
    return np.random.default_rng(1).normal(size=MANY).astype(np.float32)


@pytest.fixture(scope="module")
def changed() -> np.ndarray:
    return np.random.default_rng(2).normal(4.5, 1, MANY // 20).astype(np.float32)


def both(quiet: np.ndarray, changed: np.ndarray) -> np.ndarray:
    return np.concatenate([quiet, [np.nan, np.nan], changed]).astype(np.float32)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_so_large_a_share_is_false(quiet: np.ndarray, changed: np.ndarray, rate: float) -> None:
    threshold = false_discovery(both(quiet, changed), rate)
    false, right = (quiet >= threshold).sum(), (changed >= threshold).sum()
    assert false / (false + right) == pytest.approx(rate, rel=0.25)


def test_noise_alone_is_no_change(quiet: np.ndarray) -> None:
    assert false_discovery(quiet, 0.05) > quiet.max() * 0.9
    assert ChangeProbability.fit(quiet).of(quiet).mean() < 0.01
    assert false_discovery(np.array([np.nan], np.float32), 0.05) == np.inf


def test_otsu_parts_what_is_far_from_the_rest(quiet: np.ndarray, changed: np.ndarray) -> None:
    threshold = otsu(both(quiet, changed))
    assert 2 < threshold < 3.5
    assert otsu(np.full(5, 2.0, np.float32)) == np.inf
    assert otsu(np.full(5, np.nan, np.float32)) == np.inf


def test_the_probability_is_the_share_that_changed(quiet: np.ndarray, changed: np.ndarray) -> None:
    known = ChangeProbability.fit(both(quiet, changed))
    at = np.array([0.0, 2.0, 2.5, 3.0, 3.5, 5.0, 40.0, np.nan], np.float32)
    share = len(changed) * norm.pdf(at, 4.5, 1)
    want = share / (share + len(quiet) * norm.pdf(at))
    found = known.of(at)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:6], want[:6], atol=0.08)
    assert found[6] == pytest.approx(1, abs=1e-3)
    assert np.isnan(found[7])
    rising = known.of(np.linspace(-5, 9, 200, dtype=np.float32))
    assert (np.diff(rising) >= 0).all()
    assert known.of(at.reshape(2, 4)).shape == (2, 4)


def test_a_single_huge_score_spoils_no_probability(quiet: np.ndarray, changed: np.ndarray) -> None:
    at = np.array([1.0, 2.0, 3.0, 4.0, 5.0], np.float32)
    usual = ChangeProbability.fit(both(quiet, changed)).of(at)
    huge = ChangeProbability.fit(np.append(both(quiet, changed), np.float32(9000)))
    np.testing.assert_allclose(huge.of(at), usual, atol=0.03)
    assert huge.of(np.array([9000.0], np.float32))[0] == pytest.approx(1, abs=1e-3)


def test_clicks_are_parted_with_least_error() -> None:
    assert from_clicks(np.array([3.0, 4.0, 5.0]), np.array([0.0, 1.0, 2.0])) == 2.5
    # One of three named as changed lies among the unchanged: it is given up.
    found = from_clicks(np.array([0.5, 4.0, 5.0]), np.array([0.0, 1.0, 2.0]))
    assert 2 < found < 4
    assert from_clicks(np.array([]), np.array([1.0])) == np.inf
