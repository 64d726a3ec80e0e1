"""Probes: the same answers as scikit-learn's, standardisation folded in, errors in plain words."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from embeddings.analysis import logistic
from embeddings.analysis.probes import UNKNOWN, LinearProbe, fit
from embeddings.analysis.samples import Samples
from embeddings.errors import InputError
from tests.embeddings.analysis_data import changed, clouds, numbers


@pytest.mark.parametrize("strength", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("balanced", [None, "balanced"])
def test_logistic_is_scikit_learns(strength: float, balanced: str | None) -> None:
    samples = clouds()
    weight = np.where(samples.target == 0, 3.0, 0.5) if balanced else None
    probe = fit(changed(samples, weight=weight), strength=strength, class_weight=balanced)
    # Standardised as ours, whose mean and deviation are weighted.
    values = (samples.vectors - probe.mean) / probe.scale
    used = np.ones(len(samples)) if weight is None else weight.copy()
    if balanced:
        used /= np.bincount(samples.target, used)[samples.target]
    used /= used.mean()
    other = LogisticRegression(C=1 / strength, tol=1e-8, max_iter=5000)
    other.fit(values, samples.target, sample_weight=used)
    ours, theirs = probe.probabilities(samples.vectors), other.predict_proba(values)
    assert np.abs(ours - theirs).max() < 0.01
    assert np.abs(ours - ours.mean(axis=0)).max() > 0


def _scaled(vectors: np.ndarray) -> np.ndarray:
    """Centred, and of mean variance 1."""
    return (vectors - vectors.mean(axis=0)) / np.sqrt(vectors.var(axis=0).mean())


def test_ridge_is_scikit_learns() -> None:
    samples = numbers()
    probe = fit(samples, strength=7.0)
    values = _scaled(samples.vectors)
    theirs = Ridge(alpha=7.0).fit(values, samples.target).predict(values)
    assert probe.kind == "ridge"
    np.testing.assert_allclose(probe.predict(samples.vectors), theirs, atol=1e-3)


def test_multilabel_is_one_logistic_each() -> None:
    samples = clouds()
    rng = np.random.default_rng(1)
    table = np.stack([samples.target == 0, rng.random(len(samples)) < 0.3], axis=1)
    both = changed(samples, task="multilabel", target=table, classes=("water", "noise"))
    probe = fit(both, strength=1.0)
    values = _scaled(samples.vectors)
    for column in range(2):
        one = LogisticRegression(C=1.0, tol=1e-8, max_iter=5000).fit(values, table[:, column])
        theirs = one.predict_proba(values)[:, 1]
        np.testing.assert_allclose(probe.probabilities(both.vectors)[:, column], theirs, atol=0.01)
    assert probe.predict(both.vectors).shape == table.shape


def test_positive_scores_are_log_ratios_of_densities() -> None:
    rng = np.random.default_rng(0)
    # Positives are shifted by 1 along one axis: the log ratio of the densities is x - 1 / 2.
    found = rng.normal(size=(4000, 1)).astype(np.float32) + 1
    background = rng.normal(size=(40_000, 1)).astype(np.float32)
    where = rng.uniform(0, 5, (2, 4000))
    away = rng.uniform(0, 5, (2, 40_000))
    group = np.arange(4000)
    samples = Samples("positive", found, np.ones(4000, bool), ("gold",), *where, group)
    probe = fit(samples.with_background(background, *away), strength=1e-3)
    x = np.array([[-1.0], [0.5], [2.0]], np.float32)
    np.testing.assert_allclose(probe.scores(x)[:, 0], [-1.5, 0.0, 1.5], atol=0.1)
    assert probe.predict(x).tolist() == [False, probe.scores(x)[1, 0] >= 0, True]
    with pytest.raises(InputError, match="background"):
        fit(samples)


def test_prevalence_makes_relative_scores_probabilities() -> None:
    x = np.array([[0.0], [1.0], [9.0]], np.float32)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    made = LinearProbe(
        "positive", "logistic", ("a",), zero, one, one[:, None], zero, 1.0, prevalence=0.1
    )
    likely = made.probabilities(x)[:, 0]
    np.testing.assert_allclose(likely, [0.1, 0.1 * np.e, 1.0], rtol=1e-5)


def test_standardisation_is_folded_into_the_weights() -> None:
    samples = clouds()
    moved = changed(samples, vectors=samples.vectors * np.float32(1000) + np.float32(5000))
    one, other = fit(samples, strength=1.0), fit(moved, strength=1.0)
    np.testing.assert_allclose(
        one.probabilities(samples.vectors), other.probabilities(moved.vectors), atol=0.01
    )
    by_hand = ((samples.vectors - one.mean) / one.scale) @ one.weights + one.bias
    np.testing.assert_allclose(one.scores(samples.vectors), by_hand, atol=1e-4)


def test_a_column_that_never_varies_changes_nothing() -> None:
    samples = clouds()
    flat = np.full((len(samples), 1), 1e6, np.float32)
    wider = changed(samples, vectors=np.concatenate([samples.vectors, flat], axis=1))
    ours = fit(wider, strength=1.0).probabilities(wider.vectors)
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(
        ours, fit(samples, strength=1.0).probabilities(samples.vectors), atol=0.02
    )


def test_a_path_ends_where_single_fits_end() -> None:
    samples = clouds()
    basis = logistic.Basis.of(samples.vectors - samples.vectors.mean(axis=0))
    wanted = np.eye(3, dtype=np.float32)[samples.target].T.copy()
    weight = np.ones(len(samples), np.float32)
    path = list(logistic.path(basis, wanted, weight, [1e4, 100.0, 1.0], "softmax"))
    alone = next(logistic.path(basis, wanted, weight, [1.0], "softmax"))
    np.testing.assert_allclose(path[-1], alone, atol=5e-3)
    sizes = [float((each[:, :-1] ** 2).sum()) for each in path]
    assert sizes == sorted(sizes)


def test_a_strength_is_chosen_that_suits_the_noise() -> None:
    rng = np.random.default_rng(0)
    samples = clouds(count=300)
    noise = rng.normal(size=(300, 200)).astype(np.float32)
    noisy = changed(samples, vectors=np.concatenate([samples.vectors, noise], axis=1))
    assert fit(noisy).strength > fit(clouds(count=3000)).strength


def test_thresholds_make_unknown() -> None:
    samples = clouds()
    probe = fit(samples, strength=1.0)
    likely = probe.probabilities(samples.vectors)
    strict = LinearProbe(
        **{
            name: getattr(probe, name)
            for name in ("task", "kind", "classes", "mean", "scale", "weights", "bias", "strength")
        },
        thresholds=np.array([0.9, 0.5, 1.01]),
    )
    codes = strict.predict(samples.vectors)
    best = likely.argmax(axis=1)
    assert set(codes.tolist()) == {UNKNOWN, 0, 1}
    assert (likely[codes == 0, 0] >= 0.9).all()
    assert (codes[(best == 1) & (likely[:, 1] >= 0.5)] == 1).all()
    assert (codes[best == 2] == UNKNOWN).all()


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"target": np.zeros(600, np.int64)}, "one class, 'a'"),
        ({"vectors": np.full((600, 12), np.nan, np.float32)}, "600 of 600"),
        ({"target": np.full(600, 3)}, "3 classes are named"),
        ({"lat": np.full(600, 91.0)}, "latitude"),
        ({"lon": np.zeros(5)}, "lon"),
        ({"task": "number", "target": np.full(600, 2.5), "classes": ()}, "value 2.5"),
        ({"task": "number", "target": np.full(600, np.nan), "classes": ()}, "not a number"),
        ({"task": "guess"}, "'guess'"),
        ({"weight": np.full(600, -1.0)}, "negative"),
        ({"weight": np.full(600, np.inf)}, "not a number"),
        ({"weight": np.zeros(600)}, "All weights are 0"),
    ],
)
def test_bad_labels_are_named(parts: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        fit(changed(clouds(), **parts))


def test_one_label_is_too_few() -> None:
    with pytest.raises(InputError, match="There are 1 labels"):
        fit(clouds().take(np.array([0])))


def test_a_probe_of_a_number_has_no_probabilities() -> None:
    with pytest.raises(InputError, match="number"):
        fit(numbers(), strength=1.0).probabilities(numbers().vectors)
