"""What a validation asks for and what it found, as plain data and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from embeddings.analysis import calibration as cal
from embeddings.analysis.applicability import Applicability
from embeddings.analysis.baselines import DESCRIPTIONS
from embeddings.analysis.folds import Blocks
from embeddings.analysis.label_curve import LabelCurve
from embeddings.analysis.region_widths import WidthScore
from embeddings.analysis.scores import MAIN, Scored, plain
from embeddings.analysis.solving import ClassWeight, Kind

RANDOM_FOLDS = 5

OMITTED = 0.1
"""Share of the positives that the threshold of "positive" may miss."""

RELATIVE = (
    f"The threshold keeps {1 - OMITTED:.0%} of the positives of regions left out. Without places "
    "known to be of no such kind no error rate can be told, and scores only say which places are "
    "likelier than others."
)


@dataclass(frozen=True)
class ValidationSettings:
    """How to validate. What is None is taken from the labels (``spatial_plan``).

    ``class_weight`` "balanced" finds more of rare classes at the cost of accuracy, and its
    probabilities are those of classes equally frequent. ``asked_error`` may remain among the
    accepted. ``widths`` measures with narrower and wider regions too, ``curve`` with fewer labels.
    ``partitions``: in how many ways regions are drawn, the first of which the scores are of.
    ``strength``: the penalty of all probes that are judged; None: each fold's is chosen on the
    others.
    """

    kind: Kind = "logistic"
    strength: float | None = None
    class_weight: ClassWeight = None
    folds: int = 10
    regions: int | None = None
    block_m: float | None = None
    buffer_m: float | None = None
    asked_error: float = 0.1
    threshold_per_class: bool = False
    curve: bool = True
    widths: bool = True
    partitions: int = 3
    seed: int = 0


@dataclass(frozen=True)
class RegionScore:
    """What was met in one region left out: how far single regions differ from the mean.

    ``lon``, ``lat`` are the mean place in degrees; ``right`` the share of samples wholly right,
    ``rmse`` that of a number; nan for what the task does not have.
    """

    lon: float
    lat: float
    samples: int
    right: float
    rmse: float


@dataclass(frozen=True, eq=False)
class Validation:
    """What is known of a probe from its labels alone.

    ``spatial`` speaks for regions without labels, ``random`` for places amid the labels;
    ``gap`` is random minus spatial of the task's main figure, and ``partitions`` are that figure
    for regions drawn in other ways, the one of ``spatial`` first. ``strength``, ``temperature``,
    ``selection`` and ``applicability`` are for the probe fitted to all labels (``finish``);
    ``losses`` are the mean losses in regions left out by which the strength was chosen;
    ``outside`` is the share of regions left out that lay beyond the applicability of the rest.
    """

    task: str
    settings: ValidationSettings
    samples: int
    labels: int
    plan: Blocks
    range_m: float
    spatial: Scored
    random: Scored
    baselines: dict[str, Scored]
    strength: float
    losses: dict[float, float]
    temperature: float
    calibration_error: float | None
    reliability: list[dict[str, float]]
    selection: cal.Selection | None
    applicability: Applicability
    outside: float
    curve: LabelCurve | None
    widths: list[WidthScore]
    partitions: list[float]
    regions: list[RegionScore]
    warnings: list[str]

    @property
    def gap(self) -> float:
        """By how much a random split flatters."""
        name = MAIN[self.task]
        return self.random.figures[name].value - self.spatial.figures[name].value

    def to_json(self) -> dict[str, Any]:
        """Return all that a report needs as a JSON object."""
        selected = None
        if self.selection is not None:
            found = {k: v for k, v in asdict(self.selection).items() if k != "thresholds"}
            thresholds = self.selection.thresholds.tolist()
            note = RELATIVE if self.task == "positive" else cal.NO_GUARANTEE
            selected = plain(found) | {"thresholds": thresholds, "note": note}
        return {
            "task": self.task,
            "settings": asdict(self.settings),
            "samples": self.samples,
            "labels": self.labels,
            "main": MAIN[self.task],
            "split": self._split_to_json(),
            "spatial": self.spatial.to_json(),
            "random": self.random.to_json(),
            "gap": plain({"gap": self.gap})["gap"],
            "baselines": {
                name: {"what": DESCRIPTIONS[name]} | scored.to_json()
                for name, scored in self.baselines.items()
            },
            "strength": self.strength,
            "strengths_tried": [
                plain({"strength": s, "loss": loss}) for s, loss in self.losses.items()
            ],
            "calibration": {
                "temperature": self.temperature,
                "error": self.calibration_error,
                "bins": cal.BINS,
                "reliability": self.reliability,
            },
            "selection": selected,
            "applicability": plain(
                {"threshold": self.applicability.threshold, "outside": self.outside}
            ),
            "widths": [plain(asdict(each)) for each in self.widths],
            "partitions": self.partitions,
            "regions": [plain(asdict(each)) for each in self.regions],
            "curve": self.curve and self.curve.to_json(),
            "warnings": self.warnings,
        }

    def _split_to_json(self) -> dict[str, Any]:
        return {
            "block_m": self.plan.block_m,
            "buffer_m": self.plan.buffer_m,
            "range_m": self.range_m,
            "blocks": len(np.unique(self.plan.block)),
            "regions": len(np.unique(self.plan.region)),
            "folds": len(np.unique(self.plan.fold)),
            "random_folds": RANDOM_FOLDS,
        }
