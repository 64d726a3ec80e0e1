"""The other engines that benches build over the shared collection, and whether they are there."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import time
from typing import Any

import numpy as np
import pyarrow as pa
from clusters import DIM, Clusters


def installed(name: str) -> bool:
    """Return whether a rival can be measured; one that cannot is told on standard error."""
    there = importlib.util.find_spec(name) is not None
    if not there:
        print(f"{name} is not installed: skipped.", file=sys.stderr)
    return there


def lance_table(clusters: Clusters, anew: bool = False) -> tuple[Any, dict[str, Any]]:
    """Return LanceDB's table of vectors, places and times with its IVF_PQ index, and its figures.

    The figures, seconds of the build and bytes a row, are those of a table that is made now.
    """
    import lancedb
    from lancedb.index import IvfPq

    folder = clusters.folder / "lance"
    if not anew and folder.exists():
        return lancedb.connect(str(folder)).open_table("t"), {}
    shutil.rmtree(folder, ignore_errors=True)
    values = pa.FixedSizeListArray.from_arrays(pa.array(clusters.vectors.ravel()), DIM)
    columns = {"row": np.arange(clusters.count), **clusters.items, "vector": values}
    table = lancedb.connect(str(folder)).create_table("t", pa.table(columns))
    start = time.perf_counter()
    table.create_index("vector", config=IvfPq(distance_type="cosine"))
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return table, {
        "lancedb_build_s": round(seconds, 1),
        "lancedb_bytes_a_row": round(size / clusters.count, 1),
    }
