"""Labelled vectors: what a probe is fitted to and validated with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from embeddings.errors import InputError
from embeddings.places import checked_places

Task = Literal["classes", "number", "multilabel", "positive"]
"""One class a place; a number; several classes a place; only places known to be of one class."""

TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled vectors with their places. Raises InputError if the parts do not fit each other.

    ``vectors (n, d) float32``. ``target`` is ``(n,) int64`` codes of ``classes`` for "classes",
    ``(n,) float64`` for "number", ``(n, c) bool`` for "multilabel" and ``(n,) bool`` for
    "positive": True where the user found the class, False for background drawn from the
    collection, whose class nobody knows (``with_background`` adds it). ``classes`` are the names
    in the order of the codes, one name for "positive", none for "number". ``lon``, ``lat``
    ``(n,) float64`` degrees. ``group (n,) int64``: the label feature a sample came from, never
    split over folds. ``weight (n,) float64`` or None: how much a sample counts in a fit.
    ``blocks`` are the lengths of several vectors side by side, each of which has a scale of its own
    in a probe; empty for one.
    """

    task: Task
    vectors: NDArray[np.float32]
    target: NDArray[Any]
    classes: tuple[str, ...]
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    group: NDArray[np.int64]
    weight: NDArray[np.float64] | None = None
    blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise InputError(f"'{self.task}' is not a task of a probe. Give one of {_list(TASKS)}.")
        _check_shapes(self)
        _check_values(self)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        """The length of one vector."""
        return int(self.vectors.shape[1])

    def labels(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Return the label features ``(k,)`` of all or some ``rows``, each once.

        The background of positives is none.
        """
        rows = np.arange(len(self)) if rows is None else rows
        return np.unique(self.group[rows[self.target[rows]] if self.task == "positive" else rows])

    def take(self, rows: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> Self:
        """Return the samples at ``rows`` (positions or a mask), in that order."""
        return type(self)(
            self.task,
            self.vectors[rows],
            self.target[rows],
            self.classes,
            self.lon[rows],
            self.lat[rows],
            self.group[rows],
            None if self.weight is None else self.weight[rows],
            self.blocks,
        )

    def thinned(self, most: int, seed: int = 0) -> Self:
        """Return at most about ``most`` of the samples, whole label features drawn by the seed."""
        if len(self) <= most:
            return self
        numbers, member, sizes = np.unique(self.group, return_inverse=True, return_counts=True)
        order = np.random.default_rng(seed).permutation(len(numbers))
        # Never fewer than two features, however large.
        count = max(2, int((np.cumsum(sizes[order]) <= most).sum()))
        return self.take(np.isin(member, order[:count]))

    def with_background(
        self,
        vectors: NDArray[np.float32],
        lon: NDArray[np.float64],
        lat: NDArray[np.float64],
    ) -> Self:
        """Return these positives and, after them, background ``(m, d)`` with its places ``(m,)``.

        Each place of the background is a group of its own.
        """
        if self.task != "positive":
            raise InputError(f"Background belongs to the task 'positive', not to '{self.task}'.")
        first = int(self.group.max(initial=-1)) + 1
        return type(self)(
            self.task,
            np.concatenate([self.vectors, vectors]),
            np.concatenate([self.target, np.zeros(len(vectors), bool)]),
            self.classes,
            np.concatenate([self.lon, lon]),
            np.concatenate([self.lat, lat]),
            np.concatenate([self.group, np.arange(first, first + len(vectors))]),
            None if self.weight is None else np.append(self.weight, np.ones(len(vectors))),
            self.blocks,
        )


def _check_shapes(samples: Samples) -> None:
    if samples.vectors.ndim != 2:
        raise InputError(
            f"The vectors have the shape {samples.vectors.shape}; rows (n, d) are needed."
        )
    if samples.blocks and sum(samples.blocks) != samples.dim:
        raise InputError(
            f"Vectors of {samples.blocks} dimensions side by side have {sum(samples.blocks)}; "
            f"these have {samples.dim}."
        )
    count = len(samples.vectors)
    wanted = (count, len(samples.classes)) if samples.task == "multilabel" else (count,)
    parts = {"target": samples.target, "lon": samples.lon, "lat": samples.lat}
    parts["group"] = samples.group
    if samples.weight is not None:
        parts["weight"] = samples.weight
    for name, values in parts.items():
        shape = wanted if name == "target" else (count,)
        if values.shape != shape:
            raise InputError(f"'{name}' has the shape {values.shape}; {shape} is needed.")


def _check_values(samples: Samples) -> None:
    bad = int((~np.isfinite(samples.vectors).all(axis=1)).sum())
    if bad:
        raise InputError(
            f"{bad} of {len(samples)} labelled vectors hold values that are not numbers. "
            "Leave these rows out, or embed their chips again."
        )
    checked_places(samples.lon, samples.lat)
    if samples.task == "number" and not np.isfinite(samples.target).all():
        raise InputError("A target is not a number. Leave out the rows without one.")
    if samples.task == "classes" and len(samples):
        low, high = int(samples.target.min()), int(samples.target.max())
        if low < 0 or high >= len(samples.classes):
            raise InputError(
                f"The codes run from {low} to {high}, but {len(samples.classes)} classes are named."
            )
    if samples.weight is not None:
        _check_weight(samples.weight)


def _check_weight(weight: NDArray[np.float64]) -> None:
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise InputError("A weight is negative or not a number. Weights are 0 or more.")


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)
