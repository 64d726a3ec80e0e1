"""Places drawn from a collection without a label: what positives are compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.samples import Samples
from embeddings.errors import InputError
from embeddings.probe.beside import Beside
from embeddings.store.reader import Reader

A_POSITIVE = 10
"""Background places drawn for each positive, within these bounds."""
LEAST, MOST = 1_000, 10_000


def with_background(
    samples: Samples, beside: Beside, labelled: NDArray[np.int64], wanted: int | None, seed: int
) -> Samples:
    """Return positives with ``wanted`` seeded random places of their collection after them.

    ``labelled (n,)`` are row numbers that are not drawn. None: ten places a positive, 1,000 to
    10,000. Nobody knows the class of what is drawn: some of it is of the positives' class too,
    which lowers every figure a little. Raises InputError where nothing is left to draw.
    """
    reader, count = beside.reader, beside.first.count
    free = np.setdiff1d(np.flatnonzero(beside.joined(np.arange(count))), labelled)
    if wanted is None:
        wanted = int(np.clip(A_POSITIVE * len(samples), LEAST, MOST))
    drawn = np.random.default_rng(seed).permutation(free)[:wanted]
    drawn.sort()
    vectors = beside.vectors(drawn)
    usable = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    if not usable.any():
        raise InputError(
            f"All {count:,} chips of collection '{reader.collection.id}' are labelled or have no "
            "usable vector; there is no background to tell positives from. Label fewer chips, or "
            "label another class and give --field."
        )
    lon, lat = places(reader)
    rows = drawn[usable]
    return samples.with_background(vectors[usable], lon[rows], lat[rows])


def places(reader: Reader) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return longitude and latitude ``(n,)`` in degrees of all rows of a collection."""
    lon, lat = [np.empty(0)], [np.empty(0)]
    for table in reader.columns(("lon", "lat")):
        lon.append(table["lon"].to_numpy())
        lat.append(table["lat"].to_numpy())
    return np.concatenate(lon), np.concatenate(lat)
