"""Random convolutional features on EuroSAT: linear probe and precision at 10, no labels in fit."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import RidgeClassifierCV

from embeddings.encoders import EncoderChoice, draft

SAMPLE = 4096
SEEDS = 5
K = 10
STRENGTHS = np.logspace(-1, 4, 6)
"""Of the probe's regularisation: chosen inside the training half, leaving one chip out."""

CHOICES = ("rcf",)


def run(data: Path, choices: tuple[str, ...] = CHOICES) -> dict[str, Any]:
    """Return accuracies on random and on spatially blocked halves, and precision at 10."""
    folder = data / "eurosat-rgb"
    if not folder.is_dir():
        return {"eurosat": f"not measured: {folder} is not there"}
    chips, classes, cells = _read(folder)
    sample = np.random.default_rng(0).choice(len(chips), SAMPLE, replace=False)
    figures: dict[str, Any] = {"eurosat_chips": len(chips)}
    for choice in choices:
        encoder = draft(EncoderChoice(choice)).fit(chips[sample], seed=0)
        vectors = encoder.encode(chips)
        figures[f"{choice}_dim"] = encoder.dim
        figures[f"{choice}_precision_at_10"] = round(_precision(vectors, classes), 4)
        for name, halves in (("random", _random(classes)), ("blocked", _blocked(cells))):
            found = [_probe(vectors, classes, train) for train in halves]
            figures[f"{choice}_probe_{name}"] = round(float(np.mean(found)), 4)
            figures[f"{choice}_probe_{name}_deviation"] = round(float(np.std(found)), 4)
    return figures


def _read(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return standardised chips, classes, and the number of each chip's cell of one degree."""
    with (folder / "coordinates.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pixels = [np.asarray(Image.open(folder / row["path"]).convert("RGB")) for row in rows]
    chips = np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32)
    chips -= chips.mean(axis=(0, 2, 3), keepdims=True)
    chips /= chips.std(axis=(0, 2, 3), keepdims=True)
    classes = np.unique([row["class"] for row in rows], return_inverse=True)[1]
    degrees = np.floor([[float(row["lon"]), float(row["lat"])] for row in rows])
    cells = np.unique(degrees, axis=0, return_inverse=True)[1]
    return np.ascontiguousarray(chips), classes, cells.ravel()


def _random(classes: NDArray[np.int64]) -> Iterator[NDArray[np.bool_]]:
    """Yield which chips train: half of each class."""
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        train = np.zeros(len(classes), dtype=bool)
        for number in np.unique(classes):
            members = rng.permutation(np.flatnonzero(classes == number))
            train[members[: len(members) // 2]] = True
        yield train


def _blocked(cells: NDArray[np.int64]) -> Iterator[NDArray[np.bool_]]:
    """Yield which chips train: all of half of the cells, so that no chip has a near neighbour."""
    for seed in range(SEEDS):
        chosen = np.random.default_rng(seed).permutation(np.unique(cells))
        yield np.isin(cells, chosen[: len(chosen) // 2])


def _probe(
    vectors: NDArray[np.float32], classes: NDArray[np.int64], train: NDArray[np.bool_]
) -> float:
    centre, spread = vectors[train].mean(axis=0), vectors[train].std(axis=0)
    values = (vectors - centre) / np.maximum(spread, 1e-9)
    probe = RidgeClassifierCV(alphas=STRENGTHS).fit(values[train], classes[train])
    return float(probe.score(values[~train], classes[~train]))


def _precision(vectors: NDArray[np.float32], classes: NDArray[np.int64]) -> float:
    """Return the share of the K nearest by cosine that are of the query's class."""
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = units @ units.T
    np.fill_diagonal(scores, -2)
    best = np.argpartition(-scores, K, axis=1)[:, :K]
    return float((classes[best] == classes[:, None]).mean())


if __name__ == "__main__":
    import sys

    named = tuple(sys.argv[1:]) or CHOICES
    root = Path(__file__).resolve().parents[3] / "shared" / "data"
    for figure, value in run(root, named).items():
        print(f"{figure:<60} {value}")
