"""The noise model: false alarms as stated whatever kind of place, change found beside them."""

from __future__ import annotations

import numpy as np
import pytest

from embeddings.analysis.change.noise import (
    FEWEST,
    NoiseModel,
    NoiseSettings,
    cosine_distance,
    euclidean_distance,
    own_history,
)
from embeddings.analysis.change.null import Null
from embeddings.errors import InputError

DIM = 12
KINDS = 3
FIVE = 1.645


def world(
    rng: np.random.Generator, count: int = 3000, changed: float = 0.0, louder: float = 1.0
) -> dict[str, np.ndarray]:
    """Places of three kinds: each has its own season and strays by its own amount."""
    kind = rng.integers(0, KINDS, count)
    middle = 6 * np.random.default_rng(5).normal(size=(KINDS, DIM))
    season = 2 * np.random.default_rng(6).normal(size=(KINDS, DIM))
    spread = louder * np.array([0.3, 0.6, 1.2])[kind, None]
    before = middle[kind] + 0.4 * rng.normal(size=(count, DIM))
    after = before + season[kind] + spread * rng.normal(size=(count, DIM))
    became = rng.random(count) < changed
    other = (kind + rng.integers(1, KINDS, count)) % KINDS
    after[became] = (middle[other] + season[other] + spread * rng.normal(size=(count, DIM)))[became]
    xyz = np.c_[rng.uniform(0, 50_000, (count, 2)), np.zeros(count)]
    arrays = {"before": before.astype(np.float32), "after": after.astype(np.float32), "xyz": xyz}
    return {**arrays, "kind": kind, "became": became}


def scores(made: dict[str, np.ndarray], **settings: object) -> np.ndarray:
    """Fit to 1,000 of the places and score all."""
    some = slice(0, 1000)
    arrays = [made[name] for name in ("before", "after", "xyz")]
    model = NoiseModel.fit(*(each[some] for each in arrays), NoiseSettings(**settings))
    return model.score(*arrays)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_false_alarms_are_as_stated_for_all_and_alike_for_each_kind(
    rng: np.random.Generator, metric: str
) -> None:
    made = world(rng)
    found = scores(made, metric=metric, alike=100)
    assert (found > FIVE).mean() == pytest.approx(0.05, abs=0.02)
    raw = cosine_distance(made["before"], made["after"])
    loud = raw > np.quantile(raw, 0.95)
    kinds = [made["kind"] == kind for kind in range(KINDS)]
    of_raw = [loud[here].mean() for here in kinds]
    ours = [(found[here] > FIVE).mean() for here in kinds]
    # The raw distance finds all its change in the kind that always moves.
    assert max(of_raw) > 0.1
    assert min(of_raw) == 0.0
    assert max(ours) - min(ours) < 0.7 * (max(of_raw) - min(of_raw))


@pytest.mark.parametrize("share", [0.02, 0.1, 0.25])
def test_change_among_them_neither_raises_nor_drowns_false_alarms(
    rng: np.random.Generator, share: float
) -> None:
    made = world(rng, changed=share)
    found = scores(made)
    became = made["became"]
    alarms = (found[~became] > FIVE).mean()
    # Where so much changed that its tail cannot be told from noise, alarms are fewer, never more.
    assert alarms == pytest.approx(0.05, abs=0.02) or (share > 0.2 and 0.005 < alarms < 0.05)
    assert (found[became] > FIVE).mean() > 0.95


def test_scores_are_on_one_scale_in_a_quiet_and_a_noisy_area(rng: np.random.Generator) -> None:
    quiet, noisy = (scores(world(rng, louder=louder)) for louder in (0.5, 2.0))
    for level in (0.25, 0.5, 0.75, 0.95):
        assert np.quantile(quiet, level) == pytest.approx(np.quantile(noisy, level), abs=0.2)


