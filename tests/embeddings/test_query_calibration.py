"""Percentiles and precision against truths that are known."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embeddings.errors import InputError
from embeddings.query.calibration import (
    RAREST,
    Precision,
    PrecisionCurve,
    Scale,
    precision_curve,
)
from embeddings.search import LEAST_OF_EACH


def units(rng: np.random.Generator, count: int, dim: int = 64) -> NDArray[np.float32]:
    values = rng.normal(size=(count, dim))
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)


def test_a_percentile_is_the_share_of_random_pairs_at_most_so_alike(
    rng: np.random.Generator,
) -> None:
    everything = units(rng, 50_000)
    start = time.perf_counter()
    scale = Scale.of_pairs(everything[rng.choice(50_000, 2000, replace=False)])
    assert time.perf_counter() - start < 1
    first, second = rng.integers(0, 50_000, (2, 400_000))
    pairs = (everything[first] * everything[second]).sum(axis=1)
    for cosine in (-0.3, -0.1, 0.0, 0.05, 0.2, 0.3, 0.4):
        truth = float((pairs <= cosine).mean())
        assert scale.percentile(np.array([cosine]))[0] == pytest.approx(truth, abs=0.004)
    rare = 1 - float(scale.percentile(np.array([0.4]))[0])
    assert rare == pytest.approx(float((pairs > 0.4).mean()), rel=0.4)
    assert scale.percentile(np.array([-1.0, 1.0])).tolist() == [0.0, 1 - RAREST]


def test_percentiles_never_fall_and_survive_json(rng: np.random.Generator) -> None:
    scale = Scale.of_pairs(units(rng, 300))
    cosines = np.linspace(-1, 1, 500)
    shares = scale.percentile(cosines)
    assert (np.diff(shares) >= 0).all()
    again = Scale.from_json(json.loads(json.dumps(scale.to_json())))
    assert again.percentile(cosines).tolist() == shares.tolist()


def test_the_scale_of_one_query(rng: np.random.Generator) -> None:
    sample = units(rng, 2000)
    scale = Scale.of_query(sample[0], sample)
    cosines = sample @ sample[0]
    assert scale.percentile(cosines).mean() == pytest.approx(0.5, abs=0.01)
    assert scale.percentile(np.array([1.0]))[0] <= 1 - 1 / 2000


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_tiny_collections_have_a_scale(rows: int, rng: np.random.Generator) -> None:
    for scale in (
        Scale.of_pairs(units(rng, rows)),
        Scale.of_query(units(rng, 1)[0], units(rng, rows)),
    ):
        shares = scale.percentile(np.array([-1.0, 0.0, 1.0]))
        assert ((shares >= 0) & (shares <= 1)).all()
        assert (np.diff(shares) >= 0).all()


def test_equal_vectors_are_all_as_alike_as_can_be(rng: np.random.Generator) -> None:
    scale = Scale.of_pairs(np.repeat(units(rng, 1), 50, axis=0))
    assert scale.percentile(np.array([0.5]))[0] == 0
    assert scale.percentile(np.array([1.1]))[0] > 0.99


def chance(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-14 * (scores - 0.65)))


def covered(
    curve: PrecisionCurve, truth: NDArray[np.float64], scores: NDArray[np.float64]
) -> float:
    at = truth[np.searchsorted(-scores, -curve.threshold, side="right") - 1]
    return float(((at >= curve.low) & (at <= curve.high)).mean())


@pytest.mark.parametrize("answers", [10, 40, 150])
@pytest.mark.parametrize("where", ["anywhere", "mostly at the top", "only at the top"])
def test_intervals_hold_the_true_precision(
    answers: int, where: str, rng: np.random.Generator
) -> None:
    held, off = [], []
    for _ in range(80):
        scores = np.sort(rng.uniform(0.3, 0.95, 2000))[::-1]
        right = rng.random(2000) < chance(scores)
        truth = np.cumsum(right) / np.arange(1, 2001)
        some = {
            "anywhere": rng.choice(2000, answers, replace=False),
            "mostly at the top": np.unique((2000 * rng.random(answers) ** 3).astype(int)),
            "only at the top": np.arange(answers),
        }[where]
        curve = precision_curve(scores, scores[some], right[some])
        held.append(covered(curve, truth, scores))
        off.append(np.abs(curve.precision[-1] - truth[some.max()]))
        assert (np.diff(curve.precision) <= 1e-12).all()
        assert (curve.low <= curve.precision + 1e-9).all()
        assert (curve.high >= curve.precision - 1e-9).all()
    assert np.mean(held) > 0.84
    assert np.mean(off) < 2 / np.sqrt(answers) * 0.5


@pytest.mark.parametrize("where", ["anywhere", "from the top"])
def test_three_of_each_are_enough_for_an_honest_interval(
    where: str, rng: np.random.Generator
) -> None:
    held = []
    for _ in range(150):
        scores = np.sort(rng.uniform(0.3, 0.95, 2000))[::-1]
        right = rng.random(2000) < chance(scores)
        truth = np.cumsum(right) / np.arange(1, 2001)
        order = np.arange(2000) if where == "from the top" else rng.permutation(2000)
        enough = np.minimum(np.cumsum(right[order]), np.cumsum(~right[order])) >= LEAST_OF_EACH
        some = order[: int(np.argmax(enough)) + 1]
        held.append(covered(precision_curve(scores, scores[some], right[some]), truth, scores))
    assert np.mean(held) > 0.88


def test_results_of_one_score_have_one_precision() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.8, 0.5])
    judged = Precision(scores, np.array([0.9, 0.5]), np.array([True, False]))
    precision, low, high = judged.at(scores)
    assert precision.tolist() == [1.0, 1.0, 1.0, 1.0, 0.8]
    assert len(set(low[1:4])) == len(set(high[1:4])) == 1
    # One answer stands for the first four results, the other for the last: 25 / 17 answers.
    share, size = 0.8, 25 / 17
    middle = (share + 1.645**2 / (2 * size)) / (1 + 1.645**2 / size)
    half = 1.645 * np.sqrt(share * (1 - share) / size + 1.645**2 / (4 * size**2))
    half /= 1 + 1.645**2 / size
    assert (low[4], high[4]) == pytest.approx((middle - half, middle + half))


def test_more_answers_narrow_the_interval(rng: np.random.Generator) -> None:
    scores = np.sort(rng.uniform(0.3, 0.95, 2000))[::-1]
    right = rng.random(2000) < chance(scores)
    widths = []
    for answers in (10, 40, 160, 640):
        some = np.linspace(0, 1999, answers).astype(int)
        curve = precision_curve(scores, scores[some], right[some])
        widths.append(float((curve.high - curve.low)[-1]))
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.1


def test_a_few_that_agree_are_not_taken_for_certain() -> None:
    scores = np.linspace(0.9, 0.5, 100)
    curve = precision_curve(scores, scores[:5], np.ones(5, bool))
    assert curve.precision.tolist() == [1.0] * 5
    assert curve.labels.tolist() == [1, 2, 3, 4, 5]
    assert 0.5 < curve.low[-1] < 0.75
    assert (np.diff(curve.low) > 0).all()
    wrong = precision_curve(scores, scores[:5], np.zeros(5, bool))
    assert wrong.precision.tolist() == [0.0] * 5
    assert 0.25 < wrong.high[-1] < 0.5


def test_without_answers_nothing_is_claimed() -> None:
    assert len(precision_curve(np.array([0.5]), np.empty(0), np.empty(0, bool)).threshold) == 0
    assert len(precision_curve(np.empty(0), np.array([0.5]), np.array([True])).threshold) == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=30),
    st.lists(st.integers(0, 20), min_size=1, max_size=40),
)
def test_any_answers_give_a_curve_that_never_rises_downwards(
    answers: list[tuple[int, bool]], results: list[int]
) -> None:
    scores = np.array([score for score, _ in answers]) / 20
    curve = precision_curve(
        np.array(results) / 20, scores, np.array([right for _, right in answers])
    )
    assert (np.diff(curve.precision) <= 1e-12).all()
    assert (np.diff(curve.threshold) < 0).all()
    assert ((curve.low >= 0) & (curve.high <= 1) & (curve.low <= curve.high)).all()


def test_wrong_input_is_refused() -> None:
    with pytest.raises(InputError, match="2 scores and 1 answers"):
        precision_curve(np.ones(3), np.ones(2), np.ones(1, bool))
    with pytest.raises(InputError, match="not a number"):
        precision_curve(np.ones(3), np.array([np.nan]), np.ones(1, bool))
