"""Accuracy and areas of a map from a stratified sample, against the paper's worked example."""

from __future__ import annotations

import json

import numpy as np
import pytest

from embeddings.analysis.area_accuracy import allocate, estimate, sample_size
from embeddings.errors import InputError

CLASSES = ("deforestation", "forest gain", "stable forest", "stable non-forest")
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])
PIXEL_HA = 0.09
SAMPLE = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
"""Table 8 of Olofsson et al. (2014), and the areas of its section 5.1."""


def test_the_worked_example_of_the_paper() -> None:
    report = estimate(SAMPLE, PIXELS * PIXEL_HA, CLASSES)
    assert report.overall_accuracy.value == pytest.approx(0.95, abs=0.005)
    assert report.overall_accuracy.half_width == pytest.approx(0.02, abs=0.005)
    users = [(c.users_accuracy.value, c.users_accuracy.half_width) for c in report.classes]
    expected = [(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)]
    np.testing.assert_allclose(users, expected, atol=0.0051)
    producers = np.array(
        [(c.producers_accuracy.value, c.producers_accuracy.half_width) for c in report.classes]
    )
    np.testing.assert_allclose(producers[:, 0], [0.75, 0.85, 0.93, 0.96], atol=0.0051)
    # The paper prints 0.23 and 0.01 for the second and the fourth, which its equation 7 does not
    # give; the next test shows what is right.
    np.testing.assert_allclose(producers[[0, 2], 1], [0.21, 0.03], atol=0.0051)
    areas = [(c.area.value, c.area.half_width) for c in report.classes]
    expected = [(21_158, 6_158), (11_686, 3_756), (285_770, 15_510), (581_386, 16_282)]
    np.testing.assert_allclose(areas, expected, atol=1.0)


def test_producers_accuracies_scatter_as_far_as_their_intervals_say() -> None:
    """Samples drawn anew from the paper's own shares; its formula is a linearisation."""
    rng = np.random.default_rng(0)
    sampled = SAMPLE.sum(axis=1)
    drawn = [rng.multinomial(n, row / n, 20_000) for n, row in zip(sampled, SAMPLE, strict=True)]
    matrix = np.stack(drawn, axis=1) * (PIXELS / PIXELS.sum() / sampled)[:, None]
    found = np.diagonal(matrix, axis1=1, axis2=2) / matrix.sum(axis=1)
    report = estimate(SAMPLE, PIXELS, CLASSES)
    stated = [c.producers_accuracy.half_width for c in report.classes]
    np.testing.assert_allclose(1.96 * found.std(axis=0), stated, rtol=0.08)


def test_the_sample_size_of_the_paper() -> None:
    """Section 5.1.1: 641 units for a standard error of 0.01."""
    shares = PIXELS / PIXELS.sum()
    assert sample_size(shares, np.array([0.70, 0.60, 0.90, 0.95]), 0.01) == 641


@pytest.mark.parametrize("seed", range(3))
def test_intervals_hold_the_truth_as_often_as_they_say(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = np.array([[0.05, 0.02, 0.01], [0.03, 0.25, 0.04], [0.02, 0.03, 0.55]])
    mapped, true = truth.sum(axis=1), truth.sum(axis=0)
    held = []
    for _ in range(300):
        counts = np.stack([rng.multinomial(150, row / row.sum()) for row in truth])
        report = estimate(counts, 1000 * mapped, ("a", "b", "c"))
        held += [
            abs(each.area.value - 1000 * share) <= each.area.half_width
            for each, share in zip(report.classes, true, strict=True)
        ]
        held.append(
            abs(report.overall_accuracy.value - np.trace(truth))
            <= report.overall_accuracy.half_width
        )
    assert 0.92 <= np.mean(held) <= 0.975


def test_a_perfect_map_has_no_doubt() -> None:
    report = estimate(np.diag([50, 50]), np.array([3.0, 1.0]), ("a", "b"))
    assert report.overall_accuracy.value == 1
    assert [each.area.value for each in report.classes] == [3.0, 1.0]
    assert [each.area.half_width for each in report.classes] == [0, 0]


def test_a_class_that_only_the_reference_has() -> None:
    """Its user's accuracy is not known, but its area is."""
    report = estimate(np.array([[8, 2], [0, 0]]), np.array([100.0, 0.0]), ("field", "pond"))
    field, pond = report.classes
    assert pond.area.value == pytest.approx(20)
    assert np.isnan(pond.users_accuracy.value)
    assert pond.producers_accuracy.value == 0
    assert field.producers_accuracy.value == pytest.approx(1)
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["classes"][1][
        "users_accuracy"
    ] == {"value": None, "half_width": None}


@pytest.mark.parametrize("total", [200, 641, 5_000])
def test_rare_classes_get_the_minimum_and_the_sum_is_kept(total: int) -> None:
    chosen = allocate(total, PIXEL_HA * PIXELS, PIXELS, minimum=50)
    assert chosen.sum() == total
    assert (chosen >= 50).all()
    # Of the paper's example the two common classes share what the rare ones leave.
    left = chosen[2:] / chosen[2:].sum()
    np.testing.assert_allclose(left, PIXELS[2:] / PIXELS[2:].sum(), atol=0.5)


def test_no_class_gives_more_units_than_it_has() -> None:
    def of_one_size(total: int, *units: int) -> list[int]:
        return allocate(total, np.array(units, float), np.array(units), minimum=50).tolist()

    assert of_one_size(100, 3, 1_000) == [3, 97]
    assert of_one_size(10_000, 3, 40) == [3, 40]
    assert of_one_size(60, 0, 100) == [0, 60]


def test_the_sample_is_shared_by_area_where_units_differ_in_size() -> None:
    units = np.array([900, 100, 300])
    areas = np.array([100.0, 600, 300])
    assert allocate(100, areas, units, minimum=2).tolist() == [10, 60, 30]
    # What a class of few large units cannot give, the others do, by their area.
    assert allocate(500, areas, units, minimum=2).tolist() == [100, 100, 300]
    assert allocate(300, areas, units, minimum=20).tolist() == [50, 100, 150]
    assert allocate(200, areas, units, minimum=50).tolist() == [50, 100, 50]


@pytest.mark.parametrize(
    ("counts", "areas", "confidence", "message"),
    [
        (np.ones((2, 3)), np.ones(2), 0.95, "2 classes need a matrix of 2 x 2"),
        (np.eye(2) * 9, np.ones(2), 95, "The confidence is 95"),
        (np.eye(2) * 9, np.array([1.0, -1]), 0.95, "mapped areas"),
        (np.eye(2) * 9, np.array([1.0, np.nan]), 0.95, "mapped areas"),
        (np.array([[9, 0], [0, 1]]), np.ones(2), 0.95, r"Too few: 'b' \(1\)"),
    ],
)
def test_bad_input_says_what_is_wrong(counts, areas, confidence, message) -> None:
    with pytest.raises(InputError, match=message):
        estimate(counts, areas, ("a", "b"), confidence)


def test_a_sample_that_is_too_small_says_how_many_it_takes() -> None:
    with pytest.raises(InputError, match="Ask for at least 200"):
        allocate(100, PIXEL_HA * PIXELS, PIXELS, minimum=50)
    with pytest.raises(InputError, match="standard error"):
        sample_size(np.ones(1), np.ones(1), 0)
