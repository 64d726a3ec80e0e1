"""Examples become one vector that finds what they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from embeddings.errors import InputError, ItemNotFoundError, OutsideCoverageError
from embeddings.query.examples import (
    AREA_CHIPS,
    Background,
    Examples,
    background,
    combine,
    direction,
    raw_vectors,
    resolve,
)
from embeddings.query.items import ItemTable
from embeddings.query.polygons import read_polygons
from embeddings.store import Collection
from embeddings.store.reader import Reader
from embeddings.types import LonLat

DIM = 24


def units(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)


@pytest.fixture
def classes(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Eight classes of 400 that differ in six directions; three others vary more, for nothing."""
    axis = np.arange(DIM)
    centres = rng.normal(size=(8, DIM)) * (axis < 6)
    noise = np.where(axis < 6, 0.4, np.where(axis < 9, 1.5, 0.3))
    number = np.repeat(np.arange(8), 400)
    return units(centres[number] + rng.normal(size=(3200, DIM)) * noise), number


def precision(
    vectors: NDArray[np.float32],
    number: NDArray[np.int64],
    query: NDArray[np.float32],
    used: NDArray[np.int64],
) -> float:
    scores = vectors @ query
    scores[used] = -2
    return float((number[np.argsort(-scores)[:50]] == 0).mean())


def test_more_examples_find_more_and_the_rule_beats_plain_means(
    classes: tuple[NDArray[np.float32], NDArray[np.int64]], rng: np.random.Generator
) -> None:
    vectors, number = classes
    sample = background(len(vectors), lambda rows: vectors[rows])
    assert sample.shape == (2000, DIM)
    found: dict[str, list[float]] = {}
    for _ in range(20):
        positive = rng.choice(400, 10, replace=False)
        wrong = np.argsort(-(vectors @ vectors[positive[0]]))
        negative = wrong[number[wrong] != 0][:5]
        p, n, none = vectors[positive], vectors[negative], vectors[:0]
        queries = {
            "one": combine(p[:1], none, sample),
            "five": combine(p[:5], none, sample),
            "ten": combine(p, none, sample),
            "five and five": combine(p[:5], n, sample),
            "less background": units((p[:5].mean(axis=0) - sample.mean(axis=0))[None])[0],
            "mean": units(p[:5].mean(axis=0)[None])[0],
            "geovibes": units((2 * p[:5].mean(axis=0) - n.mean(axis=0))[None])[0],
        }
        used = np.concatenate([positive, negative])
        for name, query in queries.items():
            assert query.dtype == np.float32
            assert np.linalg.norm(query) == pytest.approx(1, abs=1e-5)
            found.setdefault(name, []).append(precision(vectors, number, query, used))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    rising = ("one", "mean", "less background", "five", "ten")
    assert np.diff([means[name] for name in rising]).min() > 0.03, means
    assert means["five and five"] > means["geovibes"], means


def test_one_positive_alone_is_itself(rng: np.random.Generator) -> None:
    vectors = units(rng.normal(size=(50, DIM)))
    assert combine(vectors[:1], vectors[:0], vectors).tolist() == vectors[0].tolist()


def test_a_negative_moves_the_query_away_from_it(rng: np.random.Generator) -> None:
    vectors = units(rng.normal(size=(300, DIM)))
    known = Background.of(vectors)
    for negative in vectors[1:20]:
        without = direction(vectors[:1], vectors[:0], known)
        moved = direction(vectors[:1], np.repeat(negative[None], 20, axis=0), known)
        assert moved @ negative < without @ negative


def test_order_and_repeats_change_nothing_but_rounding(rng: np.random.Generator) -> None:
    vectors = units(rng.normal(size=(300, DIM)))
    known = Background.of(vectors)
    one = direction(vectors[:5], vectors[5:9], known)
    assert direction(vectors[4::-1], vectors[8:4:-1], known) == pytest.approx(one, abs=1e-6)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_tiny_collections_have_an_answer(rows: int, rng: np.random.Generator) -> None:
    vectors = units(rng.normal(size=(rows, DIM)))
    query = combine(units(rng.normal(size=(3, DIM))), vectors[:1], vectors)
    assert np.isfinite(query).all()


def test_examples_that_say_nothing_are_refused(rng: np.random.Generator) -> None:
    vectors = units(rng.normal(size=(5, DIM)))
    with pytest.raises(InputError, match="no positive example"):
        combine(vectors[:0], vectors, vectors)
    same = np.repeat(vectors[:1], 4, axis=0)
    with pytest.raises(InputError, match="cancel each other"):
        combine(same, same, same)


