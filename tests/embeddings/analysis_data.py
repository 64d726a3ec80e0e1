"""Made-up labelled places for the tests of the analysis, seeded."""

from __future__ import annotations

from typing import Any

import numpy as np

from embeddings.analysis.samples import Samples


def clouds(
    count: int = 600, dim: int = 12, classes: int = 3, apart: float = 2.0, seed: int = 0
) -> Samples:
    """Classes as overlapping clouds, mixed all over a box of 2 degrees: place says nothing."""
    rng = np.random.default_rng(seed)
    # First, so that more samples of a seed are of the same clouds.
    centres = rng.normal(size=(classes, dim)) * apart / np.sqrt(dim)
    target = rng.integers(0, classes, count)
    vectors = (centres[target] + rng.normal(size=(count, dim))).astype(np.float32)
    lon, lat = rng.uniform(10, 12, count), rng.uniform(45, 47, count)
    names = tuple("abcdefghij"[:classes])
    return Samples("classes", vectors, target, names, lon, lat, np.arange(count))


def places_only(count: int = 1600, dim: int = 150, seed: int = 0) -> Samples:
    """Vectors that know where they are and nothing else; patches of classes set by chance.

    Near places have near vectors, so a random split promises much; away from the labels there is
    nothing to know.
    """
    rng = np.random.default_rng(seed)
    lon, lat = rng.uniform(0, 8, count), rng.uniform(0, 8, count)
    waves = rng.normal(size=(2, dim)) * 2
    shift = rng.uniform(0, 2 * np.pi, dim)
    vectors = np.sin(np.stack([lon, lat], 1) @ waves + shift).astype(np.float32)
    patch = rng.integers(0, 2, (9, 9))
    target = patch[np.floor(lat).astype(int), np.floor(lon).astype(int)].astype(np.int64)
    return Samples("classes", vectors, target, ("a", "b"), lon, lat, np.arange(count))


def numbers(count: int = 500, dim: int = 10, noise: float = 0.5, seed: int = 0) -> Samples:
    """A number that is linear in the vectors, with noise."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, dim)).astype(np.float32)
    target = 20 + vectors @ rng.normal(size=dim) + noise * rng.normal(size=count)
    lon, lat = rng.uniform(-60, -50, count), rng.uniform(-10, 0, count)
    return Samples("number", vectors, target, (), lon, lat, np.arange(count))


def changed(samples: Samples, **parts: Any) -> Samples:
    """The samples with other parts."""
    names = ("task", "vectors", "target", "classes", "lon", "lat", "group", "weight")
    return Samples(**({name: getattr(samples, name) for name in names} | parts))
