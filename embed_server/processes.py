"""What can run as a job. A process turns its validated inputs into a call of ``embeddings``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from embed_server.errors import InvalidRequestError, ProcessNotFoundError
from embed_server.job import JobContext, Work
from embed_server.models import (
    EmbedRasterInputs,
    EmbedReport,
    Link,
    ProcessDescription,
    ProcessSummary,
)
from embeddings import __version__
from embeddings.types import Bounds

REPORT = "report"
"""The id of the output of ``embed-raster``."""


@dataclass(frozen=True)
class Process:
    """A process: what it takes, what it gives, and how its work is made."""

    id: str
    title: str
    description: str
    inputs: type[EmbedRasterInputs]
    output: type[EmbedReport]
    prepare: Callable[[Path, EmbedRasterInputs], Work]

    def work(self, store: Path, inputs: Mapping[str, Any]) -> Work:
        """Check the inputs and return the work. Raises InvalidRequestError."""
        try:
            checked = self.inputs.model_validate(inputs)
        except ValidationError as error:
            found = [{**e, "loc": ("inputs", *e["loc"])} for e in error.errors()]
            raise InvalidRequestError.of(found) from None
        return self.prepare(store, checked)

    def summary(self, base_url: str) -> ProcessSummary:
        """Return the process as a list shows it."""
        here = f"{base_url}/processes/{self.id}"
        return ProcessSummary(
            id=self.id,
            title=self.title,
            description=self.description,
            version=__version__,
            jobControlOptions=["async-execute", "dismiss"],
            links=[Link(rel="self", href=here)],
        )

    def describe(self, base_url: str) -> ProcessDescription:
        """Return the process with the JSON Schemas of its inputs and of its result."""
        schema = self.inputs.model_json_schema()
        required = schema.get("required", [])
        inputs = {
            name: {
                "title": name,
                "description": entry.get("description", ""),
                "minOccurs": int(name in required),
                "schema": entry,
            }
            for name, entry in schema["properties"].items()
        }
        outputs = {REPORT: {"title": REPORT, "schema": self.output.model_json_schema()}}
        return ProcessDescription(
            **self.summary(base_url).model_dump(), inputs=inputs, outputs=outputs
        )


def find_process(process_id: str) -> Process:
    """Return a process by its id. Raises ProcessNotFoundError."""
    try:
        return PROCESSES[process_id]
    except KeyError:
        raise ProcessNotFoundError(
            f"There is no process '{process_id}'. There: {', '.join(PROCESSES)}."
        ) from None


def _embed_raster(store: Path, inputs: EmbedRasterInputs) -> Work:
    paths = [("files", file) for file in inputs.files if not _is_address(file)]
    paths += [("weights", inputs.weights)] if inputs.weights is not None else []
    for name, path in paths:
        if not PurePath(path).is_absolute():
            raise InvalidRequestError(
                f"inputs.{name}: '{path}' is neither the absolute path of a file on this machine "
                "nor an address (https://...). The server does not know your working folder; give "
                "the whole path."
            )

    given = _given(inputs)

    def work(context: JobContext) -> dict[str, Any]:
        # Late: it brings GDAL, which a server that only searches does not need.
        from embeddings.pipeline import Progress, RasterJob, embed_raster

        def report(progress: Progress) -> None:
            context.report(progress.done, progress.total, progress.message)

        job = RasterJob(store=store, **given)
        outcome = embed_raster(job, progress=report, cancelled=context.cancelled)
        for text in outcome.failures:
            context.log(f"Not done: {text}")
        return {REPORT: {"value": EmbedReport.model_validate(outcome.to_json()).model_dump()}}

    return work


def _is_address(file: str) -> bool:
    return "://" in file


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


PROCESSES: dict[str, Process] = {
    process.id: process
    for process in (
        Process(
            id="embed-raster",
            title="Embed a scene",
            description="Cut a scene into chips and store one embedding a chip. Running it again "
            "with the same inputs resumes, or does nothing when all is done.",
            inputs=EmbedRasterInputs,
            output=EmbedReport,
            prepare=_embed_raster,
        ),
    )
}
