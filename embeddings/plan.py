"""What a run would do, before it does it: chips, bytes and time, the last from a short trial."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from embeddings.encoders import Encoder
from embeddings.errors import InputError
from embeddings.pipeline import RasterRun, load_known
from embeddings.raster_job import RasterJob
from embeddings.report import Progress
from embeddings.spec import EmbeddingSpec
from embeddings.store.schema import row_bytes

TRIAL_S = 10.0


@dataclass(frozen=True, slots=True)
class ScenePlan:
    """What one scene would give. ``error`` says why nothing, where it cannot be opened."""

    scene: str
    chips: int
    chip_px: tuple[int, int]
    bands: tuple[str, ...]
    gsd_m: float
    notes: tuple[str, ...]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do. ``seconds`` is an estimate from ``trial_chips`` in ``trial_s``."""

    collection: str
    encoder: str
    dim: int
    dtype: str
    scenes: tuple[ScenePlan, ...]
    bytes: int
    """Of vectors and items before compression, if every chip has data."""
    fit_s: float
    trial_chips: int
    trial_s: float
    workers: int

    @property
    def chips(self) -> int:
        """Chips of all scenes, with or without data."""
        return sum(scene.chips for scene in self.scenes)

    @property
    def seconds(self) -> float | None:
        """Estimated time of the whole run; None if no chip could be tried."""
        if not self.trial_chips:
            return None
        return self.fit_s + self.chips * self.trial_s / self.trial_chips / self.workers

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object."""
        return {**asdict(self), "chips": self.chips, "seconds": self.seconds}


def plan_raster(
    job: RasterJob,
    progress: Callable[[Progress], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Plan:
    """Open all scenes, fit the encoder where it is not yet, and encode for ``TRIAL_S`` seconds.

    Writes nothing. Raises what ``embed_raster`` would raise before it writes.
    """
    job.check()
    run = RasterRun(job, progress, cancelled)
    known = load_known(job.store / job.collection) if not job.replace else None
    refs = run.find(known)
    start = time.perf_counter()
    spec: EmbeddingSpec
    encoder: Encoder
    if known is not None:
        spec, encoder = known.spec, run.encoder_of(known)
        run.check_first(known, refs, encoder)
    else:
        fitted = run.fit(refs)
        spec, encoder = fitted.spec, fitted.encoder
    fit_s = time.perf_counter() - start
    scenes: list[ScenePlan] = []
    tried, spent = 0, 0.0
    for ref in refs:
        try:
            with run.opened(ref, encoder, spec) as found:
                scene, plan = found.scene, found.plan
                scenes.append(
                    ScenePlan(
                        ref.id,
                        plan.chips,
                        plan.layout.chip_px,
                        scene.bands,
                        round(scene.gsd_m, 4),
                        tuple(scene.notes),
                    )
                )
                for batch in plan.batches():
                    if spent >= TRIAL_S or cancelled():
                        break
                    progress(Progress(int(spent), int(TRIAL_S), f"trial: {tried:,} chips"))
                    start = time.perf_counter()
                    found.rows(batch)
                    spent += time.perf_counter() - start
                    tried += batch.chips
        except InputError as error:
            scenes.append(ScenePlan(ref.id, 0, (0, 0), (), 0.0, (), str(error)))
    size = row_bytes(spec) * sum(scene.chips for scene in scenes)
    return Plan(
        job.collection,
        encoder.name,
        spec.dim,
        spec.dtype,
        tuple(scenes),
        size,
        fit_s,
        tried,
        spent,
        job.workers,
    )
