"""What became of labels: how many were read and used, what was dropped and why, the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from embeddings.analysis.samples import Task

SHOWN = 5


@dataclass(frozen=True)
class Dropped:
    """How many labels or chips were left out for a reason, and up to five of them."""

    reason: str
    count: int
    examples: tuple[str, ...]

    def line(self, what: str) -> str:
        """Return a sentence of it."""
        shown = f" ({', '.join(self.examples)}{', ...' if self.count > SHOWN else ''})"
        return f"{self.count:,} {what}: {self.reason}{shown if self.examples else ''}."


@dataclass(frozen=True)
class ClassCount:
    """One row of the class table; ``share`` is of the labelled chips.

    ``labels`` counts the labels read; None for rasters.
    """

    name: str
    labels: int | None
    chips: int
    share: float


@dataclass(frozen=True)
class JoinReport:
    """What a join did, for people and for files."""

    source: str
    layer: str
    field: str | None
    crs: str
    kinds: tuple[tuple[str, int], ...]
    """How many labels are points, lines, polygons; a raster's are none of them."""
    task: Task
    why: str
    """Why the task was taken."""
    rule: str
    rule_text: str
    min_share: float | None
    conflicts: str
    """What was done with chips of several classes: "drop" or "majority"."""
    labels_read: int | None
    """None for rasters, whose pixels are not counted."""
    labels_used: int | None
    dropped: tuple[Dropped, ...]
    """Labels that are not used."""
    made_valid: Dropped
    collection: str
    chips: int
    """In the collection."""
    chips_used: int
    chips_dropped: tuple[Dropped, ...]
    """Chips that met a label and are not used."""
    classes: tuple[ClassCount, ...]
    notes: tuple[str, ...]

    def with_vectors(
        self, dropped: Sequence[Dropped], chips: int, classes: Sequence[ClassCount]
    ) -> Self:
        """Return the report once chips were dropped for their vectors."""
        return replace(
            self,
            chips_dropped=(*self.chips_dropped, *(d for d in dropped if d.count)),
            chips_used=chips,
            classes=tuple(classes),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return it as text for people."""
        where = f"'{self.source}'" + (f", layer '{self.layer}'" if self.layer else "")
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds if count)
        read = (
            f"{self.labels_read:,} labels ({kinds or 'none with a place'}), {self.labels_used:,} "
            "used"
            if self.labels_read is not None
            else "a raster"
        )
        head = [
            f"Labels of {where} ({self.crs}): {read}.",
            self.why,
            f"Rule {self.rule}: {self.rule_text}",
            f"{self.chips_used:,} of {self.chips:,} chips of '{self.collection}' are labelled.",
        ]
        if self.made_valid.count:
            head.append(self.made_valid.line("labels"))
        drops = [d.line("labels not used") for d in self.dropped]
        drops += [d.line("chips not used") for d in self.chips_dropped]
        return [*head, *drops, *self._table(), *self.notes]

    def _table(self) -> list[str]:
        rows = []
        for each in self.classes:
            labels = "" if each.labels is None else f"{each.labels:,} labels, "
            rows.append(f"  {each.name}: {labels}{each.chips:,} chips ({each.share:.1%})")
        return rows
