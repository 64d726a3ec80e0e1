"""Scores of pixels: their scale, their independence of the tiling, and what is kept to resume."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from embeddings.analysis.change.features import BandFacts, band_groups
from embeddings.analysis.change.pixels import PixelChange
from embeddings.analysis.change.thresholds import false_discovery
from embeddings.errors import NoDataError

Pair = tuple[np.ndarray, np.ndarray]
BLOCK = np.s_[60:90, 40:80]
EDGE = 14
"""Pixels beside a change that it reaches through the smoothing of the bands and the score."""


def pair(*, changed: bool, side: int = 160) -> Pair:
    rng = np.random.default_rng(4)
    ground = np.stack([gaussian_filter(rng.normal(size=(side, side)), 2) for _ in range(3)])
    before = 2000 + 3000 * ground + rng.normal(size=ground.shape) * 40
    after = 500 + 0.8 * before + rng.normal(size=ground.shape) * 40
    if changed:
        after[:, *BLOCK] = after[:, *BLOCK][::-1] + 700
    return before.astype(np.float32), after.astype(np.float32)


def test_a_new_brightness_is_no_change_and_a_new_ground_is() -> None:
    before, after = pair(changed=True)
    score = PixelChange.fit([(before, after)]).score(before, after)
    truth = np.zeros(score.shape, bool)
    truth[BLOCK] = True
    assert score.dtype == np.float32
    assert roc_auc_score(truth.ravel(), score.ravel()) > 0.97


def test_scores_are_standard_normal_where_nothing_changed() -> None:
    before, after = pair(changed=False)
    score = PixelChange.fit([(before, after)]).score(before, after)
    assert np.median(score) == pytest.approx(0, abs=0.02)
    assert (score > 1).mean() == pytest.approx(0.159, abs=0.005)
    assert (score > 1.645).mean() == pytest.approx(0.05, abs=0.02)


def test_change_among_the_brightest_pixels_shows() -> None:
    """Roofs brighter than all else at both dates; one of them doubles."""
    before, after = pair(changed=False)
    rng = np.random.default_rng(3)
    for place in range(6):
        roof = np.s_[60:66, 10 + 25 * place : 16 + 25 * place]
        now = 20_000 if place == 2 else 10_000
        before[:, *roof] = 12_000 + 200 * rng.normal(size=(3, 6, 6))
        after[:, *roof] = now + 200 * rng.normal(size=(3, 6, 6))
    score = PixelChange.fit([(before, after)]).score(before, after)
    roofs = [np.median(score[61:65, 11 + 25 * place : 15 + 25 * place]) for place in range(6)]
    assert roofs.pop(2) > max(2, *roofs) + 3


@pytest.mark.parametrize("share", [0.1, 0.25, 0.35])
def test_much_change_hides_neither_itself_nor_the_noise(share: float) -> None:
    before, after = pair(changed=False)
    rows = int(share * len(before[0]))
    after[:, :rows] = after[:, -rows:]
    score = PixelChange.fit([(before, after)]).score(before, after)
    assert (score[rows + EDGE :] > 1.645).mean() == pytest.approx(0.05, abs=0.03)
    assert (score[:rows] >= false_discovery(score, 0.1)).mean() > 0.95


def _small(before: np.ndarray, after: np.ndarray) -> Pair:
    return before[:, :60, :60], after[:, :60, :60]


def _holes(before: np.ndarray, after: np.ndarray) -> Pair:
    after[:, :, 110:] = np.nan
    return before, after


def _flat_band(before: np.ndarray, after: np.ndarray) -> Pair:
    before[1] = after[1] = 1000
    return before, after


def _snow(before: np.ndarray, after: np.ndarray) -> Pair:
    return before, np.where(after > 4000, np.float32(9990), np.float32(10_000))


def _mostly_alike(before: np.ndarray, after: np.ndarray) -> Pair:
    before[:, 4:], after[:, 4:] = 100, 100
    return before, after


def _hazy_on_one_side(before: np.ndarray, after: np.ndarray) -> Pair:
    veil = np.linspace(0, 1, after.shape[2], dtype=np.float32)
    return before, after * (1 - 0.3 * veil) + 3000 * veil


ODD: dict[str, Callable[[np.ndarray, np.ndarray], Pair]] = {
    "one band": lambda before, after: (before[:1], after[:1]),
    "one date of one value": lambda before, after: (before, np.full_like(after, 500)),
    "60 pixels wide": _small,
    "a third without data": _holes,
    "a band of one value": _flat_band,
    "snow at one date": _snow,
    "nearly all of one value": _mostly_alike,
    "haze on one side": _hazy_on_one_side,
    "bands that are the same": lambda before, after: (before[[0, 0, 0]], after[[0, 0, 0]]),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_scenes_have_scores(name: str) -> None:
    before, after = ODD[name](*pair(changed=False))
    score = PixelChange.fit([(before, after)]).score(before, after)
    there = np.isfinite(before).all(axis=0) & np.isfinite(after).all(axis=0)
    np.testing.assert_array_equal(np.isfinite(score), there)
    assert abs(np.median(score[there])) < 0.1
    assert (score[there] > 1.645).mean() < 0.1
    assert np.abs(score[there]).max() < 1000


@pytest.mark.parametrize("unit", [1e-4, 1e-9, 255 / 16_000])
def test_the_unit_of_the_bands_does_not_count(unit: float) -> None:
    before, after = pair(changed=True)
    usual = PixelChange.fit([(before, after)]).score(before, after)
    pixels = [np.float32(unit) * (date + 6000) for date in (before, after)]
    if unit > 1e-3:
        pixels = [date.astype(np.uint8) for date in pixels]
    found = PixelChange.fit([tuple(pixels)]).score(*pixels)
    assert np.corrcoef(found.ravel(), usual.ravel())[0, 1] > 0.95


def test_a_window_with_its_halo_has_the_scores_of_the_whole() -> None:
    before, after = pair(changed=True)
    before[:, 100:110, 30:50] = np.nan
    model = PixelChange.fit([(before, after)])
    whole = model.score(before, after)
    assert (np.isnan(whole) == np.isnan(before[0])).all()
    own, edge = np.s_[48:112, 32:96], model.halo
    around = np.s_[:, 48 - edge : 112 + edge, 32 - edge : 96 + edge]
    part = model.score(before[around], after[around])[edge:-edge, edge:-edge]
    np.testing.assert_allclose(part, whole[own], atol=1e-4)


def test_a_fit_survives_json() -> None:
    before, after = pair(changed=True)
    model = PixelChange.fit([(before, after)], groups=((0, 1, 2), (0, 1)))
    again = PixelChange.from_json(json.loads(json.dumps(model.to_json())))
    np.testing.assert_array_equal(model.score(before, after), again.score(before, after))


def test_a_pair_without_common_data_cannot_be_fitted() -> None:
    before, after = pair(changed=False)
    before[:, :80], after[:, 80:] = np.nan, np.nan
    with pytest.raises(NoDataError, match="there are 0"):
        PixelChange.fit([(before, after)])


def test_bands_are_grouped_by_what_they_see() -> None:
    fine = [BandFacts(um, 10.0) for um in (0.49, 0.56, 0.665, 0.833)]
    water, coarse = BandFacts(0.945, 60.0), BandFacts(1.61, 20.0)
    assert band_groups([*fine, water, coarse]) == ((0, 1, 2, 3, 5), (0, 1, 2, 3), (0, 1, 2))
    assert band_groups([BandFacts()] * 4) == ((0, 1, 2, 3),)
