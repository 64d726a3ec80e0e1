"""What a run reports: how far it is, and what it did."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from embeddings.store.collection import Scene


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, in chips."""

    done: int
    total: int
    message: str


@dataclass(frozen=True, slots=True)
class SceneReport:
    """What became of one scene: chips planned; stored; absent for lack of data; not readable.

    ``resumed`` of the stored ones were there before this run.
    """

    scene: str
    planned: int
    embedded: int
    absent: int
    missing: int
    resumed: int
    notes: tuple[str, ...]
    dense: int = 0
    """Vectors stored as a raster."""

    @classmethod
    def of(cls, scene: Scene, resumed: int) -> SceneReport:
        """Report on a scene as it is recorded."""
        return cls(
            scene.id,
            scene.planned,
            scene.embedded,
            scene.absent,
            scene.missing,
            resumed,
            scene.notes,
        )


@dataclass(frozen=True, slots=True)
class EmbedReport:
    """What a run did, scene by scene. ``failures`` says why scenes gave nothing or not all."""

    collection: str
    scenes: tuple[SceneReport, ...]
    failures: tuple[str, ...] = ()

    @property
    def planned(self) -> int:
        """Chips of all scenes, with or without data."""
        return sum(scene.planned for scene in self.scenes)

    @property
    def embedded(self) -> int:
        """Chips stored, now or before."""
        return sum(scene.embedded for scene in self.scenes)

    @property
    def absent(self) -> int:
        """Chips left out for lack of data."""
        return sum(scene.absent for scene in self.scenes)

    @property
    def missing(self) -> int:
        """Chips that could not be read."""
        return sum(scene.missing for scene in self.scenes)

    @property
    def resumed(self) -> int:
        """Chips stored that were there before this run."""
        return sum(scene.resumed for scene in self.scenes)

    @property
    def dense(self) -> int:
        """Vectors stored as rasters."""
        return sum(scene.dense for scene in self.scenes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided without asking; of several scenes, each note once."""
        return tuple(dict.fromkeys(note for scene in self.scenes for note in scene.notes))

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        totals = ("planned", "embedded", "absent", "missing", "resumed", "dense", "notes")
        return {
            "collection": self.collection,
            **{name: getattr(self, name) for name in totals},
            "failures": self.failures,
            "scenes": [asdict(scene) for scene in self.scenes],
        }


class Pace:
    """How fast a run is, in words for its progress."""

    def __init__(self, total: int, unit: str = "chips") -> None:
        self._total = total
        self._unit = unit
        self._start = time.monotonic()
        self._first: int | None = None

    def message(self, done: int) -> str:
        """Return "120 of 400 chips", with the rate once there is one."""
        if self._first is None:
            self._first = done
            self._start = time.monotonic()
        text = f"{done:,} of {self._total:,} {self._unit}"
        seconds = time.monotonic() - self._start
        if done > self._first and seconds > 0.5:
            text += f", {(done - self._first) / seconds:,.0f}/s"
        return text
