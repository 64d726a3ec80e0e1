"""Examples of what is wanted and of what is not, made into one vector that an index can search.

docs/decisions/0008-query-combination.md says how the rule was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import InputError, ItemNotFoundError
from embeddings.query.items import ItemTable
from embeddings.sources.areas import Area
from embeddings.spec import EmbeddingSpec
from embeddings.store import Collection
from embeddings.types import LonLat

MAX_EXAMPLES = 1_000
MAX_IMAGES = 100
"""Each is read and encoded while the client waits."""
AREA_CHIPS = 200
BACKGROUND_ROWS = 2_000
SHRINKAGE = 40.0
"""With one positive the background's covariance is shrunk by 40 to 1; with p by 40 / p to 1."""
NEGATIVE_PRIOR = 100.0
"""So many negatives weigh as much as all of the background."""
NO_DIRECTION = 1e-6
"""Shorter differences of unit vectors are rounding."""

Vectors = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Row numbers ``(m,)`` to unit vectors ``(m, dim)``, as of ``Index.vectors``."""


@dataclass(frozen=True)
class Examples:
    """Places, ids of items, areas (every chip whose centre lies inside), vectors as stored, images.

    An area stands for at most ``AREA_CHIPS`` chips, spread evenly over its rows; each counts as
    much as a place. An image is one chip on disk, or a folder of its bands. Raises InputError if
    there are more than ``MAX_EXAMPLES``, or ``MAX_IMAGES`` of them.
    """

    places: tuple[LonLat, ...] = ()
    ids: tuple[str, ...] = ()
    areas: tuple[Area, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()
    images: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if len(self.images) > MAX_IMAGES:
            raise InputError(f"There are {len(self.images):,} images; there may be {MAX_IMAGES}.")
        if self.count > MAX_EXAMPLES:
            raise InputError(f"There are {self.count:,} examples; there may be {MAX_EXAMPLES:,}.")

    @property
    def count(self) -> int:
        """How many examples are named; an area is one."""
        return sum(map(len, (self.places, self.ids, self.areas, self.vectors, self.images)))


@dataclass(frozen=True)
class Resolved:
    """Examples as unit vectors ``(m, dim) float32``; ``rows`` are those of the collection's own."""

    vectors: NDArray[np.float32]
    rows: NDArray[np.int64]


def resolve(
    examples: Examples,
    items: ItemTable,
    vectors: Vectors,
    locate: Callable[[LonLat], int],
) -> Resolved:
    """Look examples up; ``locate`` gives the row of a place, and raises where there is none.

    Raises ItemNotFoundError or InputError.
    """
    rows = [np.array([locate(place) for place in examples.places], np.int64)]
    rows.append(rows_of_ids(items, examples.ids))
    named = np.concatenate(rows)
    rows += [_of_area(items, area) for area in examples.areas]
    found = np.unique(np.concatenate(rows))
    given = raw_vectors(examples.vectors, items.reader.collection.spec)
    if not len(found):
        return Resolved(given, found)
    stored = vectors(found)
    blank = ~stored.any(axis=1)
    for row in found[blank & np.isin(found, named)][:1]:
        name = items.reader.rows([int(row)])["id"][0].as_py()
        raise InputError(f"The vector of '{name}' is zero; it is like nothing. Leave it out.")
    return Resolved(np.concatenate([stored[~blank], given]), found)


def encoded(given: Sequence[Examples], collection: Collection) -> tuple[list[Examples], list[str]]:
    """Return examples with vectors in the place of images, and what was decided in reading them.

    Raises InputError and its kinds, or StoreError, as of ``encode_image``.
    """
    notes: list[str] = []
    if not any(each.images for each in given):
        return list(given), notes
    from embeddings.query.images import encode_image, image_encoder  # late: it brings GDAL

    encoder = image_encoder(collection)
    out = []
    for each in given:
        made = [
            tuple(encode_image(collection, path, encoder=encoder, tell=notes.append)[0].tolist())
            for path in each.images
        ]
        out.append(replace(each, vectors=(*each.vectors, *made), images=()))
    return out, notes


def raw_vectors(given: Sequence[Sequence[float]], spec: EmbeddingSpec) -> NDArray[np.float32]:
    """Return vectors as stored in a collection as search compares them: ``(m, dim)`` units.

    Raises InputError for another dimension, NaN, infinity, or no direction.
    """
    out = np.empty((len(given), spec.dim), np.float32)
    for number, each in enumerate(given):
        if len(each) != spec.dim:
            raise InputError(
                f"A vector has {len(each)} dimensions; this collection needs {spec.dim}."
            )
        vector: NDArray[np.float64] = np.asarray(each, np.float64)
        if not np.isfinite(vector).all():
            raise InputError("A vector holds NaN or infinity. Give finite numbers.")
        if spec.centre is not None:
            vector = vector - np.asarray(spec.centre, np.float32)
        # Squares of very large or small numbers would be infinite, or zero.
        largest = float(np.abs(vector).max(initial=0.0))
        out[number] = _unit(vector / (largest or 1.0), "A vector is zero; it has no direction.")
    return out


