"""Since when: a departure is named if it lasts, and by its first date."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from embeddings.analysis.change.series import NEVER, series_threshold, since_when
from embeddings.errors import InputError

DATES = 7
FAR = 5.0


def pairs_of(states: list[list[float]]) -> dict[tuple[int, int], np.ndarray]:
    """Score each place's pairs of dates by how far its states are apart; NaN is no data."""
    values = np.array(states, np.float32)
    return {
        (a, b): np.abs(values[:, a] - values[:, b])
        for a, b in combinations(range(values.shape[1]), 2)
    }


def since(*states: list[float]) -> list[int]:
    return since_when(pairs_of(list(states)), len(states[0]), 2.0).date.tolist()


def test_a_departure_is_named_by_its_first_date() -> None:
    for date in range(1, DATES - 1):
        assert since([0] * date + [FAR] * (DATES - date)) == [date]


def test_what_does_not_last_is_none() -> None:
    cloud = [0, 0, 0, FAR, 0, 0, 0]
    returned = [0, 0, 0, FAR, FAR, 0, 0]
    only_the_last = [0, 0, 0, 0, 0, 0, FAR]
    assert since([0] * DATES, cloud, returned, only_the_last) == [NEVER] * 4


def test_of_several_departures_the_first_counts() -> None:
    assert since([0, 0, FAR, FAR, 2 * FAR, 2 * FAR, 2 * FAR]) == [2]


def test_one_quiet_date_does_not_end_a_departure() -> None:
    assert since([0, 0, FAR, FAR, 0, FAR, FAR]) == [2]


def test_dates_without_data_are_left_out() -> None:
    gap = float("nan")
    found = since_when(
        pairs_of(
            [
                [0, gap, 0, FAR, gap, FAR, FAR],
                [0, 0, gap, FAR, FAR, FAR, gap],
                [gap] * DATES,
                [0, 0, 0, 0, 0, gap, gap],
            ]
        ),
        DATES,
        2.0,
    )
    assert found.date.tolist() == [3, 3, NEVER, NEVER]
    assert found.dates.tolist() == [3, 3, 0, 0]
    assert found.score[:2].tolist() == [FAR, FAR]
    assert np.isnan(found.score[2])
    assert found.score[3] == 0


def test_the_threshold_keeps_the_rate_of_false_alarms(rng: np.random.Generator) -> None:
    state = rng.normal(size=(3000, DATES, 8))
    # Scores of pairs that share a date are not independent, as in life.
    noise = {
        (a, b): (np.linalg.norm(state[:, a] - state[:, b], axis=1) - 3.9).astype(np.float32)
        for a, b in combinations(range(DATES), 2)
    }
    for rate in (0.02, 0.05):
        threshold = series_threshold(noise, DATES, rate)
        named = (since_when(noise, DATES, threshold).date != NEVER).mean()
        assert named == pytest.approx(rate, abs=0.4 * rate)
    changed = {
        (a, b): np.where(np.arange(3000) < 300, FAR * (a < 4 <= b), 0) + values
        for (a, b), values in noise.items()
    }
    found = since_when(changed, DATES, series_threshold(changed, DATES, 0.05))
    assert (found.date[:300] == 4).mean() > 0.8
    assert (found.date[300:] != NEVER).mean() < 0.07


def test_two_dates_are_no_series() -> None:
    with pytest.raises(InputError, match="3 dates or more"):
        series_threshold(pairs_of([[0, 1]]), 2, 0.05)


def test_fewer_dates_than_a_departure_needs_tell_nothing() -> None:
    gap = float("nan")
    pairs = pairs_of(
        [
            [0, gap, gap, gap, gap, gap, 0],
            [0, FAR, gap, gap, gap, gap, gap],
            [gap, gap, 0, gap, gap, gap, gap],
            [0, 0, 0, gap, gap, gap, gap],
            [0, FAR, FAR, gap, gap, gap, gap],
        ]
    )
    found = since_when(pairs, DATES, 2.0)
    assert np.isnan(found.score).tolist() == [True] * 3 + [False] * 2
    assert found.coverage.tolist() == [3, 3, 3, 0, 0]
    # Dates that end early tell what there is up to their end.
    assert found.date.tolist() == [NEVER] * 4 + [1]


def test_a_threshold_needs_places_that_can_tell() -> None:
    gap = float("nan")
    with pytest.raises(InputError, match="No place has data at 3 of the 4 dates"):
        series_threshold(pairs_of([[0, 0, gap, gap], [gap, 0, 0, gap]]), 4, 0.05)
