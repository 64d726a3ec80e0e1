"""The parameters SERVER, STORE and COLLECTION, and a client for what they name."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import Any, Iterator

from qgis.core import (
    QgsProcessingFeedback,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterFile,
    QgsProcessingParameterString,
)

from ..core.client import Client
from ..core.errors import ProblemError, RequestError
from ..core.server_process import ServerProcess
from ..core.settings import Settings
from ..core.shared import lent_on
from ..core.wire import Collection, JobStatus, ReadyFile, only_choice

SERVER, STORE, COLLECTION = "SERVER", "STORE", "COLLECTION"
OPTIONS = {
    "--merge-classes": "NAMES 'Join'",
    "--keep-classes": "NAMES 'Keep apart'",
    "--with": "OTHERS",
    "--out": "the output",
    "--bbox": "EXTENT",
    "--chip": "the chip size",
    "--labels-crs": "gdal_edit.py -a_srs",
}
"""Options of the command that have another name than the parameter."""


def server_parameters(collection: bool = True) -> list[QgsProcessingParameterDefinition]:
    """Return the definitions of SERVER, STORE and, if wanted, COLLECTION."""
    folder = QgsProcessingParameterFile.Behavior.Folder
    parameters: list[QgsProcessingParameterDefinition] = [
        QgsProcessingParameterFile(
            SERVER, "Ready file of a running server (empty: one on the store)", optional=True
        ),
        QgsProcessingParameterFile(
            STORE,
            "Store folder, when no server is given",
            behavior=folder,
            defaultValue=Settings.load().store or None,
            optional=True,
        ),
    ]
    if collection:
        title = "Collection (empty: the only one in the store, or the world)"
        parameters.append(QgsProcessingParameterString(COLLECTION, title, optional=True))
    return parameters


@contextmanager
def client_for(server: str, store: str, feedback: QgsProcessingFeedback) -> Iterator[Client]:
    """Give a client for a ready file or, when that is empty, for a server on a store.

    That is the panel's, if it runs on this store, else one that is started here and stopped at the
    end of the block. Raises PluginError.
    """
    if not server and not store:
        raise RequestError(
            "Neither SERVER nor STORE is given. Give the ready file of a running server, or the "
            "folder of a store to start one on."
        )
    running = ReadyFile.read(server) if server else lent_on(store)
    if running is not None:
        client = Client(running, feedback.isCanceled)
        client.check()
        yield client
        return
    feedback.pushInfo(f"Starting a server on {store} ...")
    process = ServerProcess(Settings.load().command, store, feedback.pushDebugInfo)
    try:
        client = Client(process.wait_ready(feedback.isCanceled), feedback.isCanceled)
        client.check()
        yield client
    finally:
        process.stop()


def run_job(
    client: Client, process: str, inputs: dict[str, Any], feedback: QgsProcessingFeedback
) -> dict[str, Any]:
    """Run a process of the server with its progress and its log shown; return its report.

    Inputs that are None are left out. Raises PluginError.
    """
    told: set[str] = set()

    def show(job: JobStatus) -> None:
        feedback.setProgress(job.progress)
        if not job.has_ended:
            feedback.setProgressText(job.message)
        for line in job.log:
            if line not in told:
                told.add(line)
                feedback.pushInfo(in_parameters(line.partition(" ")[2]))

    given = {name: value for name, value in inputs.items() if value is not None}
    try:
        return client.run(process, given, show)
    except ProblemError as error:
        raise ProblemError(in_parameters(str(error)), error.status, error.code) from None


def in_parameters(text: str) -> str:
    """Call the options of the command, which the server's messages name, as algorithms do."""

    def called(found: re.Match[str]) -> str:
        return OPTIONS.get(found[0], found[1].replace("-", "_").upper())

    return re.sub(r"--([a-z][a-z-]*[a-z])", called, text)


def choose_collection(client: Client, wanted: str) -> Collection:
    """Return the collection of that name, or the only one of the store, or the world alone.

    Raises RequestError.
    """
    collections = client.collections()
    names = [collection.id for collection in collections]
    if wanted in names:
        return collections[names.index(wanted)]
    only = None if wanted else only_choice(collections)
    if only is not None:
        return only
    asked = f"There is no collection '{wanted}'." if wanted else "COLLECTION is empty."
    there = ", ".join(names) or "none yet: make one with 'terrakin embed raster'"
    raise RequestError(f"{asked} Collections of this server: {there}.")
