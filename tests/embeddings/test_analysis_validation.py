"""Validation: spatial figures that hold away from the labels, refusals that keep their word."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from embeddings.analysis.applicability import measure_applicability
from embeddings.analysis.calibration import (
    REFUSE_ALL,
    calibration_error,
    effective,
    select,
    temperature_of,
    upper_bound,
)
from embeddings.analysis.crossfit import _chosen, crossfit
from embeddings.analysis.folds import random_folds
from embeddings.analysis.label_curve import _curve, _gain
from embeddings.analysis.logistic import softmax
from embeddings.analysis.probes import UNKNOWN, fit
from embeddings.analysis.samples import Samples
from embeddings.analysis.validation import Validation, ValidationSettings, finish, validate
from embeddings.errors import CancelledError, InputError
from tests.embeddings.analysis_data import changed, clouds, numbers, places_only

QUICK = ValidationSettings(curve=False, widths=False)


@pytest.fixture(scope="module")
def mixed() -> Validation:
    return validate(clouds(count=900))


@pytest.fixture(scope="module")
def by_place() -> Validation:
    return validate(places_only(), QUICK)


def _figure(found: Any, name: str = "accuracy") -> float:
    return float(found.figures[name].value)


def test_where_place_says_nothing_both_splits_agree(mixed: Validation) -> None:
    assert abs(mixed.gap) < 0.03
    assert _figure(mixed.spatial) > 0.7
    assert _figure(mixed.baselines["dummy"]) < 0.45
    assert _figure(mixed.baselines["place"]) < 0.45
    assert mixed.warnings == []


def test_the_commonest_answer_has_no_skill_wherever_classes_lie(by_place: Validation) -> None:
    # Taken anew without each region it would name what that region lacks.
    dummy = by_place.baselines["dummy"]
    assert _figure(dummy, "kappa") == 0
    support = [each.support for each in dummy.classes]
    assert _figure(dummy) == max(support) / sum(support)


def test_what_only_knows_its_place_is_found_out(by_place: Validation) -> None:
    assert _figure(by_place.random) > 0.8
    assert _figure(by_place.spatial) < 0.65
    text = " ".join(by_place.warnings)
    assert "A random split would promise accuracy 0." in text


def test_wider_regions_are_harder() -> None:
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(0, 10, (2, 2000))
    # Numbers that follow the place smoothly, and vectors that know it: near is easy, far is not.
    waves = rng.normal(size=(2, 60)) * 0.7
    vectors = np.sin(np.stack([lon, lat], 1) @ waves).astype(np.float32)
    field = np.sin(lon * 0.9) + np.cos(lat * 0.8)
    samples = Samples("number", vectors, field, (), lon, lat, np.arange(2000))
    found = validate(samples, ValidationSettings(curve=False)).widths
    assert [each.folds for each in found] == [20, 10, 5]
    assert found[0].region_m < found[1].region_m < found[2].region_m
    assert found[0].value > found[2].value


def test_figures_that_hang_on_the_partition_are_told() -> None:
    samples = places_only(count=150)
    told = validate(samples, ValidationSettings(curve=False, widths=False, partitions=8))
    assert max(told.partitions) - min(told.partitions) > 0.05
    assert any("over 8 ways" in text for text in told.warnings)


def test_spatial_figures_hold_in_a_region_never_seen() -> None:
    samples = places_only()
    west = samples.lon < 5
    told = validate(samples.take(west), QUICK)
    probe = finish(fit(samples.take(west), strength=told.strength), told)
    away = samples.take(samples.lon > 5.5)
    met = (softmax(probe.scores(away.vectors)).argmax(axis=1) == away.target).mean()
    assert abs(_figure(told.spatial) - met) < 0.15
    assert _figure(told.random) - met > 0.2


def test_json_holds_all_a_report_needs(mixed: Validation) -> None:
    found = json.loads(json.dumps(mixed.to_json(), allow_nan=False))
    assert set(found["baselines"]) == {"dummy", "place", "neighbours", "centroid"}
    assert found["samples"] == found["labels"] == 900
    assert found["split"]["folds"] == 10
    assert np.sum(found["spatial"]["confusion"]) == 900
    assert "does not hold" in found["selection"]["note"]
    assert found["curve"]["labels"][0] == 20
    assert found["partitions"][0] == found["spatial"]["figures"]["accuracy"]["value"]
    assert len(found["partitions"]) == 3
    assert len(set(found["partitions"])) > 1
    shares = [(each["right"], each["samples"]) for each in found["regions"]]
    assert sum(right * count for right, count in shares) / 900 == pytest.approx(
        found["spatial"]["figures"]["accuracy"]["value"]
    )
    assert all(10 < each["lon"] < 12 and 45 < each["lat"] < 47 for each in found["regions"])


def test_a_curve_falls_and_foretells(mixed: Validation) -> None:
    curve = mixed.curve
    assert curve is not None
    assert curve.error[0] > curve.error[-1]
    assert curve.gain is not None
    assert 0 <= curve.gain < 0.05


def test_an_exact_power_law_is_foretold() -> None:
    sizes = np.array([20, 40, 80, 160, 320])
    errors = 0.1 + 2.0 * sizes**-0.7
    assert _gain(sizes, errors, 400) == pytest.approx(2 * (400**-0.7 - 450**-0.7), rel=1e-6)
    assert _gain(sizes, np.full(5, 0.3), 400) == pytest.approx(0.0, abs=1e-9)


def test_numbers_are_validated() -> None:
    found = validate(numbers(), QUICK)
    assert _figure(found.spatial, "r2") > 0.9
    assert _figure(found.baselines["dummy"], "r2") == pytest.approx(0, abs=1e-6)
    assert found.selection is None
    assert "centroid" not in found.to_json()["baselines"]


def test_multilabel_and_positive_are_validated() -> None:
    samples = clouds()
    table = np.eye(3, dtype=bool)[samples.target]
    many = validate(changed(samples, task="multilabel", target=table), QUICK)
    assert _figure(many.spatial, "macro_f1") > 0.6
    positives = changed(samples, task="positive", target=samples.target == 0, classes=("a",))
    one = validate(positives, QUICK)
    assert _figure(one.spatial, "auc") > 0.8
    assert _figure(one.baselines["dummy"], "auc") == 0.5
    probe = finish(fit(positives, strength=one.strength), one)
    assert probe.predict(samples.vectors[samples.target == 0]).mean() == pytest.approx(
        0.9, abs=0.06
    )


def test_the_threshold_of_positives_misses_as_many_whatever_their_prevalence() -> None:
    samples = clouds()
    positives = changed(samples, task="positive", target=samples.target == 0, classes=("a",))
    told = validate(positives, QUICK)
    probe = finish(fit(positives, strength=told.strength), told)
    rare = replace(probe, prevalence=0.05)
    assert (rare.predict(samples.vectors) == probe.predict(samples.vectors)).all()
    assert rare.probabilities(samples.vectors).mean() < probe.probabilities(samples.vectors).mean()


def test_the_background_of_positives_is_no_label() -> None:
    samples = clouds(count=2000)
    found = samples.target == 0
    positives = changed(samples, task="positive", target=found, classes=("a",))
    told = validate(positives, ValidationSettings(widths=False, partitions=1))
    assert told.labels == found.sum()
    assert told.curve is not None
    assert told.curve.labels[0] == 20
    assert 0.7 * found.sum() < told.curve.labels[-1] < found.sum()


def test_a_buffer_that_leaves_nothing_is_told() -> None:
    found = validate(clouds(count=200), replace(QUICK, buffer_m=1e6, partitions=1))
    assert "leaves nothing to train on in 10 of 10 folds" in found.warnings[0]


def test_what_the_buffer_keeps_from_training_makes_nothing_familiar() -> None:
    samples = places_only()
    asked = replace(QUICK, partitions=1, block_m=80_000.0)
    near, far = (validate(samples, replace(asked, buffer_m=m)) for m in (0.0, 150_000.0))
    assert far.outside > near.outside + 0.1


def test_chips_of_one_feature_are_one_label() -> None:
    samples = clouds(count=900)
    # Each class has ten features of thirty chips.
    place = np.random.default_rng(0).integers(0, 10, 900)
    found = validate(changed(samples, group=samples.target * 10 + place), QUICK)
    assert "The class 'a' has only 10 labels; its scores are rough." in found.warnings


def test_the_gain_foretold_from_few_folds_has_a_wide_interval() -> None:
    sizes = np.array([20, 40, 80, 160, 320])
    wrong = np.stack([100 * sizes**-0.5, 300 * sizes**-0.5], axis=1)
    mass = np.full((5, 2), 100.0)
    found = _curve(sizes, wrong, mass, 350, 0)
    single = [_gain(sizes, wrong[:, fold] / 100, 350) for fold in range(2)]
    # Two folds tell little, so that the interval reaches beyond both.
    assert found.gain is not None
    assert found.gain_low is not None
    assert found.gain_high is not None
    assert 0 <= found.gain_low < min(single) < found.gain < max(single) < found.gain_high


def test_errors_among_the_accepted_keep_the_promise() -> None:
    samples = clouds(count=1500, apart=2.0)
    for asked in (0.05, 0.1):
        told = validate(samples, ValidationSettings(curve=False, asked_error=asked))
        selection = told.selection
        assert selection is not None
        assert selection.error <= asked
        assert 0.1 < selection.accepted < 0.9
        probe = finish(fit(samples, strength=told.strength), told)
        # The same clouds (the centres are drawn first), other samples.
        other = clouds(count=6000, apart=2.0)
        codes = probe.predict(other.vectors[1500:])
        accepted = codes != UNKNOWN
        assert (codes != other.target[1500:])[accepted].mean() <= asked + 0.015


def test_what_cannot_be_promised_is_refused() -> None:
    rng = np.random.default_rng(0)
    likely = softmax(rng.normal(size=(300, 3)).astype(np.float32))
    found = select(likely, rng.integers(0, 3, 300), np.arange(300) // 10)
    assert (found.thresholds == REFUSE_ALL).all()
    assert found.accepted == 0


def test_without_a_threshold_that_keeps_the_promise_there_is_none_and_it_is_told() -> None:
    rng = np.random.default_rng(0)
    noise = changed(clouds(), vectors=rng.normal(size=(600, 4)).astype(np.float32))
    told = validate(noise, QUICK)
    assert told.selection is not None
    assert told.selection.accepted == 0
    assert finish(fit(noise, strength=told.strength), told).thresholds is None
    assert any("nor at any rate" in text for text in told.warnings)


def test_where_the_error_asked_for_cannot_be_kept_a_larger_one_is() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.4, 0.8, 5000).astype(np.float32)
    right = rng.random(5000) < sure
    likely = np.stack([sure, 1 - sure], axis=1)
    likely[sure < 0.5] = 0.5, 0.49
    found = select(likely, np.where(right, 0, 1), np.arange(5000) // 5, asked=0.1)
    assert (found.asked, found.promised) == (0.1, 0.3)
    assert found.error <= found.error_bound <= 0.3
    assert found.accepted > 0.3


def test_a_threshold_for_each_class() -> None:
    rng = np.random.default_rng(0)
    best = rng.integers(0, 2, 4000)
    sure = rng.uniform(0.5, 1, 4000)
    # Of the first class all are right, of the second only those above 0.8.
    target = np.where((best == 1) & (sure < 0.8), 0, best)
    likely = np.where(np.arange(2) == best[:, None], sure[:, None], 1 - sure[:, None])
    found = select(likely.astype(np.float32), target, np.arange(4000) // 4, per_class=True)
    assert found.thresholds[0] == pytest.approx(0.5, abs=0.01)
    assert 0.7 < found.thresholds[1] < 0.82


def test_errors_that_come_by_block_count_less() -> None:
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(40), 25)
    alone = rng.random(1000) < 0.2
    together = (rng.random(40) < 0.2)[unit]
    assert effective(alone, unit) > 500
    assert effective(together, unit) < 80
    assert upper_bound(0.1, 40) > upper_bound(0.1, 400) > 0.1
    # Clopper and Pearson: 0 of 10 at one side, 90 %.
    assert upper_bound(0.0, 10) == pytest.approx(1 - 0.1 ** (1 / 10))


def test_errors_of_whole_blocks_break_no_promise_where_blocks_are_few() -> None:
    unit = np.repeat(np.arange(8), 40)
    # All right in eight blocks is what eight samples are worth, not 320.
    assert effective(np.zeros(320, bool), unit) == 8
    broken = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        wrong = (rng.random(8) < 0.15)[unit]
        sure = rng.uniform(0.5, 1, 320)
        likely = np.stack([sure, 1 - sure], axis=1).astype(np.float32)
        found = select(likely, wrong.astype(np.int64), unit)
        broken.append(found.accepted > 0 and found.promised < 0.15)
    assert np.mean(broken) <= 0.1


def test_temperature_is_found_again() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20_000, 4)).astype(np.float32) * 2
    target = (softmax(scores).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    for hot in (0.5, 3.0):
        assert temperature_of("classes", scores * np.float32(hot), target) == pytest.approx(
            hot, rel=0.05
        )


def test_calibration_error_by_hand() -> None:
    likely = np.array([0.9, 0.9, 0.9, 0.9, 0.4, 0.4])
    right = np.array([True, True, True, False, True, False])
    assert calibration_error(likely, right, bins=10) == pytest.approx(4 / 6 * 0.15 + 2 / 6 * 0.1)


def test_a_fold_does_not_choose_its_own_strength() -> None:
    splits = [(np.array([1]), np.array([0])), (np.array([0]), np.array([1]))]
    found = [np.full((2, 1), value, np.float32) for value in (0.0, 1.0)]
    # Together the second strength is best; without the second fold's own loss the first is.
    losses = np.array([[0.0, 5.0], [1.0, 1.0]])
    chosen = _chosen(found, losses, splits, (10.0, 1.0), np.ones(2, bool))
    assert chosen.strength == 1.0
    assert chosen.scores[:, 0].tolist() == [1.0, 1.0]
    assert chosen.honest[:, 0].tolist() == [1.0, 0.0]


def test_no_model_has_seen_what_it_is_tested_on() -> None:
    rng = np.random.default_rng(0)
    samples = clouds(count=200)
    # As many columns as samples: a model that saw a sample knows it by heart.
    wide = changed(samples, vectors=rng.normal(size=(200, 300)).astype(np.float32))
    found = crossfit(wide, random_folds(samples.target, 5, seed=0))
    assert found.tested.all()
    for scores in (found.scores, found.honest):
        assert (scores.argmax(axis=1) == samples.target).mean() < 0.5


def test_a_class_left_out_lies_outside_and_is_refused() -> None:
    samples = clouds(count=3000, dim=30, classes=4, apart=6.0)
    known, alien = samples.take(samples.target != 3), samples.vectors[samples.target == 3]
    half = np.arange(len(known)) % 2 == 0
    learned, other = known.take(half), known.vectors[~half]
    told = validate(learned, QUICK)
    probe = finish(fit(learned, strength=told.strength), told)
    near = told.applicability
    assert near.inside(other).mean() == pytest.approx(0.95, abs=0.03)
    assert near.inside(alien).mean() < 0.5
    assert told.outside == pytest.approx(0.05, abs=0.04)
    assert (probe.predict(alien) == UNKNOWN).mean() > 0.5
    assert (probe.predict(other)[~near.inside(other)] == UNKNOWN).all()


def test_the_distance_is_one_of_directions() -> None:
    samples = clouds(count=300)
    mean, scale = samples.vectors.mean(axis=0), samples.vectors.std(axis=0)
    near = measure_applicability(samples.vectors, mean, scale, samples.group)
    farther = mean + np.float32(7) * (samples.vectors - mean)
    np.testing.assert_allclose(
        near.dissimilarity(farther), near.dissimilarity(samples.vectors), atol=1e-4
    )
    # 1 is as far as training samples are from each other.
    units = (samples.vectors - mean) / scale
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    assert near.unit == pytest.approx(np.sqrt(2 - 2 * (units @ units.T).mean()), rel=0.03)


def test_few_and_equal_vectors_have_an_applicability() -> None:
    same = np.ones((5, 3), np.float32)
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    near = measure_applicability(same, zero, one, np.arange(5))
    assert near.inside(same).all()
    assert not near.inside(-same).any()


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (lambda s: (s.target > 0) | (s.lon > 11.97), "has only"),
        (lambda s: (s.target > 0) | ((s.lon > 11.9) & (s.lat > 46.9)), "lie in one"),
    ],
)
def test_warnings_of_classes_are_in_words(kept: Any, words: str) -> None:
    samples = clouds(count=2000)
    found = validate(samples.take(kept(samples)), QUICK)
    assert any(words in text and "'a'" in text for text in found.warnings), found.warnings


def test_few_blocks_are_told() -> None:
    samples = clouds(count=800)
    group = np.floor(samples.lon * 2) * 10 + np.floor(samples.lat * 2)
    found = validate(changed(samples, group=group.astype(np.int64)), QUICK)
    assert any("only 16 blocks" in text for text in found.warnings), found.warnings


def test_a_trend_wider_than_the_blocks_is_told() -> None:
    samples = numbers()
    found = validate(changed(samples, target=samples.lat + samples.lon), QUICK)
    assert found.range_m > 1.5 * found.plan.block_m
    assert any("resemble each other over" in text for text in found.warnings)


def test_coordinates_alone_are_told() -> None:
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(0, 10, (2, 800))
    vectors = rng.normal(size=(800, 8)).astype(np.float32)
    target = (lat > 5).astype(np.int64)
    found = validate(
        Samples("classes", vectors, target, ("s", "n"), lon, lat, np.arange(800)), QUICK
    )
    assert any("coordinates alone" in text for text in found.warnings)


def test_many_labels_are_thinned_by_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embeddings.analysis.validation.MOST", 300)
    samples = clouds(count=900)
    found = validate(changed(samples, group=np.arange(900) // 9), QUICK)
    assert found.samples == 900
    assert np.sum(found.spatial.confusion) <= 300
    assert "900 samples" in found.warnings[0]


def test_of_labels_that_were_thinned_only_those_drawn_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = clouds(count=900)
    rare = samples.take((samples.target > 0) | (np.arange(900) % 10 == 0))
    monkeypatch.setattr("embeddings.analysis.validation.MOST", 300)
    found = validate(rare, replace(QUICK, partitions=1))
    assert any("labels drawn" in text and "'a'" in text for text in found.warnings)


def test_it_can_be_stopped() -> None:
    def stop() -> None:
        raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        validate(clouds(), QUICK, check=stop)


def test_labels_of_one_place_cannot_be_validated() -> None:
    samples = clouds(count=60)
    with pytest.raises(InputError, match="held out"):
        validate(changed(samples, lon=np.full(60, 5.0), lat=np.full(60, 5.0)))


def test_the_same_labels_give_the_same_figures() -> None:
    one, other = (validate(clouds(), QUICK).to_json() for _ in range(2))
    assert one == other


@pytest.mark.parametrize("count", [4, 6, 9, 30])
@pytest.mark.parametrize("task", ["classes", "number", "positive"])
@pytest.mark.filterwarnings("error")
def test_few_labels_give_figures_and_no_crash(task: str, count: int) -> None:
    rng = np.random.default_rng(count)
    found = np.arange(count) % 2
    target = {"classes": found, "number": rng.normal(size=count), "positive": found > 0}[task]
    names = {"classes": ("a", "b"), "number": (), "positive": ("a",)}[task]
    lon, lat = rng.uniform(-180, 180, count), rng.uniform(-90, 90, count)
    vectors = rng.normal(size=(count, 5)).astype(np.float32)
    # Two samples a feature.
    samples = Samples(task, vectors, target, names, lon, lat, np.arange(count) // 2)
    told = validate(samples)
    json.dumps(told.to_json(), allow_nan=False)
    assert told.warnings
    assert told.curve is None
    probe = finish(fit(samples, strength=told.strength), told)
    assert len(probe.predict(vectors)) == count
