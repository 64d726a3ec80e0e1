"""An ordered list of places that are worth labelling next, as a layer to label in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embeddings.analysis.probes import LinearProbe
from embeddings.analysis.queueing import POOL, Strategy, check_count, margins, queue, strategy_for
from embeddings.analysis.solving import standard_of
from embeddings.errors import CancelledError, InputError, OutsideCoverageError
from embeddings.probe.beside import Beside
from embeddings.probe.joining import join
from embeddings.probe.labels import LabelOptions, read_labels
from embeddings.probe.layer_file import write_layer
from embeddings.probe.model import ProbeModel
from embeddings.probe.predict_scoring import inside
from embeddings.report import Pace, Progress
from embeddings.sources.areas import Area
from embeddings.store.collection import Collection

MOST_COVERED = 20_000
"""Of more candidates a seeded sample is looked at where the space is to be covered."""

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

TYPICAL = "typical of places like it"


@dataclass(frozen=True)
class QueueOptions:
    """How many places, where, and by which strategy; None leaves it to the number of labels."""

    many: int = 50
    within: Area | None = None
    strategy: Strategy | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class LabelQueue:
    """Chips in the order in which to label them.

    ``items`` has ``id``, ``datetime``, ``lon``, ``lat``, ``geometry`` (WKB), ``rank`` and ``why``;
    with a probe of classes also ``class``, ``second``, ``probability`` and ``margin``.
    """

    items: pa.Table
    strategy: Strategy
    candidates: int
    labelled: int

    def __len__(self) -> int:
        return int(self.items.num_rows)


@dataclass(frozen=True, eq=False)
class _Candidates:
    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    count: int
    """All that could be asked for, of which these are a part."""


def labelled_rows(
    collection: Collection, labels: Path, layer: str | None = None, field: str | None = None
) -> NDArray[np.int64]:
    """Return the row numbers of chips that have a label; of a ``field`` only those with a value.

    Raises as ``read_labels`` and ``join`` do.
    """
    read = read_labels(labels, LabelOptions(layer, field))
    return join(collection, read).rows


def make_queue(
    beside: Beside,
    model: ProbeModel | None,
    labelled: NDArray[np.int64],
    options: QueueOptions,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> LabelQueue:
    """Order the places to label next: where the probe hesitates, or what nobody has seen yet.

    ``labelled (m,)`` are row numbers of the first collection that need no label any more. Without
    a probe, or with few labels a class, the space of the vectors is covered. Raises InputError,
    SpecMismatchError, OutsideCoverageError or CancelledError.
    """
    check_count(options.many)
    if model is not None:
        model.check_beside([(each.id, each.spec) for each in beside.collections])
    strategy = _strategy(model, options)
    probe = model.probe if model is not None else None
    scan = _Scan(beside, labelled, options, progress, cancelled)
    if strategy == "uncertainty" and probe is not None:
        found = scan.least_sure(probe)
    else:
        found = scan.sampled()
    if probe is not None:
        mean, scale = probe.mean, probe.scale
    else:
        mean, scale = standard_of(found.vectors, beside.dims)
    likely = _likely(probe, found.vectors) if strategy == "uncertainty" else None
    chosen = queue(
        (found.vectors - mean) / scale,
        options.many,
        labelled=(beside.vectors(labelled[beside.joined(labelled)]) - mean) / scale,
        probabilities=likely,
        seed=options.seed,
    )
    items = _described(beside, probe, found.rows[chosen], found.vectors[chosen], strategy)
    return LabelQueue(items, strategy, found.count, len(labelled))


def write_queue(found: LabelQueue, path: Path, provenance: dict[str, Any]) -> None:
    """Write a queue as GeoPackage: a footprint a place, with an empty field ``label``."""
    table = found.items.append_column("label", pa.nulls(len(found), pa.string()))
    write_layer(path, "queue", table, provenance)


def _strategy(model: ProbeModel | None, options: QueueOptions) -> Strategy:
    if options.strategy is not None and options.strategy not in STRATEGIES:
        raise InputError(f"'{options.strategy}' is no strategy. Give {' or '.join(STRATEGIES)}.")
    unsure = model is not None and model.probe.task != "number"
    if options.strategy == "uncertainty" and not unsure:
        raise InputError(
            "Only a probe of classes can say where it hesitates. Give one with --model, or take "
            "the strategy coverage."
        )
    if options.strategy is not None or model is None or not unsure:
        return options.strategy or "coverage"
    classes = model.labels.get("classes", [])
    counts = [each["chips"] if each["labels"] is None else each["labels"] for each in classes]
    return strategy_for(np.array([n for n in counts if n], np.int64))


class _Scan:
    """One pass over a collection in bounded memory."""

    def __init__(
        self,
        beside: Beside,
        labelled: NDArray[np.int64],
        options: QueueOptions,
        progress: Callable[[Progress], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._beside, self._options = beside, options
        self._progress, self._cancelled = progress, cancelled
        self._labelled = np.unique(labelled)

    def least_sure(self, probe: LinearProbe) -> _Candidates:
        """Return the POOL * many candidates of least margin."""
        most = POOL * self._options.many
        rows, sure = np.empty(0, np.int64), np.empty(0)
        vectors = np.empty((0, sum(self._beside.dims)), np.float32)
        count = 0
        for here, found in self._batches():
            count += len(here)
            rows = np.concatenate([rows, here])
            vectors = np.concatenate([vectors, found])
            sure = np.concatenate([sure, margins(_likely(probe, found))])
            kept = np.sort(np.argsort(sure, kind="stable")[:most])
            rows, vectors, sure = rows[kept], vectors[kept], sure[kept]
        return self._checked(_Candidates(rows, vectors, count))

    def sampled(self) -> _Candidates:
        """Return all candidates, or a seeded random part of many."""
        rng = np.random.default_rng(self._options.seed)
        rows, key = np.empty(0, np.int64), np.empty(0)
        vectors = np.empty((0, sum(self._beside.dims)), np.float32)
        count = 0
        for here, found in self._batches():
            count += len(here)
            rows = np.concatenate([rows, here])
            vectors = np.concatenate([vectors, found])
            key = np.concatenate([key, rng.random(len(here))])
            kept = np.sort(np.argsort(key, kind="stable")[:MOST_COVERED])
            rows, vectors, key = rows[kept], vectors[kept], key[kept]
        return self._checked(_Candidates(rows, vectors, count))

    def _batches(self) -> Any:
        """Yield row numbers ``(n,)`` and usable vectors ``(n, d)`` of candidates."""
        first, total = 0, self._beside.first.count
        pace, area = Pace(total), self._options.within
        for places, vectors in self._beside.batches():
            if self._cancelled():
                raise CancelledError("Stopped as asked. Nothing was written.")
            rows = np.arange(first, first + len(vectors))
            first += len(vectors)
            keep = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
            keep &= ~np.isin(rows, self._labelled)
            if area is not None:
                lon, lat = (places.column(name).to_numpy() for name in ("lon", "lat"))
                keep &= inside(area, lon, lat)
            yield rows[keep], vectors[keep]
            self._progress(Progress(first, total, pace.message(first)))

    def _checked(self, found: _Candidates) -> _Candidates:
        if not found.count:
            raise OutsideCoverageError(
                f"Collection '{self._beside.first.id}' has no chip without a label in the "
                "area asked for; there is nothing to label. Name another area."
            )
        return found


def _likely(probe: LinearProbe | None, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities ``(n, c)``; of several labels a place that of the least sure one."""
    assert probe is not None  # uncertainty is asked of a probe
    likely = probe.probabilities(vectors)
    if probe.task != "multilabel":
        return likely
    least = np.abs(likely - 0.5).argmin(axis=1)
    return np.asarray(likely[np.arange(len(likely)), least][:, None])


