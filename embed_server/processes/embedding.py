"""Scenes into a collection, and the index of one, as processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embed_server.job import JobContext
from embed_server.models import BuildIndexInputs, EmbedRasterInputs, EmbedReport, IndexReport
from embed_server.processes.process import (
    Make,
    Process,
    check_absolute,
    check_sources,
    teller,
)
from embeddings.indexing import RECALL, index_collection
from embeddings.types import Bounds


def _embed_raster(store: Path, inputs: EmbedRasterInputs) -> Make:
    check_sources("files", inputs.files)
    if inputs.weights is not None:
        check_absolute("weights", inputs.weights, "an address (https://...)")

    given = _given(inputs)

    def work(context: JobContext) -> Mapping[str, Any]:
        # Late: it brings GDAL, which a server that only searches does not need.
        from embeddings.pipeline import RasterJob, embed_raster

        job = RasterJob(store=store, **given)
        outcome = embed_raster(job, progress=teller(context), cancelled=context.cancelled)
        for text in outcome.failures:
            context.log(f"Not done: {text}")
        return outcome.to_json()

    return work


def _build_index(store: Path, inputs: BuildIndexInputs) -> Make:
    recall = RECALL if inputs.recall is None else inputs.recall

    def work(context: JobContext) -> Mapping[str, Any]:
        # Whether there is such a collection is seen then: a job before this one may make it.
        tell = teller(context)
        made = index_collection(store, inputs.collection, recall, tell, context.cancelled)
        for text in made.lines:
            context.log(text)
        return made.to_json()

    return work


def _given(inputs: EmbedRasterInputs) -> dict[str, Any]:
    """Return what the client gave, in the types of ``RasterJob``."""
    given = inputs.model_dump(exclude_none=True)
    for name in ("files", "bands", "assets"):
        if name in given:
            given[name] = tuple(given[name])
    if "bbox" in given:
        given["bbox"] = Bounds(*given["bbox"])
    if "weights" in given:
        given["weights"] = Path(given["weights"])
    return given


EMBED_RASTER = Process(
    id="embed-raster",
    title="Embed a scene",
    description="Cut a scene into chips and store one embedding a chip. Running it again "
    "with the same inputs resumes, or does nothing when all is done.",
    inputs=EmbedRasterInputs,
    output=EmbedReport,
    prepare=_embed_raster,
)

BUILD_INDEX = Process(
    id="build-index",
    title="Index a collection",
    description="Build the search index of a large collection and measure how complete "
    "its answers are. The old index serves until the new one is whole; running it again "
    "goes on where a dismissed job stopped.",
    inputs=BuildIndexInputs,
    output=IndexReport,
    prepare=_build_index,
)
