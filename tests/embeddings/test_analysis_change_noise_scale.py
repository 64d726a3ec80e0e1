"""The scale of scores: five in a hundred where nothing changed, however much changed elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from embeddings.analysis.change.noise_scale import NoiseScale, quiet_share

MANY = 50_000
NORMAL_5 = 1.645


def logs(share: float, tail: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return log-normal raw scores, their upper half stretched by ``tail``, and which changed."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=MANY)
    noise = np.where(noise > 0, tail * noise, noise)
    changed = rng.random(MANY) < share
    return 0.25 * np.where(changed, rng.normal(6, 1, MANY), noise), changed


@pytest.mark.parametrize(
    ("share", "tail"),
    [(0.0, 1.0), (0.02, 1.0), (0.16, 1.0), (0.3, 1.0), (0.4, 1.0), (0.02, 1.3), (0.16, 1.3)],
)
def test_the_scale_is_that_of_what_did_not_change(share: float, tail: float) -> None:
    raw, changed = logs(share, tail)
    score = NoiseScale.fit(np.exp(raw).astype(np.float32)).normal(np.exp(raw))
    assert (score[~changed] > NORMAL_5).mean() == pytest.approx(0.05, abs=0.02)
    if share:
        assert np.median(score[changed]) > 3


@pytest.mark.parametrize("share", [0.0, 0.02, 0.05])
def test_a_little_change_moves_nothing(share: float) -> None:
    assert quiet_share(np.sort(logs(share)[0])) == 1


def test_a_heavy_tail_is_noise() -> None:
    raw = np.sort(0.25 * np.random.default_rng(3).standard_t(5, MANY))
    assert quiet_share(raw) == 1


@pytest.mark.parametrize("share", [0.2, 0.3, 0.4])
def test_much_change_is_left_out(share: float) -> None:
    assert quiet_share(np.sort(logs(share)[0])) == pytest.approx(1 - share, abs=0.02)


def test_pixels_that_are_all_alike_make_no_endless_scores() -> None:
    raw = np.zeros(1000, np.float32)
    raw[-40:] = np.linspace(0.5, 2, 40)
    score = NoiseScale.fit(raw).normal(raw)
    np.testing.assert_allclose(score[:-40], 0, atol=0.02)
    assert (score[-40:] > 10).all()
    assert score.max() < 1000
