"""What can run as a job. A process turns its validated inputs into a call of ``embeddings``."""

from __future__ import annotations

from typing import Any

from embed_server.errors import ProcessNotFoundError
from embed_server.processes import changing, embedding, probing
from embed_server.processes.process import Process

PROCESSES: dict[str, Process[Any]] = {
    process.id: process
    for process in (
        embedding.EMBED_RASTER,
        embedding.BUILD_INDEX,
        probing.FIT,
        probing.PREDICT,
        probing.QUEUE,
        probing.SAMPLE,
        probing.ACCURACY,
        changing.RASTER,
        changing.COLLECTION,
    )
}


def find_process(process_id: str) -> Process[Any]:
    """Return a process by its id. Raises ProcessNotFoundError."""
    try:
        return PROCESSES[process_id]
    except KeyError:
        raise ProcessNotFoundError(
            f"There is no process '{process_id}'. There: {', '.join(PROCESSES)}."
        ) from None