def test_a_patch_that_changed_together_is_not_its_own_norm(rng: np.random.Generator) -> None:
    made = world(rng)
    patch = np.arange(100)
    made["before"][patch] += 20  # a kind of its own
    made["after"][patch] = made["before"][patch] + 9
    made["xyz"][patch, :2] = rng.uniform(0, 500, (100, 2))
    apart = scores(made, apart_m=1000.0)[patch]
    beside = scores(made, apart_m=0.0, alike=60)[patch]
    assert np.median(apart) > 3
    assert np.median(beside) < np.median(apart) - 2


def test_a_score_depends_on_its_place_alone(rng: np.random.Generator) -> None:
    made = world(rng, 1500)
    arrays = [made[name] for name in ("before", "after", "xyz")]
    model = NoiseModel.fit(*(each[:800] for each in arrays))
    whole = model.score(*arrays)
    some = rng.permutation(1500)[:37]
    np.testing.assert_allclose(
        model.score(*(each[some] for each in arrays)), whole[some], atol=1e-3
    )


def test_no_number_has_no_score(rng: np.random.Generator) -> None:
    made = world(rng, 400)
    made["before"][3], made["after"][5, 0] = np.nan, np.inf
    arrays = [made[name] for name in ("before", "after", "xyz")]
    found = NoiseModel.fit(*(each[100:] for each in arrays)).score(*arrays)
    assert np.flatnonzero(np.isnan(found)).tolist() == [3, 5]


def test_too_few_places_are_refused(rng: np.random.Generator) -> None:
    made = world(rng, FEWEST - 1)
    with pytest.raises(InputError, match=f"{FEWEST} or more"):
        NoiseModel.fit(made["before"], made["after"], made["xyz"])
    with pytest.raises(InputError, match="no measure"):
        NoiseSettings("manhattan")  # type: ignore[arg-type]  # as a user may


def test_raw_distances() -> None:
    one, two = np.array([[3.0, 4.0], [1.0, 0.0]], "f4"), np.array([[4.0, 3.0], [-2.0, 0.0]], "f4")
    np.testing.assert_allclose(cosine_distance(one, two), [0.04, 2.0], atol=1e-6)
    np.testing.assert_allclose(euclidean_distance(one, two), [2**0.5, 3.0], atol=1e-6)


def test_own_history_takes_off_what_a_place_always_does() -> None:
    score = np.full(4, 3.0, np.float32)
    always = np.array([[3.0, 0.0, np.nan, 3.0]] * 6, np.float32)
    restless, calm, unknown, _ = own_history(score, always).tolist()
    assert restless < 2 < 3 < calm
    assert unknown == pytest.approx(3.0)
    # One wild date of the past is clipped: it does not hide all that follows.
    wild = np.array([[50.0]] + [[0.0]] * 5, np.float32)
    assert own_history(score[:1], wild)[0] > 1.4


@pytest.mark.parametrize("skew", [0.0, 0.6])
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_null_is_normal_beside_change(
    rng: np.random.Generator, skew: float, share: float
) -> None:
    noise = np.sinh((rng.normal(size=8000) + skew) / 2.5) * 3 + 1
    change = rng.normal(noise.mean() + 6 * noise.std(), 1.5 * noise.std(), 8000)
    became = rng.random(8000) < share
    null = Null.fit(np.where(became, change, noise))
    found = null.scores(noise)
    assert (found > FIVE).mean() == pytest.approx(0.05, abs=0.015)
    assert (found < -FIVE).mean() == pytest.approx(0.05, abs=0.02)
    assert null.changed == pytest.approx(share, abs=0.03)
    assert (np.diff(null.scores(np.linspace(-50, 500, 999))) > 0).all()


def test_the_null_of_few_values_and_none(rng: np.random.Generator) -> None:
    few = rng.normal(10, 2, 40)
    found = Null.fit(few).scores(few)
    assert np.median(found) == pytest.approx(0, abs=0.05)
    assert found.std() == pytest.approx(1, abs=0.35)
    assert Null.fit(np.array([np.nan])).scores(np.array([0.5])) == pytest.approx(0.48, abs=0.01)
