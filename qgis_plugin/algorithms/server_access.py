"""The parameters SERVER, STORE and COLLECTION, and a client for what they name."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator

from qgis.core import (
    QgsProcessingFeedback,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterFile,
    QgsProcessingParameterString,
)

from ..core.client import Client
from ..core.errors import RequestError
from ..core.server_process import ServerProcess
from ..core.settings import Settings
from ..core.wire import Collection, ReadyFile, only_choice

SERVER, STORE, COLLECTION = "SERVER", "STORE", "COLLECTION"


def server_parameters() -> list[QgsProcessingParameterDefinition]:
    """Return the definitions of SERVER, STORE and COLLECTION."""
    folder = QgsProcessingParameterFile.Behavior.Folder
    return [
        QgsProcessingParameterFile(
            SERVER, "Ready file of a running server (empty: start one on the store)", optional=True
        ),
        QgsProcessingParameterFile(
            STORE,
            "Store folder, when no server is given",
            behavior=folder,
            defaultValue=Settings.load().store or None,
            optional=True,
        ),
        QgsProcessingParameterString(
            COLLECTION, "Collection (empty: the only one in the store, or the world)", optional=True
        ),
    ]


@contextmanager
def client_for(server: str, store: str, feedback: QgsProcessingFeedback) -> Iterator[Client]:
    """Give a client for a ready file or, when that is empty, for a server started on a store.

    A server started here is stopped at the end of the block. Raises PluginError.
    """
    if not server and not store:
        raise RequestError(
            "Neither SERVER nor STORE is given. Give the ready file of a running server, or the "
            "folder of a store to start one on."
        )
    if server:
        client = Client(ReadyFile.read(server), feedback.isCanceled)
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
