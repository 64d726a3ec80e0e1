"""How many labels the queue saves against labelling at random, on three data sets.

Each run begins without a label and asks for BATCH places at a time: the next of the queue, or as
many at random. After each batch a probe is fitted, and its accuracy is measured in regions that
are never offered, another draw of them for each seed. The labels saved are those that the queue's
mean curve needs less than random's to reach the same accuracy, with an interval from whole seeds.

``python tests/bench/queue_quality.py [SET] ...`` runs it alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from probe_sets import SETS

from embeddings.analysis.autocorrelation import unit_points
from embeddings.analysis.clusters import kmeans
from embeddings.analysis.probes import DEFAULT_STRENGTH, LinearProbe, fit
from embeddings.analysis.queueing import queue, strategy_for
from embeddings.analysis.samples import Samples

NAMES = ("eurosat", "zion", "koppen")
BATCH, LAST, SEEDS = 10, 300, 20
REGIONS, HELD_OUT = 10, 3
"""Compact regions, and how many of them no plan is offered."""

STRENGTH = DEFAULT_STRENGTH
"""Of all probes, so that no label is spent on choosing it."""

SHOWN = (50, 100, 200, 300)
"""Labels at which random labelling and the queue are compared."""

DRAWS = 1000

Plan = Literal["random", "queue"]
PLANS: tuple[Plan, ...] = ("random", "queue")


def run(data: Path, names: Sequence[str] = NAMES) -> dict[str, Any]:
    """Return the table of each data set."""
    figures: dict[str, Any] = {}
    for name in names:
        try:
            samples = SETS[name](data)
        except OSError as error:
            figures[name] = f"not measured: {error}"
            continue
        for key, value in compared(*curves(samples)).items():
            figures[f"{name}: {key}"] = value
    return figures


def curves(samples: Samples, seeds: int = SEEDS) -> tuple[np.ndarray, np.ndarray]:
    """Return the accuracies ``(seeds, steps)`` of random labelling and of the queue."""
    found: dict[Plan, list[list[float]]] = {plan: [] for plan in PLANS}
    for seed in range(seeds):
        pool, test = _parted(samples, seed)
        for plan in PLANS:
            found[plan].append(_curve(pool, test, plan, seed))
    return np.array(found["random"]), np.array(found["queue"])


def _parted(samples: Samples, seed: int) -> tuple[Samples, Samples]:
    """Return what may be labelled, and whole regions that are only tested on."""
    points = unit_points(samples.lon, samples.lat)
    points -= points.mean(axis=0)
    _, region = kmeans((points / np.abs(points).max()).astype(np.float32), REGIONS, seed=seed)
    away = np.random.default_rng(seed).permutation(int(region.max()) + 1)[:HELD_OUT]
    outside = np.isin(region, away)
    return samples.take(~outside), samples.take(outside)


def _curve(pool: Samples, test: Samples, plan: Plan, seed: int) -> list[float]:
    """Return the accuracy after each batch of labels."""
    rng = np.random.default_rng(seed)
    labelled = np.empty(0, np.int64)
    probe: LinearProbe | None = None
    shares = []
    while len(labelled) < LAST:
        left = np.setdiff1d(np.arange(len(pool)), labelled)
        if plan == "random":
            chosen = rng.choice(len(left), BATCH, replace=False)
        else:
            chosen = _asked(pool, left, labelled, probe, int(rng.integers(2**31)))
        labelled = np.concatenate([labelled, left[chosen]])
        known = np.unique(pool.target[labelled])
        if len(known) < 2:
            shares.append(float((test.target == known[0]).mean()))
            continue
        probe = fit(pool.take(labelled), strength=STRENGTH)
        shares.append(float((probe.predict(test.vectors) == test.target).mean()))
    return shares


def _asked(
    pool: Samples,
    left: np.ndarray,
    labelled: np.ndarray,
    probe: LinearProbe | None,
    seed: int,
) -> np.ndarray:
    """Return what ``probe queue`` would ask for, as numbers of ``left``."""
    counts = np.unique(pool.target[labelled], return_counts=True)[1]
    unsure = probe is not None and strategy_for(counts) == "uncertainty"
    centred = pool.vectors - (pool.vectors.mean(axis=0) if probe is None else probe.mean)
    return queue(
        centred[left],
        BATCH,
        labelled=centred[labelled],
        probabilities=probe.probabilities(pool.vectors[left]) if unsure and probe else None,
        seed=seed,
    )


def compared(random: np.ndarray, ours: np.ndarray) -> dict[str, Any]:
    """Return accuracies at SHOWN labels and the labels saved, with 95 % intervals over seeds."""
    counts = BATCH * np.arange(1, random.shape[1] + 1)
    drawn = np.random.default_rng(0).integers(0, len(random), (DRAWS, len(random)))
    found: dict[str, Any] = {"seeds": len(random)}
    for many in SHOWN:
        at = int(np.flatnonzero(counts == many)[0])
        gain = ours[:, at] - random[:, at]
        error = gain.std(ddof=1) / len(gain) ** 0.5
        found[f"accuracy at {many}"] = (
            f"random {random[:, at].mean():.3f}, queue {ours[:, at].mean():.3f} "
            f"(gain {gain.mean():+.3f} ± {1.96 * error:.3f})"
        )
        needed = _needed(random, ours, counts, at)
        spread = [_needed(random[rows], ours[rows], counts, at) for rows in drawn]
        # Of the draws themselves, for between a number and infinity there is no quantile.
        low, high = np.quantile(spread, [0.025, 0.975], method="nearest")
        found[f"labels the queue needs for random's accuracy at {many}"] = (
            f"{_told(needed)} ({_told(low)} to {_told(high)})"
        )
    return found


def _needed(random: np.ndarray, ours: np.ndarray, counts: np.ndarray, at: int) -> float:
    """Return the labels at which our mean curve first reaches random's accuracy; else infinity."""
    goal, mean = random[:, at].mean(), ours.mean(axis=0)
    reached = np.flatnonzero(mean >= goal)
    if not len(reached):
        return float("inf")
    first = int(reached[0])
    if not first:
        return float(counts[0])
    ends = [first - 1, first]
    return float(np.interp(goal, mean[ends], counts[ends]))


def _told(labels: float) -> str:
    return f"{labels:.0f}" if np.isfinite(labels) else f"more than {LAST}"


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[3] / "shared" / "data"
    for figure, value in run(root, tuple(sys.argv[1:]) or NAMES).items():
        print(f"{figure:<60} {value}")
