"""Scores of pixels: their scale, their independence of the tiling, and what is kept to resume."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from embeddings.analysis.change.features import BandFacts, band_groups
from embeddings.analysis.change.pixels import PixelChange
from embeddings.errors import NoDataError

Pair = tuple[np.ndarray, np.ndarray]
BLOCK = np.s_[60:90, 40:80]


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
