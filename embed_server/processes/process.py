"""A process: what can run as a job, what it takes and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from embed_server.errors import InvalidRequestError
from embed_server.job import JobContext, Work
from embed_server.models import Link, ProcessDescription, ProcessSummary, Received, Sent
from embeddings import __version__
from embeddings.report import Progress

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


def teller(context: JobContext) -> Callable[[Progress], None]:
    """Return what passes the progress of work on to its job."""
    return lambda progress: context.report(progress.done, progress.total, progress.message)


def check_absolute(name: str, path: str, or_what: str = "") -> None:
    """Raise InvalidRequestError unless an input is an absolute path."""
    if not PurePath(path).is_absolute():
        what = f"neither the absolute path of a file on this machine nor {or_what}"
        if not or_what:
            what = "not the absolute path of a file on this machine"
        raise InvalidRequestError(
            f"inputs.{name}: '{path}' is {what}. The server does not know your working folder; "
            "give the whole path."
        )


def check_sources(name: str, files: Iterable[str]) -> None:
    """Raise InvalidRequestError unless each is an absolute path or an address."""
    for file in files:
        if "://" not in file:
            check_absolute(name, file, "an address (https://...)")


def check_written(store: Path, **paths: str | None) -> None:
    """Raise InvalidRequestError unless a file may be written: absolute, and not in the store."""
    for name, path in paths.items():
        if path is None:
            continue
        check_absolute(name, path)
        if Path(path).resolve().is_relative_to(store.resolve()):
            raise InvalidRequestError(
                f"inputs.{name}: '{path}' lies in the store, whose files belong to its "
                "collections. Choose another folder."
            )