@pytest.mark.parametrize(
    ("vector", "told"),
    [
        ((1.0, 2.0), "has 2 dimensions; this collection needs 4"),
        ((1.0, 2.0, float("nan"), 0.0), "NaN or infinity"),
        ((1.0, 2.0, float("inf"), 0.0), "NaN or infinity"),
        ((0.0, 0.0, 0.0, 0.0), "no direction"),
    ],
)
def test_raw_vectors_are_checked(
    make_spec: Callable[..., Any], vector: tuple[float, ...], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        raw_vectors([vector], make_spec())


def test_the_centre_is_taken_off_raw_vectors(make_spec: Callable[..., Any]) -> None:
    spec = make_spec(centre=(1.0, 0.0, 0.0, 0.0))
    assert raw_vectors([(1.0, 3.0, 0.0, 4.0)], spec).tolist() == [
        pytest.approx([0.0, 0.6, 0.0, 0.8])
    ]
    with pytest.raises(InputError, match="no direction"):
        raw_vectors([(1.0, 0.0, 0.0, 0.0)], spec)


def test_places_ids_areas_and_vectors_are_looked_up(small: Collection) -> None:
    items = ItemTable.load(Reader(small))
    ids = items.reader.items(limit=1000)["id"].to_pylist()
    stored = np.concatenate([values for _, values in items.reader.batches()])

    def vectors(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return units(stored[rows])

    def locate(place: LonLat) -> int:
        if place.lat > 80:
            raise OutsideCoverageError("not here")
        return int(np.argmin(np.hypot(items.lon - place.lon, items.lat - place.lat)))

    near = (items.lon[:144] < np.median(items.lon[:144])).nonzero()[0]
    box = [items.lon[near].min(), items.lat[near].min(), items.lon[near].max(), 90.0]
    shape = shapely.box(box[0] - 1e-6, box[1] - 1e-6, box[2] + 1e-6, 89.0)
    area = read_polygons(shapely.to_geojson(shape)).area
    raw = tuple(map(float, stored[7]))
    asked = Examples((LonLat(items.lon[5], items.lat[5]),), (ids[3], ids[5]), (area,), (raw,))
    assert asked.count == 5
    found = resolve(asked, items, vectors, locate)
    inside = shapely.contains_xy(shape, items.lon, items.lat).nonzero()[0]
    assert len(inside) >= len(near)
    assert found.rows.tolist() == sorted({3, 5, *inside.tolist()})
    assert len(found.vectors) == len(found.rows) + 1
    assert found.vectors[-1] == pytest.approx(vectors(np.array([7]))[0], abs=1e-6)

    only = resolve(Examples(vectors=(raw,)), items, vectors, locate)
    assert (only.rows.tolist(), only.vectors.shape) == ([], (1, small.spec.dim))
    nothing = resolve(Examples(), items, vectors, locate)
    assert nothing.vectors.shape == (0, small.spec.dim)
    with pytest.raises(ItemNotFoundError, match="no item 'gone'"):
        resolve(Examples(ids=(ids[0], "gone")), items, vectors, locate)
    with pytest.raises(OutsideCoverageError):
        resolve(Examples(places=(LonLat(0, 85),)), items, vectors, locate)
    empty = read_polygons(shapely.to_geojson(shapely.box(0, 0, 1, 1))).area
    with pytest.raises(InputError, match="no chip"):
        resolve(Examples(areas=(empty,)), items, vectors, locate)


def test_a_large_area_stands_for_chips_spread_over_it(small: Collection) -> None:
    items = ItemTable.load(Reader(small))
    many = replace(items, lon=np.linspace(0, 1, 5000), lat=np.zeros(5000))
    many = replace(many, boxes=np.array([[0.0, 0.0, 1.0, 0.0]] * 5))
    area = read_polygons(shapely.to_geojson(shapely.box(-1, -1, 2, 1))).area
    dim = small.spec.dim
    found = resolve(
        Examples(areas=(area,)),
        many,
        lambda rows: np.ones((len(rows), dim), np.float32),
        lambda _: 0,
    )
    assert len(found.rows) == AREA_CHIPS
    assert (found.rows[0], found.rows[-1]) == (0, 4999)


def test_too_many_examples_are_refused() -> None:
    with pytest.raises(InputError, match="there may be 1,000"):
        Examples(ids=("a",) * 1001)
