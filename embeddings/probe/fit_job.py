"""What a fit of a probe is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from embeddings.analysis.samples import Task
from embeddings.analysis.solving import ClassWeight, Kind
from embeddings.analysis.validation import ValidationSettings
from embeddings.errors import InputError
from embeddings.probe.label_classes import FieldOptions
from embeddings.probe.labels import LabelOptions
from embeddings.probe.lottery import check_seed
from embeddings.probe.model import check_writable
from embeddings.probe.resolving import Conflicts
from embeddings.probe.vector_join import JoinOptions, Rule

KINDS: tuple[Kind, ...] = get_args(Kind)
UNKNOWN_ERROR = 0.1
TOLERANCE_DAYS = 30.0
MIN_SHARE = 0.5
MOST_STRENGTH = 1e12
"""More makes all weights zero, and overflows."""


@dataclass(frozen=True, slots=True)
class ProbeJob:
    """What to fit a probe to, how to judge it, and where to write it.

    ``labels`` is a vector file, a table of points or a raster; ``field`` the field that holds the
    classes or numbers (of a raster the band), None for places of one class. What is None is left
    to the labels: ``task``, ``rule``, ``conflicts``, ``strength`` (chosen on spatial folds),
    ``block_m`` and ``buffer_m`` in metres (``spatial_plan``).
    """

    store: Path
    collection: str
    labels: Path
    others: tuple[str, ...] = ()
    """Collections of the store whose vectors stand beside, joined by the ids of the items."""
    layer: str | None = None
    field: str | None = None
    out: Path | None = None
    task: str | None = None
    separator: str | None = None
    merge_classes: bool | None = None
    """Of names that differ only in spaces or capitals: True joins, False parts, None refuses."""
    date_field: str | None = None
    tolerance_days: float = TOLERANCE_DAYS
    labels_crs: str | None = None
    labels_nodata: float | None = None
    rule: str | None = None
    min_share: float = MIN_SHARE
    conflicts: str | None = None
    kind: str = "logistic"
    strength: float | None = None
    balanced: bool = False
    """Classes count the same in the fit, however many labels they have."""
    folds: int = 10
    block_m: float | None = None
    buffer_m: float | None = None
    unknown_error: float | None = UNKNOWN_ERROR
    """Share of errors that may remain among the accepted; None: no probability is too low."""
    threshold_per_class: bool = False
    curve: bool = True
    background: int | None = None
    """Places drawn beside positives."""
    prevalence: float | None = None
    """Of positives: the share of all places that are of the class, where it is known."""
    seed: int = 0

    def check(self) -> None:
        """Raise InputError if a field cannot be used, whatever the labels say."""
        if self.kind not in KINDS:
            raise InputError(
                f"'{self.kind}' is no kind of probe. Choose one of {', '.join(KINDS)}."
            )
        if self.folds < 2:
            raise InputError(f"{self.folds} folds were asked for; give 2 or more.")
        _check_share("The error rate of unknown", self.unknown_error)
        _check_share("The prevalence", self.prevalence)
        _check_above_zero("The block size", self.block_m, "metres")
        _check_above_zero("The number of background places", self.background, "places")
        if self.buffer_m is not None and not (self.buffer_m >= 0 and math.isfinite(self.buffer_m)):
            raise InputError(f"The buffer is {self.buffer_m:g} m; give 0 metres or more.")
        if self.strength is not None and not 0 <= self.strength <= MOST_STRENGTH:
            raise InputError(
                f"The strength is {self.strength:g}; give a number from 0 to {MOST_STRENGTH:g}."
            )
        check_seed(self.seed)
        if self.date_field is None and self.tolerance_days != TOLERANCE_DAYS:
            raise InputError(
                f"A tolerance of {self.tolerance_days:g} days was given, but no field of dates, so "
                "that it means nothing. Name the field, or leave the tolerance out."
            )
        if self.out is not None:
            check_writable(self.out)

    def check_labels(self, task: Task, usual_rule: Rule) -> None:
        """Raise InputError if an option was given that means nothing for labels of a task.

        ``usual_rule`` is how such labels are joined if no rule was asked for.
        """
        given: tuple[tuple[bool, str, tuple[Task, ...]], ...] = (
            (self.prevalence is not None, "A prevalence", ("positive",)),
            (self.background is not None, "A number of background places", ("positive",)),
            (self.threshold_per_class, "A threshold for each class", ("classes",)),
            (self.balanced, "Balancing", ("classes", "multilabel", "positive")),
            (
                self.unknown_error not in (UNKNOWN_ERROR, None),
                "An error rate of unknown",
                ("classes", "positive"),
            ),
        )
        for asked, what, tasks in given:
            if asked and task not in tasks:
                raise InputError(
                    f"{what} was asked for, which means nothing for labels of the task {task}; it "
                    f"is for {' and '.join(tasks)}. Leave it out, or choose the task."
                )
        rule = self.rule or usual_rule
        if rule != "share" and self.min_share != MIN_SHARE:
            raise InputError(
                f"A least share of {self.min_share:g} was given, but labels are joined by the rule "
                f"'{rule}', which uses none. Choose the rule 'share', or leave the share out."
            )

    def label_options(self) -> LabelOptions:
        """Return how the labels are read."""
        task: Any = self.task
        values = FieldOptions(task, self.separator, self.merge_classes)
        return LabelOptions(
            self.layer, self.field, self.date_field, self.labels_crs, self.labels_nodata, values
        )

    def join_options(self) -> JoinOptions:
        """Return how the labels are joined to chips."""
        rule: Rule | None = self.rule  # type: ignore[assignment]  # join refuses other texts
        conflicts: Conflicts | None = self.conflicts  # type: ignore[assignment]  # the same
        return JoinOptions(rule, self.min_share, conflicts, self.tolerance_days)

    def validation_settings(self, kind: Kind) -> ValidationSettings:
        """Return how the probe is judged."""
        return ValidationSettings(
            kind=kind,
            strength=self.strength,
            class_weight=self.class_weight,
            folds=self.folds,
            block_m=self.block_m,
            buffer_m=self.buffer_m,
            asked_error=UNKNOWN_ERROR if self.unknown_error is None else self.unknown_error,
            threshold_per_class=self.threshold_per_class,
            curve=self.curve,
            seed=self.seed,
        )

    @property
    def class_weight(self) -> ClassWeight:
        """How classes are weighted in the fit."""
        return "balanced" if self.balanced else None

    def to_json(self) -> dict[str, Any]:
        """Return what was asked for as a JSON object; of paths the names, since models travel."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: v.name if isinstance(v, Path) else v for k, v in values.items()}


def _check_share(what: str, value: float | None) -> None:
    if value is not None and not 0 < value < 1:
        raise InputError(f"{what} is {value:g}; give a share between 0 and 1, such as 0.1.")


def _check_above_zero(what: str, value: float | None, unit: str) -> None:
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise InputError(f"{what} is {value:g}; give {unit} above 0.")
