"""What a reader of a validation must be told, in plain words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embeddings.analysis.calibration import Selection
from embeddings.analysis.folds import Blocks
from embeddings.analysis.samples import Samples
from embeddings.analysis.scores import MAIN, Scored

FEW_BLOCKS = 20
FEW_LABELS = 20
"""Of one class."""

SMALLER = 1.5
"""By how much the labels' range may exceed the blocks untold."""

WIDE_GAP = 0.1
CLOSE = 0.02
"""A baseline this near to the probe explains it."""

WIDE_CALIBRATION = 0.1

UNSTEADY = 0.05
"""Range of a figure over ways to draw the regions that is told."""


def cautions(
    samples: Samples,
    plan: Blocks,
    range_m: float,
    spatial: Scored,
    random: Scored,
    baselines: dict[str, Scored],
    calibration_error: float | None,
    selection: Selection | None,
    partitions: list[float],
    *,
    drawn: bool = False,
) -> list[str]:
    """Return warnings, the gravest first; ``range_m`` is how far labels resemble each other.

    ``drawn``: the samples are some of all that there are.
    """
    name = MAIN[samples.task]
    ours = spatial.figures[name]
    return [
        *_about_blocks(plan, range_m),
        *_about_classes(samples, plan, "labels drawn" if drawn else "labels"),
        *_about_baselines(name, ours.value, ours.error, baselines),
        *_about_gap(name, ours.value, random.figures[name].value),
        *_about_partitions(name, partitions),
        *_about_calibration(calibration_error),
        *_about_selection(selection),
    ]


def _about_blocks(plan: Blocks, range_m: float) -> list[str]:
    blocks, folds = len(np.unique(plan.block)), len(np.unique(plan.fold))
    found = []
    if blocks < FEW_BLOCKS:
        found.append(
            f"The labels lie in only {blocks} blocks of {_long(plan.block_m)}. Figures of fewer "
            f"than {FEW_BLOCKS} blocks are rough; add labels in other parts of the area."
        )
    if range_m > SMALLER * plan.block_m:
        found.append(
            f"The labels resemble each other over {_long(range_m)}, and the blocks are only "
            f"{_long(plan.block_m)} wide. The figures speak for regions beside the labelled ones; "
            "farther away the probe may do worse."
        )
    if folds < 5:
        found.append(f"Only {folds} spatial folds could be made; the intervals are too narrow.")
    return found


def _about_classes(samples: Samples, plan: Blocks, what: str) -> list[str]:
    if samples.task not in ("classes", "multilabel"):
        return []
    found: list[str] = []
    for code, name in enumerate(samples.classes):
        mine = samples.target == code if samples.task == "classes" else samples.target[:, code]
        features = len(np.unique(samples.group[mine]))
        found += _about_class(name, mine, features, plan, what)
    return found


def _about_class(
    name: str, mine: NDArray[np.bool_], features: int, plan: Blocks, what: str
) -> list[str]:
    count = int(mine.sum())
    if not count:
        return [f"No label of '{name}' is among the samples tested: nothing is known of it."]
    if len(np.unique(plan.block[mine])) == 1:
        return [
            f"All {count} {what} of '{name}' lie in one block. When it is left out the probe "
            "never sees the class, so its scores say nothing; label it elsewhere too."
        ]
    if len(np.unique(plan.fold[mine])) == 1:
        return [
            f"All {count} {what} of '{name}' lie in one fold. When it is left out the probe "
            "never sees the class, so its scores say nothing; label it elsewhere too."
        ]
    if features < FEW_LABELS:
        return [f"The class '{name}' has only {features} {what}; its scores are rough."]
    return []


def _about_baselines(
    name: str, value: float, error: float, baselines: dict[str, Scored]
) -> list[str]:
    texts = {
        "dummy": "Naming the commonest answer everywhere does as well: the probe learned nothing.",
        "place": "The coordinates alone explain the labels: the nearest labels on the map do as "
        "well as the probe, which may have learned where it is and not what is there.",
    }
    found = []
    for key, text in texts.items():
        rival = baselines[key].figures[name].value
        near = CLOSE if not np.isfinite(error) else max(CLOSE, error)
        if np.isfinite(rival) and rival >= value - near:
            found.append(f"{text} ({label(name)} {rival:.2f} against {value:.2f}.)")
    return found


def _about_gap(name: str, spatial: float, random: float) -> list[str]:
    if not random - spatial > WIDE_GAP:
        return []
    return [
        f"A random split would promise {label(name)} {random:.2f}; in regions left out it is "
        f"{spatial:.2f}. Report the second for places away from the labels."
    ]


def _about_partitions(name: str, partitions: list[float]) -> list[str]:
    low, high = min(partitions), max(partitions)
    if not high - low > UNSTEADY:
        return []
    return [
        f"The spatial figure hangs on how the regions are drawn: {label(name)} is {low:.2f} to "
        f"{high:.2f} over {len(partitions)} ways. There are few regions for what varies between "
        "them."
    ]


def _about_calibration(error: float | None) -> list[str]:
    if error is None or not error > WIDE_CALIBRATION:
        return []
    return [
        f"The probabilities are off by {error:.2f} on average (expected calibration error); "
        "rank by them, but do not read them as chances."
    ]


def _about_selection(selection: Selection | None) -> list[str]:
    if selection is None or selection.promised == selection.asked:
        return []
    start = f"With these labels errors among the accepted cannot be kept at {selection.asked:.0%}"
    if selection.accepted == 0:
        return [
            f"{start}, nor at any rate, so no place is called unknown for its probability. Add "
            "labels."
        ]
    return [
        f"{start}: almost every place would be unknown. They are kept at "
        f"{selection.promised:.0%} instead; add labels, or ask for another rate."
    ]


def label(figure: str) -> str:
    """Return the name of a figure as one writes it."""
    return {"r2": "R²", "auc": "AUC", "macro_f1": "macro F1"}.get(figure, figure)


def _long(metres: float) -> str:
    return f"{metres / 1000:,.0f} km" if metres >= 10_000 else f"{metres:,.0f} m"
