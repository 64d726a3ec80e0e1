"""One scale for all dimensions of a vector, or to each its own: what a probe gains by the first.

Vectors are taken as they are, and with every dimension divided by its own deviation beforehand;
the probe then gives both one scale. Accuracies (R squared of numbers) are those of regions left
out, on average over DRAWS random sets of labels.

``python tests/bench/probe_scales.py [SET] ...`` runs it alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from probe_sets import SETS

from embeddings.analysis.applicability import deviations
from embeddings.analysis.samples import Samples
from embeddings.analysis.validation import ValidationSettings, validate

NAMES = ("eurosat", "zion", "koppen", "air_temperature")
LABELS = (100, 300, 1000)
DRAWS = 4
QUICK = ValidationSettings(curve=False, widths=False, partitions=1)


def run(data: Path, names: Sequence[str] = NAMES) -> dict[str, Any]:
    """Return the figure of both ways for each data set and number of labels."""
    figures: dict[str, Any] = {}
    for name in names:
        try:
            samples = SETS[name](data)
        except OSError as error:
            figures[name] = f"not measured: {error}"
            continue
        for many in LABELS:
            figures[f"{name}: {many} labels"] = compared(samples, many)
    return figures


def compared(samples: Samples, many: int) -> str:
    """Return the figure with one scale and with a scale for each dimension."""
    _, scale = deviations(samples.vectors)
    own = replace(samples, vectors=samples.vectors / scale)
    found = []
    for draw in range(DRAWS):
        rows = np.sort(np.random.default_rng(draw).permutation(len(samples))[:many])
        found.append([validate(each.take(rows), QUICK).partitions[0] for each in (samples, own)])
    one, each = np.mean(found, axis=0)
    return f"one scale {one:.3f}, a scale for each dimension {each:.3f}"


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[3] / "shared" / "data"
    for figure, value in run(root, tuple(sys.argv[1:]) or NAMES).items():
        print(f"{figure:<40} {value}")
