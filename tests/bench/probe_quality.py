"""Does a probe's validation tell the truth? Against whole regions held out before anything is done.

The places of a data set are cut into REGIONS compact regions (k-means on the sphere), and in one
of them, of each draw another, nothing is looked at: the rest is validated and fitted, and the probe
then meets the region. What was told, on average over the draws, is compared with what was met over
all samples; single regions differ by far more than any validation could know. Of the rest, a tenth
of the blocks is kept too: there the error among the accepted is what "unknown" promises. Then each
class is left out of training in turn: a probe that knows what it does not know refuses it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from probe_sets import SETS

from embeddings.analysis.autocorrelation import unit_points
from embeddings.analysis.calibration import calibration_error
from embeddings.analysis.clusters import kmeans
from embeddings.analysis.folds import block_size, spatial_blocks
from embeddings.analysis.probes import UNKNOWN, LinearProbe, fit
from embeddings.analysis.samples import Samples
from embeddings.analysis.validation import Validation, ValidationSettings, finish, validate

REGIONS = 10
SEED = 100
"""Of the regions; no seed of the validation."""

LEAST_OF_CLASS = 100
"""Chips of a class that is left out of training."""

MOST_CLASSES = 10
"""Classes left out in turn, the largest first."""

QUICK = ValidationSettings(curve=False, widths=False)


@dataclass
class Met:
    """What a probe does with samples it has not seen.

    ``sure`` and ``right`` are the probability of the class named and whether it is true, ``taken``
    which are accepted; ``squared`` are squared errors of numbers, ``outside`` which lie beyond the
    area of applicability; all ``(n,)``.
    """

    sure: np.ndarray
    right: np.ndarray
    taken: np.ndarray
    squared: np.ndarray
    outside: np.ndarray


def run(data: Path, names: tuple[str, ...] = tuple(SETS)) -> dict[str, Any]:
    """Return the table of each data set."""
    figures: dict[str, Any] = {}
    for name in names:
        try:
            samples = SETS[name](data)
        except OSError as error:
            figures[name] = f"not measured: {error}"
            continue
        for key, value in measure(samples).items():
            figures[f"{name}: {key}"] = value
    return figures


def measure(samples: Samples, regions: int = REGIONS) -> dict[str, Any]:
    """Return what validation said and what was met, over all regions in turn."""
    region = _regions(samples, regions)
    draws = [_draw(samples, region == number) for number in range(int(region.max()) + 1)]
    figures = _table(samples, draws)
    if samples.task == "classes":
        figures |= _left_out(samples)
    return figures


def _regions(samples: Samples, count: int) -> np.ndarray:
    """Return the region of each sample; a label feature lies in one, and there are 4 to each."""
    _, member = np.unique(samples.group, return_inverse=True)
    size = np.bincount(member)
    columns = unit_points(samples.lon, samples.lat).T
    points = np.stack([np.bincount(member, column) / size for column in columns], axis=1)
    points -= points.mean(axis=0)
    points = (points / np.abs(points).max()).astype(np.float32)
    count = min(count, max(2, len(size) // 4))
    _, region = kmeans(points, count, seed=SEED, weight=size.astype(float))
    return region[member]


def _draw(samples: Samples, away: np.ndarray) -> tuple[Validation, Met, Met]:
    """Hold out a region and a tenth of the blocks of the rest; validate, fit, meet both."""
    rest = np.flatnonzero(~away)
    known = samples.take(rest)
    wide = block_size(known.lon, known.lat, known.target, seed=SEED)
    block = spatial_blocks(known.lon, known.lat, known.group, wide, seed=SEED)
    kept = np.random.default_rng(SEED).permutation(int(block.max()) + 1)
    inside = np.isin(block, kept[: max(1, len(kept) // 10)])
    learned = known.take(~inside)
    told = validate(learned, QUICK)
    probe = finish(fit(learned, strength=told.strength), told)
    return told, _meet(probe, samples.take(away)), _meet(probe, known.take(inside))


def _meet(probe: LinearProbe, samples: Samples) -> Met:
    near = probe.applicability
    assert near is not None
    outside = ~near.inside(samples.vectors)
    scores = probe.scores(samples.vectors)
    if samples.task == "number":
        none = np.zeros(len(samples))
        return Met(none, none, none, (scores[:, 0] - samples.target) ** 2, outside)
    likely = probe.probabilities_of(scores)
    right = likely.argmax(axis=1) == samples.target
    taken = probe.predict(samples.vectors) != UNKNOWN
    return Met(likely.max(axis=1), right, taken, np.zeros(len(samples)), outside)


def _joined(mets: list[Met], name: str) -> np.ndarray:
    return np.concatenate([getattr(met, name) for met in mets])


def _table(samples: Samples, draws: list[tuple[Validation, Met, Met]]) -> dict[str, Any]:
    """Return what was told, on average over the draws, and what was met, over all samples."""
    away = [met for _, met, _ in draws]
    blocks = [len(np.unique(told.plan.block)) for told, _, _ in draws]
    found: dict[str, Any] = {
        "samples": len(samples),
        "draws": len(draws),
        "blocks": f"{min(blocks)} to {max(blocks)}",
    }
    name = "r2" if samples.task == "number" else "accuracy"
    found["random"] = _round(np.mean([v.random.figures[name].value for v, _, _ in draws]))
    found["spatial"] = _round(np.mean([v.partitions for v, _, _ in draws]))
    found["spatial, deviation over partitions"] = _round(
        np.mean([np.std(v.partitions, ddof=1) for v, _, _ in draws])
    )
    if samples.task == "number":
        found["held out"] = _round(1 - _joined(away, "squared").mean() / samples.target.var())
        single = np.array([np.sqrt(met.squared.mean()) for met in away])
        found["spatial RMSE"] = _round(
            np.mean([v.spatial.figures["rmse"].value for v, _, _ in draws])
        )
        found["held out, single regions (RMSE)"] = _spread(single)
    else:
        found["held out"] = _round(_joined(away, "right").mean())
        single = np.array([met.right.mean() for met in away])
        found["held out, single regions"] = _spread(single)
        inside = np.mean(
            [
                low.low <= met.right.mean() <= low.high
                for low, met in ((v.spatial.figures[name], met) for v, met, _ in draws)
            ]
        )
        found["single regions within the interval told"] = _round(inside)
    found["spatial - held out"] = _round(found["spatial"] - found["held out"])
    found["outside applicability, held out"] = _round(_joined(away, "outside").mean())
    return found | (_trust(draws) if samples.task == "classes" else {})


def _trust(draws: list[tuple[Validation, Met, Met]]) -> dict[str, Any]:
    """Return calibration and the errors among the accepted, in new regions and in kept blocks."""
    found: dict[str, Any] = {
        "calibration error told": _round(np.mean([v.calibration_error for v, _, _ in draws]))
    }
    promised = sorted({v.selection.promised for v, _, _ in draws if v.selection})
    found["error promised"] = " or ".join(f"{each:.0%}" for each in promised)
    for name, mets in (
        ("held out", [met for _, met, _ in draws]),
        ("kept blocks", [met for _, _, met in draws]),
    ):
        sure, right, taken = (_joined(mets, key) for key in ("sure", "right", "taken"))
        found[f"calibration error, {name}"] = _round(calibration_error(sure, right))
        single = [calibration_error(met.sure, met.right) for met in mets]
        found[f"calibration error, {name}, single"] = _spread(np.array(single))
        found[f"accepted, {name}"] = _round(taken.mean())
        found[f"error among accepted, {name}"] = _round((taken & ~right).sum() / taken.sum())
        errors = [
            (met.taken & ~met.right).sum() / met.taken.sum() for met in mets if met.taken.any()
        ]
        found[f"error among accepted, {name}, single"] = _spread(np.array(errors))
    return found


def _left_out(samples: Samples) -> dict[str, Any]:
    """Leave out each class: what share of it is refused, and of the known classes beside it."""
    return _refusals([_refused(samples, code) for code in _aliens(samples)])


def _aliens(samples: Samples) -> list[int]:
    """Return the classes to leave out."""
    counts = np.bincount(samples.target, minlength=len(samples.classes))
    largest = np.argsort(-counts)[:MOST_CLASSES]
    return [int(c) for c in largest if counts[c] >= LEAST_OF_CLASS and (counts > 0).sum() > 2]


def _refused(samples: Samples, code: int) -> list[float]:
    """Leave a class out: its count, and what is refused of it and of the others."""
    alien = samples.target == code
    rest = samples.take(~alien)
    test = np.random.default_rng(code).random(len(rest)) < 0.2
    learned = rest.take(~test)
    told = validate(learned, replace(QUICK, partitions=1))
    probe = finish(fit(learned, strength=told.strength), told)
    near = probe.applicability
    assert near is not None
    row = [float(alien.sum())]
    for part in (samples.take(alien), rest.take(test)):
        unsure = probe.decide(probe.scores(part.vectors)) == UNKNOWN
        far = ~near.inside(part.vectors)
        row += [float(unsure.mean()), float(far.mean()), float((unsure | far).mean())]
    return row


def _refusals(rows: list[list[float]]) -> dict[str, Any]:
    """Return the mean of what was refused, classes weighed by their count."""
    if not rows:
        return {"classes left out": 0}
    table = np.array(rows)
    means = table[:, 0] @ table[:, 1:] / table[:, 0].sum()
    names = ("unsure", "outside", "either")
    return {
        "classes left out": len(table),
        "class left out, unsure, least": _round(table[:, 1].min()),
        "class left out, either, least": _round(table[:, 3].min()),
        **{f"class left out, {n}": _round(v) for n, v in zip(names, means[:3], strict=True)},
        **{f"known classes, {n}": _round(v) for n, v in zip(names, means[3:], strict=True)},
    }


def _round(value: Any) -> float:
    return round(float(value), 4)


def _spread(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    chosen = tuple(sys.argv[1:]) or tuple(SETS)
    root = Path(__file__).resolve().parents[3] / "shared" / "data"
    for figure, value in run(root, chosen).items():
        print(f"{figure:<60} {value}")
