"""Do the world collection's nearest neighbours live alike? Köppen classes of far matches.

Cells of the 0.5 degree Köppen map between latitudes ±84.9 (the grid has none beyond) are drawn
with area weight; each stands for the world cell whose centre is nearest to its own. Settings of
the collection were chosen with queries of seed 1 in every other block of 10 degrees; the figures
are of other seeds, and once more of queries from the other blocks alone.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from embeddings.store import Collection
from embeddings.store.reader import Reader
from embeddings.world import NAME, STORE

CELLS = 20_000
QUERIES = 2_000
FAR_KM = 1000.0
EARTH_RADIUS_KM = 6371.0088
CHOSEN_SEED = 1
SEEDS = (11, 12, 13)

Classes = tuple[np.ndarray, np.ndarray, np.ndarray]


def run(data: Path) -> dict[str, Any]:
    """Measure the shipped collection and the baselines on ``data/koppen``."""
    if not (data / "koppen").is_dir():
        return {"world quality": "skipped: the evaluation data is not there"}
    koppen = read_koppen(data / "koppen" / "koppen_0.5deg.csv.gz")
    centres, vectors = read_vectors(STORE / NAME)
    nearest = nearest_cells(points(koppen[0], koppen[1]), centres)
    plain = plain_numbers(data / "blue-marble", koppen[0], koppen[1])
    random = np.random.default_rng(0).normal(size=(len(nearest), 14)).astype(np.float32)
    rivals = {
        "world": vectors[nearest],
        "fourteen plain numbers": plain,
        "nearest on the globe": points(koppen[0], koppen[1]),
        "random": random,
    }
    results: dict[str, Any] = {}
    for name, each in rivals.items():
        found = [measure(each, koppen, draw(koppen[1], seed), seed) for seed in SEEDS]
        results |= {f"{name}: {k}": mean([f[k] for f in found]) for k in found[0]}
    unseen = [
        measure(vectors[nearest], koppen, draw(koppen[1], seed), seed, unseen_only=True)
        for seed in SEEDS
    ]
    return results | {f"world, unseen blocks: {k}": mean([f[k] for f in unseen]) for k in unseen[0]}


def mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 4)


def read_koppen(path: Path) -> Classes:
    """Return (lon, lat, class) of the cells the grid can hold."""
    with gzip.open(path, "rt") as file:
        rows = list(csv.DictReader(file))
    lon, lat = (np.array([row[key] for row in rows], float) for key in ("Lon", "Lat"))
    classes = np.array([row["Cls"] for row in rows])
    inside = np.abs(lat) < 84.9
    return lon[inside], lat[inside], classes[inside]


def read_vectors(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return centres on the unit sphere and vectors of a collection."""
    places, vectors = [], []
    for batch, values in Reader(Collection.load(folder)).batches():
        places.append(points(batch.column("lon").to_numpy(), batch.column("lat").to_numpy()))
        vectors.append(values)
    return np.concatenate(places), np.concatenate(vectors)


def points(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return points ``(n, 3) float32`` on the unit sphere."""
    a, b = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(b) * np.cos(a), np.cos(b) * np.sin(a), np.sin(b)], 1).astype(np.float32)


def nearest_cells(wanted: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return the row of the nearest centre to each point, by latitude bands of 10 degrees."""
    nearest = np.empty(len(wanted), np.intp)
    lat_wanted, lat_centres = (np.degrees(np.arcsin(p[:, 2])) for p in (wanted, centres))
    for south in range(-90, 90, 10):
        here = np.flatnonzero((lat_wanted >= south) & (lat_wanted < south + 10))
        # The nearest land lies within 20 degrees; where an island has none, any is as wrong.
        near = np.flatnonzero(np.abs(lat_centres - south - 5) < 12)
        for block in np.array_split(here, max(1, len(here) // 400)):
            longest = (wanted[block] @ centres[near].T).argmax(axis=1)
            nearest[block] = near[longest]
    return nearest


def draw(lat: np.ndarray, seed: int) -> np.ndarray:
    """Draw CELLS cells with area weight."""
    area = np.cos(np.radians(lat))
    return np.random.default_rng(seed).choice(len(lat), CELLS, replace=False, p=area / area.sum())


def chosen_on(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Say whether settings were chosen with queries from here: every other block of 10 degrees."""
    return (np.floor(lon / 10) + np.floor(lat / 10)) % 2 == 0


def measure(
    vectors: np.ndarray,
    koppen: Classes,
    drawn: np.ndarray,
    seed: int,
    unseen_only: bool = False,
) -> dict[str, float]:
    """Return shares of the ten best far matches with the query's group and class, and more."""
    lon, lat, classes = (column[drawn] for column in koppen)
    place = points(lon, lat)
    norms = np.linalg.norm(vectors[drawn], axis=1, keepdims=True)
    unit = (vectors[drawn] / np.maximum(norms, 1e-12)).astype(np.float32)
    allowed = np.flatnonzero(~chosen_on(lon, lat)) if unseen_only else np.arange(len(lon))
    queries = np.random.default_rng(seed).choice(allowed, QUERIES, replace=False)
    group = np.array([name[0] for name in classes])
    same_group, same_class, far, distance = [], [], [], []
    for block in np.array_split(queries, 10):
        similarity = unit[block] @ unit.T
        cosine = np.clip(place[block] @ place.T, -1, 1)
        similarity[np.arange(len(block)), block] = -2
        top = np.argpartition(-similarity, 50, axis=1)[:, :50]
        km = np.arccos(np.take_along_axis(cosine, top, axis=1)) * EARTH_RADIUS_KM
        distance.append(km)
        far.append((km > FAR_KM).mean())
        similarity[cosine > np.cos(FAR_KM / EARTH_RADIUS_KM)] = -2
        best = np.argpartition(-similarity, 10, axis=1)[:, :10]
        same_group.append((group[best] == group[block][:, None]).mean())
        same_class.append((classes[best] == classes[block][:, None]).mean())
    return {
        "main group": float(np.mean(same_group)),
        "full class": float(np.mean(same_class)),
        "top 50 beyond 1,000 km": float(np.mean(far)),
        "median km of the top 50": float(np.median(np.concatenate(distance))),
    }


def plain_numbers(folder: Path, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return mean and deviation of July, December and night in a third of a degree, ``(n, 14)``.

    Standardised; the night is one band.
    """
    columns: list[np.ndarray] = []
    for name in ("bluemarble_july", "bluemarble_december", "blackmarble_night"):
        with Image.open(next(folder.glob(f"{name}*.jpg"))) as image:
            pixels = np.asarray(image).astype(np.float32)
        bands = pixels.transpose(2, 0, 1) if "marble_night" not in name else [pixels.mean(axis=2)]
        # Five pixels are a third of a degree.
        row = np.round((90 - lat) * pixels.shape[0] / 180).astype(int)
        col = np.round((lon + 180) * pixels.shape[1] / 360).astype(int)
        for band in bands:
            window = [
                band[np.clip(row + i, 0, len(band) - 1), (col + j) % band.shape[1]]
                for i in range(-2, 3)
                for j in range(-2, 3)
            ]
            columns += [np.mean(window, axis=0), np.std(window, axis=0)]
    numbers = np.stack(columns, axis=1)
    return (numbers - numbers.mean(axis=0)) / np.maximum(numbers.std(axis=0), 1e-6)
