"""What the index states of its recall against what is true: five collections, fresh queries.

True is an exact scan of the vectors as the collection stores them, in float32. Filters go through
the lists however few rows they allow, as they would in collections a hundred times as large.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from embeddings.encoders import EncoderChoice, draft  # noqa: E402
from embeddings.encoders.location_file import load_shipped  # noqa: E402
from embeddings.index import ivf  # noqa: E402
from embeddings.index.build import build_index  # noqa: E402
from embeddings.index.ivf import IvfIndex  # noqa: E402
from embeddings.index.open import open_index  # noqa: E402
from embeddings.index.scan import unit  # noqa: E402
from embeddings.index.source import part_units  # noqa: E402
from embeddings.location_grid import GridJob, embed_grid  # noqa: E402
from embeddings.pipeline import RasterJob, embed_raster  # noqa: E402
from embeddings.query.examples import Background, background, direction  # noqa: E402
from embeddings.store import Store  # noqa: E402
from embeddings.store.collection import Collection  # noqa: E402
from embeddings.store.reader import Reader  # noqa: E402
from embeddings.world import NAME, STORE  # noqa: E402
from tests.embeddings.index_data import clustered, spec_of, write_collection  # noqa: E402

ROWS, PART_ROWS, DIM = 300_000, 100_000, 256
GRID_KM = 50.0
STRIDE = "40m"
QUERIES = 40
KS = (1, 10, 100, 1000)
SCAN_VALUES = 50_000
SAME = 2e-6
"""Cosines this close are equal in float32."""
ALIKE = 100
"""Positives that are alike are drawn from the 1 in so many rows nearest to one of them."""
NOISE = 0.3
"""A vector from outside is a row with so much noise, where no better one can be made."""

Units = NDArray[np.float32]
Masks = dict[str, NDArray[np.bool_] | None]


@dataclass(frozen=True)
class Query:
    """A unit vector, rows that are left out of its answer, and a row where it may have a place."""

    vector: Units
    own: NDArray[np.int64]
    place: int


@dataclass(frozen=True)
class World:
    """A collection with its index, and all that is needed to say what is true."""

    index: IvfIndex
    units: Units
    places: NDArray[np.float64]
    background: Background
    axis: Units
    """Along which the vectors differ most."""
    fresh: Callable[[np.random.Generator], Units]
    build_s: float

    def queries(self, rng: np.random.Generator) -> Iterator[tuple[str, Query]]:
        """Yield queries of every kind."""
        count = len(self.units)
        for _ in range(QUERIES):
            row = int(rng.integers(count))
            yield "row", Query(self.units[row], np.array([row]), row)
            yield "outside", Query(self.fresh(rng), np.empty(0, np.int64), row)
            like = np.argpartition(-(self.units @ self.units[row]), count // ALIKE)
            some, others = rng.choice(like[: count // ALIKE], 5), rng.choice(count, 5)
            yield "5 alike, 5 negative", self._examples(some, others)
            yield "2-5 unlike", self._examples(rng.choice(count, rng.integers(2, 6)), others[:0])

    def _examples(self, some: NDArray[np.int64], others: NDArray[np.int64]) -> Query:
        vector = direction(self.units[some], self.units[others], self.background)
        return Query(vector, np.unique(np.concatenate([some, others])), int(some[0]))

    def masks(self, query: Query, rng: np.random.Generator) -> Masks:
        """Return filters by what they keep: random shares, and tenths near the query or far."""
        count = len(self.units)
        away = np.abs(self.places - self.places[query.place]).max(axis=1)
        along = self.units @ self.axis
        side = 1 if query.vector @ self.axis > np.median(along) else -1
        found: Masks = {f"{share:.0%}": rng.random(count) < share for share in (1, 0.5, 0.1, 0.02)}
        found["box around"] = _least(away, count // 10)
        found["box far away"] = _least(-away, count // 10)
        found["unlike"] = _least(side * along, count // 10)
        for mask in found.values():
            assert mask is not None
            mask[query.own] = False
        if not len(query.own):
            found["100%"] = None
        return found


def run(data: Path) -> dict[str, Any]:
    """State stated and true recall by collection, kind of query and k, and the worst gaps."""
    figures: dict[str, Any] = {}
    before, ivf.SCAN_VALUES = ivf.SCAN_VALUES, SCAN_VALUES
    try:
        for name, make in MAKERS.items():
            with tempfile.TemporaryDirectory() as folder:
                made = make(Path(folder), data)
                if made is None:
                    figures[name] = "not measured: the evaluation data is not there"
                    continue
                found = _compare(_world(*made))
                figures |= {f"{name}, {key}": value for key, value in found.items()}
                print(json.dumps(found, indent=1), file=sys.stderr)
    finally:
        ivf.SCAN_VALUES = before
    return figures


def _compare(world: World) -> dict[str, Any]:
    rng = np.random.default_rng(20)
    cells: dict[tuple[str, str, int], list[tuple[float, float, float]]] = {}
    times = []
    for kind, query in world.queries(rng):
        scores = world.units @ query.vector
        for name, mask in world.masks(query, rng).items():
            allowed = scores if mask is None else np.where(mask, scores, -np.inf)
            best = -np.sort(-np.partition(allowed, -max(KS))[-max(KS) :])
            possible = int(np.count_nonzero(np.isfinite(allowed)))
            for k in KS:
                many = min(k, possible)
                start = time.perf_counter()
                found = world.index.search(query.vector, k, mask)
                times.append(time.perf_counter() - start)
                true = float((allowed[found.rows] >= best[many - 1] - SAME).sum()) / many
                share = found.considered / len(scores)
                cells.setdefault((kind, name, k), []).append((found.expected_recall, true, share))
    return _summary(cells) | {
        "rows x values": f"{len(world.units):,} x {world.units.shape[1]}",
        "index built in, s": round(world.build_s, 1),
        "search p50, ms": round(1000 * float(np.median(times)), 2),
    }


def _summary(
    cells: dict[tuple[str, str, int], list[tuple[float, float, float]]],
) -> dict[str, Any]:
    """Return a line for every kind and k, over all filters, and for every filter, over all k."""
    figures: dict[str, Any] = {}
    for name, part in (("k", 2), ("filter", 1)):
        groups: dict[tuple[Any, Any], list[tuple[float, float, float]]] = {}
        for key, values in cells.items():
            groups.setdefault((key[0], key[part]), []).extend(values)
        for (kind, each), values in groups.items():
            figures[f"{kind}, {name} {each}"] = _line(np.array(values))
    gaps = []
    for key, values in cells.items():
        pairs = np.array(values)
        off = pairs[:, 0] - pairs[:, 1]
        gaps.append((abs(off.mean()), off.std() / len(off) ** 0.5, key, _line(pairs)))
    gaps.sort(key=lambda gap: gap[0], reverse=True)
    beyond = sum(gap - 2 * error > 0.01 for gap, error, _, _ in gaps)
    figures["cells"] = len(gaps)
    figures["cells more than 0.01 off, beyond twice the error"] = int(beyond)
    figures["worst cells"] = [
        f"{' / '.join(map(str, key))}: {line}" for _, _, key, line in gaps[:6]
    ]
    return figures


def _line(pairs: NDArray[np.float64]) -> str:
    stated, true, share = pairs.mean(axis=0)
    error = pairs[:, 1].std() / len(pairs) ** 0.5
    return f"stated {stated:.4f}, true {true:.4f} ± {error:.4f}, compared {share:.2%}"


def _least(values: NDArray[Any], many: int) -> NDArray[np.bool_]:
    mask = np.zeros(len(values), np.bool_)
    mask[np.argpartition(values, many)[:many]] = True
    return mask


def _world(collection: Collection, fresh: Callable[[np.random.Generator], Units] | None) -> World:
    start = time.perf_counter()
    build_index(collection, ivf_rows=1)
    build_s = time.perf_counter() - start
    index = open_index(collection)
    assert isinstance(index, IvfIndex)
    units = np.concatenate(
        [each for part in collection.parts for each in part_units(collection, part)]
    )
    places = [
        np.stack([table["lon"].to_numpy(), table["lat"].to_numpy()], axis=1)
        for table in Reader(collection).columns(["lon", "lat"])
    ]

    def noisy(rng: np.random.Generator) -> Units:
        row = units[rng.integers(len(units))]
        noise = rng.standard_normal(len(row), dtype=np.float32) * units.std(axis=0)
        return np.asarray(unit((row + NOISE * noise)[None])[0])

    known = Background.of(background(len(units), lambda rows: units[rows]))
    axis = np.linalg.eigh(known.covariance)[1][:, -1].astype(np.float32)
    return World(index, units, np.concatenate(places), known, axis, fresh or noisy, build_s)


Made = tuple[Collection, Callable[[np.random.Generator], Units] | None]


def _clusters(folder: Path, _: Path) -> Made:
    pieces = [lambda s=s: clustered(PART_ROWS, DIM, s) for s in range(ROWS // PART_ROWS)]
    collection = write_collection(folder / "clusters", spec_of(DIM), pieces)
    others = unit(clustered(QUERIES, DIM, seed=10_000))
    return collection, lambda rng: others[rng.integers(QUERIES)]


def _shipped(folder: Path, _: Path) -> Made:
    shutil.copytree(STORE / NAME, folder / NAME)
    return Collection.load(folder / NAME), None


def _grid(folder: Path, _: Path) -> Made:
    encoder = load_shipped()
    embed_grid(GridJob(folder / "store", "grid", GRID_KM), encoder)

    def fresh(rng: np.random.Generator) -> Units:
        lon, lat = rng.uniform(-180, 180, 1), np.degrees(np.arcsin(rng.uniform(-1, 1, 1)))
        return np.asarray(unit(encoder.encode(lon, lat).astype(np.float32))[0])

    return Store.open(folder / "store").collection("grid"), fresh


def _carolina(folder: Path, data: Path) -> Made | None:
    """Return overlapping chips of a real scene."""
    files = sorted(map(str, (data / "sentinel2-carolina" / "sentinel-2").glob("*.tif")))
    if not files:
        return None
    job = RasterJob(folder / "store", "carolina", tuple(files), chip="160m", stride=STRIDE)
    embed_raster(job)
    return Store.open(folder / "store").collection("carolina"), None


def _eurosat(folder: Path, data: Path) -> Made | None:
    if not (data / "eurosat-rgb").is_dir():
        return None
    import rcf_quality

    chips = rcf_quality._read(data / "eurosat-rgb")[0]
    some = np.random.default_rng(0).choice(len(chips), 4096, replace=False)
    vectors = draft(EncoderChoice("rcf")).fit(chips[some], seed=0).encode(chips)
    spec = spec_of(vectors.shape[1], dtype="float32")
    return write_collection(folder / "eurosat", spec, [lambda: vectors]), None


MAKERS: dict[str, Callable[[Path, Path], Made | None]] = {
    "clusters": _clusters,
    "world": _shipped,
    "location grid": _grid,
    "carolina": _carolina,
    "eurosat": _eurosat,
}


if __name__ == "__main__":
    if sys.argv[1:]:
        MAKERS = {name: MAKERS[name] for name in sys.argv[1:]}
    for figure, value in run(ROOT.parent / "shared" / "data").items():
        print(f"{figure:<60} {value}")