def background(count: int, vectors: Vectors, size: int = BACKGROUND_ROWS) -> NDArray[np.float32]:
    """Return the vectors of a seeded sample of a collection's rows, without repeats."""
    rng = np.random.default_rng(0)
    return vectors(np.sort(rng.choice(count, min(size, count), replace=False)))


@dataclass(frozen=True)
class Background:
    """Mean ``(dim,)`` and covariance ``(dim, dim)`` of a sample; kept with a collection's state."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @classmethod
    def of(cls, sample: NDArray[np.float32]) -> Background:
        """Describe a sample ``(b, dim)`` of unit vectors."""
        wide = sample.astype(np.float64)
        mean = wide.mean(axis=0)
        away = wide - mean
        return cls(mean, away.T @ away / len(away))


def combine(
    positive: NDArray[np.float32],
    negative: NDArray[np.float32],
    background: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the unit vector ``(dim,)`` to search with; see ``direction``.

    ``positive (p, dim)``, ``negative (n, dim)`` and ``background (b, dim)`` are unit vectors.
    """
    return direction(positive, negative, Background.of(background))


def direction(
    positive: NDArray[np.float32], negative: NDArray[np.float32], background: Background
) -> NDArray[np.float32]:
    """Return the unit vector ``(dim,)`` that tells positives from negatives and the background.

    One positive alone is itself. Else Fisher's linear discriminant: the mean of the positives
    less that of what is not wanted, times the inverse of the background's covariance, which is
    shrunk towards a sphere as ``SHRINKAGE`` says. What is not wanted is the background, with the
    mean of n negatives for the share n / (n + NEGATIVE_PRIOR). Raises InputError if there is no
    positive, or if the examples cancel each other.
    """
    if not len(positive):
        raise InputError("There is no positive example. Give one at least of what is wanted.")
    if len(positive) == 1 and not len(negative):
        return np.asarray(positive[0])
    share = len(negative) / (len(negative) + NEGATIVE_PRIOR)
    unwanted = (1 - share) * background.mean
    if len(negative):
        unwanted = unwanted + share * negative.mean(axis=0, dtype=np.float64)
    away = positive.mean(axis=0, dtype=np.float64) - unwanted
    return _unit(
        np.linalg.solve(_shrunk(background.covariance, len(positive)), away),
        "The examples cancel each other: they are like the average of the collection. Leave out "
        "negatives, or choose positives that have more in common.",
        NO_DIRECTION,
    )


def _shrunk(covariance: NDArray[np.float64], positives: int) -> NDArray[np.float64]:
    """Mix a covariance with a sphere of the same trace, the less so the more positives."""
    dim = len(covariance)
    sphere = SHRINKAGE / (SHRINKAGE + positives)
    variance = max(float(np.trace(covariance)) / dim, 1e-12)
    return np.asarray((1 - sphere) * covariance / variance + sphere * np.eye(dim))


def _unit(vector: NDArray[np.float64], problem: str, least: float = 0.0) -> NDArray[np.float32]:
    norm = float(np.linalg.norm(vector))
    if not norm > least:
        raise InputError(problem)
    return np.asarray(vector / norm, np.float32)


def rows_of_ids(items: ItemTable, ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the sorted rows of items. Raises ItemNotFoundError, naming one that is not there."""
    if not ids:
        return np.empty(0, np.int64)
    found = items.find(ids)
    if len(found) < len(set(ids)):
        known = set(items.reader.rows(found)["id"].to_pylist())
        missing = [each for each in ids if each not in known]
        if missing:
            raise ItemNotFoundError(
                f"Collection '{items.reader.collection.id}' has no item '{missing[0]}' "
                f"({len(missing)} of {len(ids)} are not there). GET its items, or search, to "
                "learn the ids."
            )
    return found


def _of_area(items: ItemTable, area: Area) -> NDArray[np.int64]:
    inside = items.inside(area)
    if not len(inside):
        raise InputError(
            "An area given as an example holds the centre of no chip. Draw a larger one."
        )
    step = np.linspace(0, len(inside) - 1, min(len(inside), AREA_CHIPS)).astype(np.int64)
    return inside[step]
