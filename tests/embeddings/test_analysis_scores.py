"""Scores: scikit-learn's figures, and intervals that cover what they say."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from embeddings.analysis.scores import score

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def codes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 400, p=[0.6, 0.3, 0.1])
    return truth, np.where(rng.random(400) < 0.7, truth, rng.integers(0, 3, 400))


def test_classes_are_scored_as_scikit_learn_does(codes: tuple[np.ndarray, np.ndarray]) -> None:
    truth, said = codes
    found = score("classes", truth, said, NAMES, np.arange(400) // 20)
    assert found.confusion is not None
    assert (found.confusion == metrics.confusion_matrix(truth, said)).all()
    for name, theirs in {
        "accuracy": metrics.accuracy_score(truth, said),
        "balanced_accuracy": metrics.balanced_accuracy_score(truth, said),
        "macro_f1": metrics.f1_score(truth, said, average="macro"),
        "kappa": metrics.cohen_kappa_score(truth, said),
    }.items():
        assert found.figures[name].value == pytest.approx(theirs)
    table = metrics.precision_recall_fscore_support(truth, said)
    for i, each in enumerate(found.classes):
        assert [each.precision, each.recall, each.f1, each.support] == pytest.approx(
            [column[i] for column in table]
        )


def test_numbers_are_scored_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(0)
    truth = 1e6 + rng.normal(size=300)
    said = truth + 0.3 * rng.normal(size=300) + 0.1
    found = score("number", truth, said, (), np.arange(300) // 10).figures
    assert found["r2"].value == pytest.approx(metrics.r2_score(truth, said), abs=1e-4)
    assert found["rmse"].value == pytest.approx(metrics.root_mean_squared_error(truth, said))
    assert found["mae"].value == pytest.approx(metrics.mean_absolute_error(truth, said))
    assert found["bias"].value == pytest.approx((said - truth).mean())


def test_multilabel_and_positive_are_scored_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((300, 3)) < 0.4
    said = truth ^ (rng.random((300, 3)) < 0.2)
    unit = np.arange(300) // 10
    found = score("multilabel", truth, said, NAMES, unit).figures
    assert found["macro_f1"].value == pytest.approx(metrics.f1_score(truth, said, average="macro"))
    assert found["micro_f1"].value == pytest.approx(metrics.f1_score(truth, said, average="micro"))
    assert found["exact"].value == pytest.approx(metrics.accuracy_score(truth, said))
    ranks = rng.normal(size=300) + truth[:, 0]
    auc = score("positive", truth[:, 0], ranks, ("a",), unit).figures["auc"].value
    assert auc == pytest.approx(metrics.roc_auc_score(truth[:, 0], ranks), abs=0.005)


def test_intervals_of_regions_cover_and_those_of_samples_do_not() -> None:
    rng = np.random.default_rng(0)
    covered = {True: 0, False: 0}
    for trial in range(40):
        # Twenty regions of one accuracy each, 0.7 in the mean.
        easy = np.clip(rng.normal(0.7, 0.15, 20), 0, 1)
        unit = np.repeat(np.arange(20), 20)
        truth = np.zeros(400, np.int64)
        said = (rng.random(400) > easy[unit]).astype(np.int64)
        for whole in covered:
            units = unit if whole else np.arange(400)
            found = score("classes", truth, said, ("a", "b"), units, seed=trial)
            each = found.figures["accuracy"]
            covered[whole] += each.low <= 0.7 <= each.high
    assert covered[True] >= 34
    assert covered[False] <= 30


def test_intervals_of_few_regions_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    held = []
    for trial in range(100):
        easy = rng.beta(51.2, 12.8, 5)  # 0.8 in the mean, with a deviation of 0.05
        unit = np.repeat(np.arange(5), 60)
        truth = rng.integers(0, 2, 300)
        said = np.where(rng.random(300) < easy[unit], truth, 1 - truth)
        found = score("classes", truth, said, ("a", "b"), unit, seed=trial).figures["accuracy"]
        held.append(found.low <= 0.8 <= found.high)
    assert np.mean(held) >= 0.92


def test_an_interval_ends_where_the_figure_does() -> None:
    truth = np.zeros(60, np.int64)
    said = (np.arange(60) == 0).astype(np.int64)
    found = score("classes", truth, said, ("a", "b"), np.arange(60) // 20).figures
    assert found["accuracy"].low < found["accuracy"].value < found["accuracy"].high == 1
    assert found["kappa"].low >= -1


def test_one_unit_has_no_interval(codes: tuple[np.ndarray, np.ndarray]) -> None:
    found = score("classes", *codes, NAMES, np.zeros(400, np.int64))
    assert np.isnan(found.figures["accuracy"].error)
    assert found.to_json()["figures"]["accuracy"]["low"] is None


def test_a_class_never_met_has_no_recall() -> None:
    truth, said = np.array([0, 0, 1]), np.array([0, 2, 1])
    last = score("classes", truth, said, NAMES, np.arange(3)).to_json()["classes"][2]
    assert (last["support"], last["predicted"], last["recall"]) == (0, 1, None)
