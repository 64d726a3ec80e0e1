"""What can run as a job. A process turns its validated inputs into a call of ``embeddings``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from embed_server.errors import InvalidRequestError, ProcessNotFoundError
from embed_server.job import JobContext, Work
from embed_server.models import (
    BuildIndexInputs,
    EmbedRasterInputs,
    EmbedReport,
    IndexReport,
    Link,
    ProcessDescription,
    ProcessSummary,
    Received,
    Sent,
)
from embeddings import __version__
from embeddings.indexing import RECALL, index_collection
from embeddings.report import Progress
from embeddings.types import Bounds

REPORT = "report"
"""The id of the one output that every process has."""

Inputs = TypeVar("Inputs", bound=Received)

Make = Callable[[JobContext], Mapping[str, Any]]
"""What a job does: it gives the fields of the process's output."""


@dataclass(frozen=True)
class Process(Generic[Inputs]):
    """A process: what it takes, what it gives, and how its work is made."""

    id: str
    title: str
    description: str
    inputs: type[Inputs]
    output: type[Sent]
    prepare: Callable[[Path, Inputs], Make]
    """``prepare(store, inputs)``; raises InvalidRequestError for what is wrong at first sight."""

    def work(self, store: Path, inputs: Mapping[str, Any]) -> Work:
        """Check the inputs and return the work. Raises InvalidRequestError."""
        try:
            checked = self.inputs.model_validate(inputs)
        except ValidationError as error:
            found = [{**e, "loc": ("inputs", *e["loc"])} for e in error.errors()]
            raise InvalidRequestError.of(found) from None
        make = self.prepare(store, checked)

        def work(context: JobContext) -> dict[str, Any]:
            return {REPORT: {"value": self.output.model_validate(make(context)).model_dump()}}

        return work

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


def find_process(process_id: str) -> Process[Any]:
    """Return a process by its id. Raises ProcessNotFoundError."""
    try:
        return PROCESSES[process_id]
    except KeyError:
        raise ProcessNotFoundError(
            f"There is no process '{process_id}'. There: {', '.join(PROCESSES)}."
        ) from None


def _embed_raster(store: Path, inputs: EmbedRasterInputs) -> Make:
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

    def work(context: JobContext) -> Mapping[str, Any]:
        # Late: it brings GDAL, which a server that only searches does not need.
        from embeddings.pipeline import RasterJob, embed_raster

        job = RasterJob(store=store, **given)
        outcome = embed_raster(job, progress=_teller(context), cancelled=context.cancelled)
        for text in outcome.failures:
            context.log(f"Not done: {text}")
        return outcome.to_json()

    return work


def _build_index(store: Path, inputs: BuildIndexInputs) -> Make:
    recall = RECALL if inputs.recall is None else inputs.recall

    def work(context: JobContext) -> Mapping[str, Any]:
        # Whether there is such a collection is seen then: a job before this one may make it.
        tell = _teller(context)
        made = index_collection(store, inputs.collection, recall, tell, context.cancelled)
        for text in made.lines:
            context.log(text)
        return made.to_json()

    return work


def _teller(context: JobContext) -> Callable[[Progress], None]:
    return lambda progress: context.report(progress.done, progress.total, progress.message)


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


PROCESSES: dict[str, Process[Any]] = {
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
        Process(
            id="build-index",
            title="Index a collection",
            description="Build the search index of a large collection and measure how complete "
            "its answers are. The old index serves until the new one is whole; running it again "
            "goes on where a dismissed job stopped.",
            inputs=BuildIndexInputs,
            output=IndexReport,
            prepare=_build_index,
        ),
    )
}