def _described(
    beside: Beside,
    probe: LinearProbe | None,
    rows: NDArray[np.int64],
    vectors: NDArray[np.float32],
    strategy: Strategy,
) -> pa.Table:
    items = beside.reader.rows(rows).select(["id", "datetime", "lon", "lat", "geometry"])
    columns: dict[str, Any] = {"rank": np.arange(1, len(rows) + 1, dtype=np.int32)}
    why = [TYPICAL] * len(rows)
    if probe is not None and probe.task == "classes":
        likely = probe.probabilities(vectors)
        order = np.argsort(-likely, axis=1, kind="stable")
        names = np.array(probe.classes, object)
        best, second = names[order[:, 0]], names[order[:, 1]]
        columns |= {"class": pa.array(best, pa.string()), "second": pa.array(second, pa.string())}
        columns |= {
            "probability": np.take_along_axis(likely, order, 1)[:, 0],
            "margin": margins(likely).astype(np.float32),
        }
        if strategy == "uncertainty":
            why = [f"hesitates between {a} and {b}" for a, b in zip(best, second, strict=True)]
    elif strategy == "uncertainty" and probe is not None:
        likely = _likely(probe, vectors)[:, 0]
        columns["probability"] = likely
        why = [f"hesitates: {p:.0%}" for p in likely]
    if probe is not None and probe.applicability is not None:
        away = ~probe.applicability.inside(vectors)
        why = [f"{w}; unlike the training data" if a else w for w, a in zip(why, away, strict=True)]
    columns["why"] = pa.array(why, pa.string())
    for name, values in columns.items():
        items = items.append_column(name, pa.array(values))
    return items
