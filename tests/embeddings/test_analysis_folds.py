"""Spatial folds: whole regions, buffers, features kept whole, any place on Earth."""

from __future__ import annotations

import numpy as np
import pytest

from embeddings.analysis.autocorrelation import correlogram
from embeddings.analysis.clusters import kmeans
from embeddings.analysis.folds import (
    LEAST_BLOCKS,
    block_size,
    random_folds,
    spatial_blocks,
    spatial_folds,
    spatial_plan,
)
from embeddings.errors import InputError
from embeddings.spacing import distance_m
from embeddings.types import LonLat


def _scattered(count: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Places all over the Earth, evenly by area."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-180, 180, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))


def _nearest(lon: np.ndarray, lat: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    return min(distance_m(LonLat(lon[t], lat[t]), lon[train], lat[train]).min() for t in test)


def test_every_sample_is_tested_once_and_never_trained_on_then() -> None:
    lon, lat = _scattered()
    splits = spatial_folds(lon, lat, np.arange(2000), 1e6, 10, 2e5, 0)
    assert sorted(np.concatenate([test for _, test in splits]).tolist()) == list(range(2000))
    for train, test in splits:
        assert not np.intersect1d(train, test).size
        assert len(train)


def test_the_buffer_holds_at_the_antimeridian_and_at_the_poles() -> None:
    rng = np.random.default_rng(0)
    lon = (rng.uniform(175, 185, 600) + 180) % 360 - 180
    lat = rng.uniform(-3, 3, 600)
    for places in ((lon, lat), (rng.uniform(-180, 180, 600), rng.uniform(86, 90, 600))):
        group = np.arange(600)
        splits = spatial_folds(*places, group, 100_000.0, 5, 60_000.0, 0)
        assert min(_nearest(*places, train, test[::7]) for train, test in splits) >= 60_000
        bare = spatial_folds(*places, group, 100_000.0, 5, 0.0, 0)
        assert min(_nearest(*places, train, test) for train, test in bare) < 60_000
        assert sum(len(train) for train, _ in bare) == 4 * 600


def test_folds_are_compact() -> None:
    lon, lat = _scattered()
    plan = spatial_plan(lon, lat, np.arange(2000), np.zeros(2000, np.int64), block_m=1e6)
    own = [
        (distance_m(LonLat(lon[i], lat[i]), lon, lat) < 500_000) & (plan.fold == plan.fold[i])
        for i in range(0, 2000, 40)
    ]
    near = [distance_m(LonLat(lon[i], lat[i]), lon, lat) < 500_000 for i in range(0, 2000, 40)]
    dealt = np.random.default_rng(0).permutation(plan.fold)
    other = [n & (dealt == dealt[i]) for n, i in zip(near, range(0, 2000, 40), strict=True)]
    assert np.sum(own) > 0.7 * np.sum(near) > 1.5 * np.sum(other)


def test_blocks_have_equal_areas_and_the_width_asked_for() -> None:
    lon, lat = _scattered(60_000)
    block = spatial_blocks(lon, lat, np.arange(60_000), 1_500_000.0)
    sizes = np.bincount(block)
    area = 4 * np.pi * 6.371e6**2
    assert len(sizes) == pytest.approx(area / 1.5e6**2, rel=0.15)
    assert np.quantile(sizes, 0.1) > 0.6 * np.median(sizes)
    assert np.quantile(sizes, 0.9) < 1.6 * np.median(sizes)


def test_a_feature_is_never_split() -> None:
    rng = np.random.default_rng(0)
    centre = rng.uniform(0, 10, (60, 2))
    group = np.repeat(np.arange(60), 20)
    lon, lat = (centre[group] + rng.normal(size=(1200, 2)) * 0.3).T
    plan = spatial_plan(lon, lat, group, group % 3, block_m=30_000.0)
    for part in (plan.block, plan.region, plan.fold):
        assert all(len(np.unique(part[group == g])) == 1 for g in range(60))
    # Without features the same blocks do split those places.
    single = spatial_blocks(lon, lat, np.arange(1200), 30_000.0)
    assert any(len(np.unique(single[group == g])) > 1 for g in range(60))


def test_a_feature_across_the_antimeridian_has_its_middle_there() -> None:
    lon, lat = np.array([179.9, -179.9, 0.0]), np.zeros(3)
    together = spatial_blocks(lon, lat, np.array([0, 0, 1]), 50_000.0)
    assert together[0] == together[1] != together[2]


def test_the_range_of_a_made_field_is_found() -> None:
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(0, 10, (2, 3000))
    for side in (0.5, 2.0):
        patch = rng.integers(0, 2, (40, 40))
        target = patch[(lat / side).astype(int), (lon / side).astype(int)]
        found = correlogram(lon, lat, target).range_m
        # Squares set by chance resemble each other up to somewhat less than their side.
        assert 0.4 * side * 111_000 < found < 1.5 * side * 111_000


def test_labels_without_pattern_have_a_short_range_and_trends_a_bound() -> None:
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(0, 10, (2, 2000))
    assert correlogram(lon, lat, rng.integers(0, 3, 2000)).range_m < 60_000
    group = np.arange(2000)
    wide = block_size(lon, lat, lon + lat)
    count = len(np.unique(spatial_blocks(lon, lat, group, wide)))
    assert LEAST_BLOCKS <= count < 2 * LEAST_BLOCKS


def test_blocks_of_one_scene() -> None:
    rng = np.random.default_rng(0)
    lon, lat = -113 + rng.uniform(0, 0.3, 1000), 37 + rng.uniform(0, 0.3, 1000)
    plan = spatial_plan(lon, lat, np.arange(1000), (lon > -112.85).astype(np.int64))
    assert len(np.unique(plan.fold)) == 10
    assert plan.block_m < 10_000
    assert np.bincount(plan.fold).min() > 30


def test_few_polygons_in_a_scene_make_blocks_of_whole_polygons() -> None:
    rng = np.random.default_rng(0)
    centre = rng.uniform(0, 0.2, (23, 2))
    group = np.repeat(np.arange(23), 30)
    lon, lat = (-76 + centre[group] + rng.uniform(0, 0.001, (690, 2))).T
    plan = spatial_plan(lon, lat + 110, group, group % 6)
    assert 11 <= len(np.unique(plan.block)) <= 23
    assert plan.block_m > 100  # the polygons themselves are as wide
    assert all(len(train) > 300 for train, _ in plan.splits(lon, lat + 110))


def test_more_regions_than_folds_are_dealt_by_class() -> None:
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(0, 10, (2, 3000))
    target = (lon > 5).astype(np.int64)
    group = np.arange(3000)
    plan = spatial_plan(lon, lat, group, target, folds=5, regions=40, block_m=50_000.0)
    shares = [target[plan.fold == k].mean() for k in range(5)]
    assert len(np.unique(plan.region)) == 40
    assert max(shares) - min(shares) < 0.2
    whole = spatial_plan(lon, lat, group, target, folds=5, block_m=50_000.0)
    shares = [target[whole.fold == k].mean() for k in range(5)]
    assert max(shares) - min(shares) > 0.5


def test_one_place_cannot_be_split() -> None:
    same = np.full(30, 5.0)
    with pytest.raises(InputError, match="one block"):
        spatial_plan(same, same, np.arange(30), np.arange(30) % 2)


def test_random_folds_have_equal_shares_of_classes() -> None:
    target = np.repeat([0, 1, 2], [500, 100, 10])
    for train, test in random_folds(target, 5, seed=0):
        assert np.bincount(target[test], minlength=3).tolist() == [100, 20, 2]
        assert len(train) + len(test) == 610


def test_kmeans_finds_clouds_and_drops_what_is_twice() -> None:
    rng = np.random.default_rng(0)
    middle = np.array([[0, 0], [10, 0], [0, 10]], np.float32)
    points = (middle[:, None] + rng.normal(size=(3, 50, 2))).reshape(-1, 2).astype(np.float32)
    centres, codes = kmeans(points, 3)
    assert all(np.abs(centres - m).max(axis=1).min() < 1 for m in middle)
    assert len(np.unique(codes[:50])) == 1
    assert len(kmeans(np.zeros((9, 2), np.float32), 4)[0]) == 1
