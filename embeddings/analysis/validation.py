"""How good a probe is away from its labels: all figures of a report from one call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from embeddings.analysis import calibration as cal
from embeddings.analysis.applicability import Applicability, deviations, measure_applicability
from embeddings.analysis.autocorrelation import correlogram, unit_points
from embeddings.analysis.baselines import predict_baselines
from embeddings.analysis.cautions import cautions
from embeddings.analysis.crossfit import CrossFit, crossfit
from embeddings.analysis.folds import Blocks, Split, random_folds, spatial_plan
from embeddings.analysis.label_curve import LabelCurve, label_curve
from embeddings.analysis.probes import LinearProbe, check_learnable
from embeddings.analysis.region_widths import WidthScore, other_folds, region_width
from embeddings.analysis.samples import Samples
from embeddings.analysis.scores import MAIN, Scored, score
from embeddings.analysis.solving import STRENGTHS, sample_weights
from embeddings.analysis.validated import (
    OMITTED,
    RANDOM_FOLDS,
    RegionScore,
    Validation,
    ValidationSettings,
)
from embeddings.errors import InputError

__all__ = ["Validation", "ValidationSettings", "decide", "finish", "validate"]

FEWER = 2000
"""Samples of the training part of a fold that its area of applicability is measured on."""

FEWEST_TRAINED = 2
"""Samples that the buffer must leave to train on."""

MOST = 20_000
"""Samples validated on; of more a seeded draw of whole label features is taken."""


def validate(
    samples: Samples,
    settings: ValidationSettings | None = None,
    *,
    check: Callable[[], None] = lambda: None,
) -> Validation:
    """Validate a probe of these labels; ``check`` is called between fits and may raise to stop.

    Raises InputError where nothing can be learned or no region can be held out.
    """
    settings = settings or ValidationSettings()
    check_learnable(samples, settings.kind)
    counted = len(samples), len(samples.labels())
    notes: list[str] = []
    if len(samples) > MOST:
        samples = samples.thinned(MOST, settings.seed)
        notes.append(
            f"The figures are from a random {len(samples):,} of {counted[0]:,} samples, "
            "whole label features at a time."
        )
    with threadpool_limits(1):  # so that figures do not depend on the number of processors
        return _Run(samples, settings, check).validation(counted, notes)


def finish(probe: LinearProbe, validation: Validation) -> LinearProbe:
    """Return the probe with the temperature, thresholds and applicability that were found.

    Where no threshold keeps the promise there is none: a map without one, and a warning, serve
    better than a map that is all unknown.
    """
    selection = validation.selection
    if selection is not None and selection.accepted == 0:
        selection = None
    return replace(
        probe,
        temperature=validation.temperature,
        thresholds=None if selection is None else selection.thresholds,
        applicability=validation.applicability,
    )


@dataclass
class _Run:
    """One validation: what its steps share."""

    samples: Samples
    settings: ValidationSettings
    check: Callable[[], None]

    def validation(self, counted: tuple[int, int], notes: list[str]) -> Validation:
        own, settings = self.samples, self.settings
        plan = self._plan()
        apart = plan.splits(own.lon, own.lat)
        notes = notes + _without_buffer(apart, plan.buffer_m)
        splits = _usable(apart)
        cross = self._cross(splits)
        said = decide(own.task, cross.honest)
        spatial = self._scored(said, plan.region)
        random = self._random(plan)
        rivals = {
            name: self._scored(_said(own.task, shares), plan.region)
            for name, shares in predict_baselines(own, splits).items()
        }
        temperature, error, bins, selection = self._trust(cross, plan)
        near = self._near(splits)
        self.check()
        curve = self._curve(splits, cross.strength) if settings.curve else None
        range_m = correlogram(own.lon, own.lat, own.target, seed=settings.seed).range_m
        partitions = self._partitions(spatial, cross.strength)
        told = cautions(
            *(own, plan, range_m, spatial, random, rivals, error, selection, partitions),
            drawn=len(own) < counted[0],
        )
        by_region = regions_of(own, said, plan)
        return Validation(
            own.task,
            settings,
            *counted,
            plan,
            range_m,
            spatial,
            random,
            rivals,
            cross.strength,
            cross.losses,
            temperature,
            error,
            bins,
            selection,
            *near,
            curve,
            self._widths(plan, spatial, cross.strength),
            partitions,
            by_region,
            notes + told,
        )

    def _plan(
        self, folds: int | None = None, block_m: float | None = None, draw: int = 0
    ) -> Blocks:
        own, chosen = self.samples, self.settings
        return spatial_plan(
            own.lon,
            own.lat,
            own.group,
            own.target,
            folds=folds or chosen.folds,
            regions=None if folds else chosen.regions,
            block_m=block_m or chosen.block_m,
            buffer_m=chosen.buffer_m,
            seed=chosen.seed + draw,
        )

    def _partitions(self, spatial: Scored, strength: float) -> list[float]:
        """Measure with regions drawn in other ways, at the strength chosen."""
        found = [spatial.figures[MAIN[self.samples.task]].value]
        for draw in range(1, self.settings.partitions):
            # A block's width that the user gave may hold all labels when it begins elsewhere.
            with suppress(InputError):
                found.append(self._value(self._plan(draw=draw), strength))
        return found

    def _value(self, plan: Blocks, strength: float) -> float:
        own = self.samples
        cross = self._cross(_usable(plan.splits(own.lon, own.lat)), (strength,))
        scored = self._scored(decide(own.task, cross.scores), plan.region)
        return scored.figures[MAIN[own.task]].value

    def _widths(self, plan: Blocks, spatial: Scored, strength: float) -> list[WidthScore]:
        """Measure with narrower and with wider regions left out, at the strength chosen."""
        own, name = self.samples, MAIN[self.samples.task]
        here = WidthScore(
            len(np.unique(plan.fold)),
            region_width(own, plan.region),
            spatial.figures[name].value,
        )
        found = [here]
        for count in other_folds(plan) if self.settings.widths else []:
            other = self._plan(count, plan.block_m)
            value = self._value(other, strength)
            found.append(WidthScore(count, region_width(own, other.region), value))
        return sorted(found, key=lambda each: each.region_m)

    def _random(self, plan: Blocks) -> Scored:
        """Score what most would report, with neighbours on both sides of the split."""
        own = self.samples
        splits = random_folds(own.target, min(RANDOM_FOLDS, len(own)), self.settings.seed)
        return self._scored(decide(own.task, self._cross(splits).honest), plan.region)

    def _cross(self, splits: list[Split], strengths: tuple[float, ...] = STRENGTHS) -> CrossFit:
        asked = self.settings.strength
        return crossfit(
            self.samples,
            splits,
            kind=self.settings.kind,
            strengths=strengths if asked is None else (asked,),
            class_weight=self.settings.class_weight,
            check=self.check,
        )

    def _scored(self, said: NDArray[Any], unit: NDArray[np.int64]) -> Scored:
        own = self.samples
        return score(own.task, own.target, said, own.classes, unit, seed=self.settings.seed)

    def _curve(self, splits: list[Split], strength: float) -> LabelCurve | None:
        chosen = self.settings
        return label_curve(
            self.samples,
            splits,
            strength,
            kind=chosen.kind,
            class_weight=chosen.class_weight,
            seed=chosen.seed,
        )

    def _trust(
        self, cross: CrossFit, plan: Blocks
    ) -> tuple[float, float | None, list[dict[str, float]], cal.Selection | None]:
        """Return temperature, calibration error, reliability and when to refuse."""
        own, asked = self.samples, self.settings.asked_error
        if own.task == "number":
            return 1.0, None, [], None
        weight = sample_weights(own, self.settings.class_weight)
        temperature = cal.temperature_of(own.task, cross.scores, own.target, weight)
        # The temperature of one fold is fitted without it, so that its error is honest.
        likely = np.empty_like(cross.scores)
        for fold in np.unique(plan.fold):
            mine = plan.fold == fold
            others = ~mine if (~mine).any() else mine
            calm = cal.temperature_of(
                own.task, cross.scores[others], own.target[others], weight[others]
            )
            likely[mine] = cal.probabilities(own.task, cross.scores[mine], calm)
        if own.task == "positive":
            least = float(np.quantile(likely[own.target, 0], OMITTED))
            taken = float((likely[~own.target, 0] >= least).mean())
            return temperature, None, [], _omitting(least, taken)
        if own.task == "multilabel":
            flat, right = likely.ravel(), own.target.ravel()
            error = cal.calibration_error(flat, right)
            return temperature, error, cal.reliability(flat, right), None
        best = likely.argmax(axis=1)
        sure, right = likely[np.arange(len(best)), best], best == own.target
        each = self.settings.threshold_per_class
        selection = cal.select(likely, own.target, plan.block, asked=asked, per_class=each)
        error = cal.calibration_error(sure, right)
        return temperature, error, cal.reliability(sure, right), selection

    def _near(self, splits: list[Split]) -> tuple[Applicability, float]:
        """Return the area of applicability; what share of regions left out lies outside theirs."""
        own, seed = self.samples, self.settings.seed
        outside = np.zeros(len(own), bool)
        for train, test in splits:
            self.check()
            near = _measured(own.take(train), FEWER, seed)
            outside[test] = ~near.inside(own.vectors[test])
        return _measured(own, len(own), seed), float(outside.mean())


def _omitting(least: float, taken: float) -> cal.Selection:
    nan = float("nan")
    return cal.Selection(np.array([least]), OMITTED, OMITTED, nan, nan, taken)


def _measured(samples: Samples, most: int, seed: int) -> Applicability:
    mean, scale = deviations(samples.vectors)
    return measure_applicability(samples.vectors, mean, scale, samples.group, most=most, seed=seed)


def regions_of(samples: Samples, said: NDArray[Any], plan: Blocks) -> list[RegionScore]:
    """Return what was met in each region; ``said (n, ...)`` as ``decide`` gives it."""
    points = unit_points(samples.lon, samples.lat)
    found = []
    for number in np.unique(plan.region):
        mine = plan.region == number
        x, y, z = points[mine].mean(axis=0)
        right = rmse = float("nan")
        if samples.task == "number":
            rmse = float(np.sqrt(((said[mine] - samples.target[mine]) ** 2).mean()))
        elif samples.task != "positive":
            same = (said[mine] == samples.target[mine]).reshape(int(mine.sum()), -1)
            right = float(same.all(axis=1).mean())
        lon, lat = np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))
        found.append(RegionScore(float(lon), float(lat), int(mine.sum()), right, rmse))
    return found


def decide(task: str, scores: NDArray[np.float32]) -> NDArray[Any]:
    """Return what scores ``(n, c)`` say: codes, numbers, which labels, or the rank's score."""
    if task == "classes":
        return np.asarray(scores.argmax(axis=1), np.int64)
    return scores > 0 if task == "multilabel" else scores[:, 0]


def _said(task: str, shares: NDArray[np.float32]) -> NDArray[Any]:
    return decide(task, shares - 0.5 if task == "multilabel" else shares)


def _without_buffer(splits: list[Split], buffer_m: float) -> list[str]:
    """Say of how many folds the buffer would leave nothing, so that it was not kept."""
    bare = sum(len(train) < FEWEST_TRAINED for train, _ in splits)
    if not bare:
        return []
    return [
        f"The buffer of {buffer_m:,.0f} m leaves nothing to train on in {bare} of {len(splits)} "
        "folds; these were tested without it, beside what was trained on, so the figures flatter. "
        "Give a smaller buffer, or add labels elsewhere."
    ]


def _usable(splits: list[Split]) -> list[Split]:
    """Keep the buffer from leaving a fold without anything to train on."""
    count = sum(len(test) for _, test in splits)
    everything = np.arange(count)
    return [
        (t, s) if len(t) >= FEWEST_TRAINED else (np.setdiff1d(everything, s), s) for t, s in splits
    ]
