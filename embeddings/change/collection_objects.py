"""Chips that changed together as one polygon, with its area, date and score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import shapely
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from embeddings.atomic import atomic_path
from embeddings.change.collection_layers import said
from embeddings.change.collection_run import CollectionChange
from embeddings.change.collection_scores import stop_if
from embeddings.probe.layer_file import write_layer
from embeddings.probe.outputs import IF_FULL
from embeddings.probe.predict_style import range_qml

LAYER = "objects"
M2_A_HECTARE = 10_000.0
TOUCHING = 1e-3
"""Of a chip's side: footprints that are apart by less touch."""
DEGREES_A_METRE = 1 / 111_320


def change_objects(
    made: CollectionChange, cancelled: Callable[[], bool] = lambda: False
) -> pa.Table:
    """Return an object for each group of changed chips that touch, at corners too.

    Of a series the chips of an object changed at one date. Those smaller than ``min_area_m2`` are
    left out; the largest comes first. Raises CancelledError.
    """
    places = np.flatnonzero(made.changed)
    wkb = made.dates.items()["geometry"].take(places).to_numpy(zero_copy_only=False)
    shapes = shapely.from_wkb(wkb)
    when = np.zeros(len(places)) if made.since is None else made.since.date[places]
    near = TOUCHING * made.dates.side * DEGREES_A_METRE
    one, two = shapely.STRtree(shapes).query(shapes, predicate="dwithin", distance=near)
    joined = when[one] == when[two]
    edges = coo_matrix(
        (np.ones(int(joined.sum())), (one[joined], two[joined])), shape=(len(places),) * 2
    )
    count, group = connected_components(edges, directed=False)
    area = np.bincount(group, weights=made.hectares[places], minlength=count)
    kept = np.flatnonzero(area * M2_A_HECTARE >= made.job.min_area_m2)
    kept = kept[np.lexsort((kept, -area[kept]))]
    by_group = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    members = [by_group[each] for each in kept.tolist()]
    scores = [made.score[places[each]] for each in members]
    columns = {
        "object": pa.array(range(1, len(kept) + 1), pa.int64()),
        "hectares": pa.array(np.round(area[kept], 4), pa.float64()),
        "places": pa.array([len(each) for each in members], pa.int64()),
        "mean_score": pa.array([float(each.mean()) for each in scores], pa.float64()),
        "max_score": pa.array([float(each.max()) for each in scores], pa.float64()),
    }
    labels = made.dates.labels
    if made.since is None:
        columns["date_before"] = pa.array([labels[0]] * len(kept), pa.string())
        columns["date_after"] = pa.array([labels[1]] * len(kept), pa.string())
    else:
        dates = [labels[int(when[each[0]])] for each in members]
        columns["since"] = pa.array(dates, pa.string())
    outlines = []
    for each in members:
        stop_if(cancelled)
        outlines.append(shapely.union_all(shapes[each]))
    columns["geometry"] = pa.array(
        shapely.to_wkb(outlines, byte_order=1).tolist() if outlines else [], pa.binary()
    )
    return pa.table(columns)


def write_objects(made: CollectionChange, table: pa.Table, path: Path) -> None:
    """Write what `change_objects` gave to a GeoPackage with a style. Raises StoreError."""
    low = made.threshold if np.isfinite(made.threshold) else 0.0
    high = max(table["mean_score"].to_pylist(), default=low) + 0.1
    style = range_qml("mean_score", low, max(high, low + 0.1))
    with atomic_path(path, IF_FULL) as temporary:
        write_layer(temporary, LAYER, table, said(made), qml=style, multi=True)
