"""The hashed spacing gives what comparing every chosen place with all others gives."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embeddings.spacing import distance_m, spread
from embeddings.types import LonLat


def by_the_rule(
    lon: NDArray[np.float64], lat: NDArray[np.float64], apart_m: float, most: int
) -> list[int]:
    free = np.ones(len(lon), bool)
    kept: list[int] = []
    while free.any() and len(kept) < most:
        best = int(np.argmax(free))
        kept.append(best)
        free &= distance_m(LonLat(float(lon[best]), float(lat[best])), lon, lat) >= apart_m
        free[best] = False
    return kept


PLACES = {
    "everywhere": ((-180.0, 180.0), (-90.0, 90.0)),
    "north pole": ((-180.0, 180.0), (89.5, 90.0)),
    "antimeridian": ((179.5, 180.5), (-1.0, 1.0)),
    "a town": ((7.0, 7.05), (46.0, 46.05)),
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("apart_m", [0, 1e-3, 10.0, 500.0, 30_000.0, 3e6, 1.9e7, 2.1e7])
def test_the_same_places_are_kept_as_by_the_rule(
    where: str, apart_m: float, rng: np.random.Generator
) -> None:
    west_east, south_north = PLACES[where]
    lon = (rng.uniform(*west_east, 3000) + 180) % 360 - 180
    lat = rng.uniform(*south_north, 3000)
    lon[10:20], lat[10:20] = lon[0], lat[0]
    for most in (1, 50, 500):
        assert spread(lon, lat, apart_m, most) == by_the_rule(lon, lat, apart_m, most)


@settings(max_examples=40, deadline=None)
@given(
    places=st.lists(st.tuples(st.floats(-180, 180), st.floats(-90, 90)), max_size=40),
    apart_m=st.floats(0, 2.2e7),
    most=st.integers(0, 50),
)
def test_any_places(places: list[tuple[float, float]], apart_m: float, most: int) -> None:
    lon, lat = np.array(places, float).reshape(-1, 2).T
    assert spread(lon, lat, apart_m, most) == by_the_rule(lon, lat, apart_m, most)


def test_a_thousand_of_fifty_thousand_take_a_fraction_of_a_second(
    rng: np.random.Generator,
) -> None:
    lon, lat = rng.uniform(-10, 10, 50_000), rng.uniform(-10, 10, 50_000)
    start = time.perf_counter()
    kept = spread(lon, lat, 10_000.0, 1000)
    assert len(kept) == 1000
    assert time.perf_counter() - start < 2.0
