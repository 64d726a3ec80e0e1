"""Which places are worth labelling next.

With few labels nobody knows where the classes meet, so the queue covers the embedding space:
the most typical place of each cluster that has no label yet (after Hacohen, Dekel and Weinshall
2022, TypiClust). With more, it asks where the probe hesitates, but not for ten times the same
place: the places of least margin are clustered, and each cluster gives one (Zhdanov 2019, Diverse
mini-batch active learning).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import InputError

Strategy = Literal["coverage", "uncertainty"]

FEW_LABELS = 2
"""Labels a class, on average, below which the space is covered first."""
POOL = 10
"""So many times more of the least sure places than asked for are clustered."""
MOST_CLUSTERED = 20_000
"""Of more candidates a seeded sample is clustered."""
MOST_ASKED = 2000
"""Places in one queue: with what is labelled first, the rest is better chosen anew."""
TAKEN = 500
"""At most so many clusters more than places asked for are made for labels there are."""

Vectors = NDArray[np.float32]


def margins(probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return by how much the best class leads ``(n,)``, 0 to 1, from ``(n, c)``."""
    if probabilities.shape[1] < 2:
        return np.abs(2 * probabilities[:, 0].astype(np.float64) - 1)
    two = np.partition(probabilities, -2, axis=1)[:, -2:].astype(np.float64)
    return np.asarray(two[:, 1] - two[:, 0])


def entropies(probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return Shannon's entropy ``(n,)`` as a share of its largest value, 0 sure to 1 not."""
    p = probabilities.astype(np.float64)
    if p.shape[1] < 2:
        p = np.concatenate([p, 1 - p], axis=1)
    terms = -p * np.log(np.where(p > 0, p, 1.0))
    return np.asarray(terms.sum(axis=1) / np.log(p.shape[1]))


def strategy_for(labels_a_class: NDArray[np.integer[Any]]) -> Strategy:
    """Return what suits so many labels ``(c,)`` of each class."""
    few = not len(labels_a_class) or float(np.mean(labels_a_class)) < FEW_LABELS
    return "coverage" if few else "uncertainty"


def check_count(many: int) -> None:
    """Raise InputError unless so many places can be asked for."""
    if not 1 <= many <= MOST_ASKED:
        raise InputError(
            f"{many:,} places to label were asked for; ask for 1 to {MOST_ASKED:,}. Once those are "
            "labelled, the next are better chosen anew."
        )


def queue(
    vectors: Vectors,
    many: int,
    *,
    labelled: Vectors,
    probabilities: NDArray[np.floating[Any]] | None = None,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Return the numbers ``(min(many, n),)`` of the candidates to label, the most useful first.

    ``vectors (n, d)`` are the candidates, ``labelled (m, d)`` what has labels already, both less
    the probe's mean; only their directions count. With ``probabilities (n, c)`` of the probe the
    least sure are asked for, without them the space is covered. Raises InputError.
    """
    check_count(many)
    if not len(vectors):
        return np.empty(0, np.int64)
    many = min(many, len(vectors))
    if probabilities is None:
        return _cover(vectors, labelled, many, seed)
    unsure = margins(probabilities)
    pool = np.argsort(unsure, kind="stable")[: POOL * many]
    return pool[_spread(vectors[pool], 1 - unsure[pool], many, seed)]


def _cover(vectors: Vectors, labelled: Vectors, many: int, seed: int) -> NDArray[np.int64]:
    """Return the most typical candidate of each cluster without a label, large clusters first."""
    rng = np.random.default_rng(seed)
    some = np.arange(len(vectors))
    if len(some) > MOST_CLUSTERED:
        some = np.sort(rng.choice(some, MOST_CLUSTERED, replace=False))
    units = _unit(vectors[some])
    # As many more clusters as there are labels, for those are taken already.
    clusters = min(many + min(len(labelled), TAKEN), len(some))
    own, centres, away = _clustered(units, np.ones(len(units)), clusters, seed)
    taken = np.zeros(len(centres), bool)
    if len(labelled):
        taken[np.argmax(_unit(labelled) @ centres.T - 0.5 * (centres**2).sum(axis=1), axis=1)] = (
            True
        )
    sizes = np.bincount(own, minlength=len(centres))
    order = np.lexsort((np.arange(len(centres)), -sizes, taken))
    chosen = [_nearest(own, away, cluster) for cluster in order if sizes[cluster]][:many]
    return _filled(some[np.asarray(chosen, np.int64)], len(vectors), many)


def _spread(
    vectors: Vectors, weights: NDArray[np.float64], many: int, seed: int
) -> NDArray[np.int64]:
    """Return one of each of ``many`` clusters; those given first come first."""
    own, _, away = _clustered(_unit(vectors), weights + 1e-6, many, seed)
    chosen = [_nearest(own, away, cluster) for cluster in np.unique(own)]
    return _filled(np.sort(np.asarray(chosen, np.int64)), len(vectors), many)


def _clustered(
    units: Vectors, weights: NDArray[np.float64], clusters: int, seed: int
) -> tuple[NDArray[np.int64], Vectors, NDArray[np.float64]]:
    """Return each vector's cluster, the centres, and how far each lies from its own."""
    from sklearn.cluster import KMeans  # late: it takes a second to load

    fitted = KMeans(clusters, n_init=1, max_iter=50, random_state=seed).fit(units, None, weights)
    centres = fitted.cluster_centers_.astype(np.float32)
    own = fitted.labels_.astype(np.int64)
    return own, centres, np.linalg.norm(units - centres[own], axis=1).astype(np.float64)


def _nearest(own: NDArray[np.int64], away: NDArray[np.float64], cluster: int) -> int:
    members = np.flatnonzero(own == cluster)
    return int(members[np.argmin(away[members])])


def _filled(chosen: NDArray[np.int64], count: int, many: int) -> NDArray[np.int64]:
    """Return ``many`` numbers: where vectors repeat there are fewer clusters than asked for."""
    if len(chosen) >= many:
        return chosen[:many]
    others = np.setdiff1d(np.arange(count), chosen)
    return np.concatenate([chosen, others[: many - len(chosen)]])


def _unit(vectors: Vectors) -> Vectors:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), np.float32)
