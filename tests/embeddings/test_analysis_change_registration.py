"""How far two dates lie apart: to a tenth of a pixel, or honestly unknown."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import fourier_shift, gaussian_filter

from embeddings.analysis.change.registration import find_shift, window_shift

Pair = tuple[np.ndarray, np.ndarray]


def texture(side: int, seed: int, bands: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([gaussian_filter(rng.normal(size=(side, side)), 1.2) for _ in range(bands)])


def moved(scene: np.ndarray, row: float, col: float) -> np.ndarray:
    return np.stack([np.fft.ifft2(fourier_shift(np.fft.fft2(b), (row, col))).real for b in scene])


def pairs(row: float, col: float, many: int = 6, noise: float = 0.1) -> list[Pair]:
    """Windows cut out of larger scenes, so that nothing wraps round their edges."""
    found = []
    for seed in range(many):
        scene, rng = texture(220, seed), np.random.default_rng(1000 + seed)
        other = moved(scene, row, col)
        here = np.s_[:, 40:168, 40:168]
        after = 0.6 * other[here] + 0.3 + noise * rng.normal(size=(2, 128, 128))
        found.append((scene[here].astype(np.float32), after.astype(np.float32)))
    return found


@pytest.mark.parametrize("shift", [(0.3, -0.7), (2.4, 3.1), (-11.25, 7.5)])
def test_a_shift_is_found_between_pixels(shift: tuple[float, float]) -> None:
    found = find_shift(pairs(*shift))
    assert (found.row, found.col) == pytest.approx(shift, abs=0.05)
    assert found.significant
    assert found.agreeing == found.tried == 6
    assert found.length == pytest.approx(np.hypot(*shift), abs=0.05)


def test_scenes_that_lie_on_each_other_are_left_alone() -> None:
    found = find_shift(pairs(0, 0))
    assert found.length < 0.05
    assert found.agreeing == 6
    assert not found.significant


def test_bands_that_turn_dark_where_they_were_bright_do_not_mislead() -> None:
    windows = pairs(1.5, -2.0)
    for _, after in windows:
        after[1] = np.random.default_rng(5).normal(size=after[1].shape)
    found = find_shift(windows)
    assert (found.row, found.col) == pytest.approx((1.5, -2.0), abs=0.1)


def test_unrelated_windows_tell_nothing() -> None:
    one, two = texture(128, 1).astype(np.float32), texture(128, 2).astype(np.float32)
    assert window_shift(one, two) is None
    found = find_shift([(one, two)] * 5)
    assert (found.found, found.tried, found.significant) == (0, 5, False)


def test_windows_that_disagree_move_nothing() -> None:
    windows = [pairs(d, -d, many=1, noise=0.01)[0] for d in (-9.0, -5.0, 0.0, 5.0, 9.0)]
    assert not find_shift(windows).significant


def test_few_windows_that_are_wrong_are_outvoted() -> None:
    windows = [*pairs(1.0, 2.0), *pairs(9.0, -9.0, many=2)]
    found = find_shift(windows)
    assert (found.row, found.col) == pytest.approx((1.0, 2.0), abs=0.05)
    assert (found.agreeing, found.found) == (6, 8)
    assert found.significant


def test_gaps_are_filled_and_too_many_refused() -> None:
    before, after = pairs(2.0, 1.0, many=1)[0]
    before[:, :30, :30] = np.nan
    after[:, 100:, 90:] = np.nan
    assert window_shift(before, after) == pytest.approx((2.0, 1.0), abs=0.1)
    after[:, :60] = np.nan
    assert window_shift(before, after) is None


def test_a_window_without_contrast_tells_nothing() -> None:
    flat = np.full((2, 128, 128), 7.0, np.float32)
    assert window_shift(flat, flat) is None


def test_no_window_at_all_is_no_shift() -> None:
    found = find_shift([])
    assert (found.row, found.col, found.tried, found.significant) == (0.0, 0.0, 0, False)
