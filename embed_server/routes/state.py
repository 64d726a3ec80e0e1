"""What routes share: the service and the jobs that ``create_app`` put into the app's state."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import Depends, Request
from starlette.responses import JSONResponse

from embed_server.jobs import JobQueue
from embed_server.models import GEOJSON
from embed_server.service import Service


class GeoJsonResponse(JSONResponse):
    """A GeoJSON answer, written as it is: its thousands of features are not validated again."""

    media_type = GEOJSON

    def render(self, content: Any) -> bytes:
        """Write numbers eight times as fast as the standard library; they are most of an answer."""
        return orjson.dumps(content)


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _jobs(request: Request) -> JobQueue:
    jobs: JobQueue = request.app.state.jobs
    return jobs


TheService = Annotated[Service, Depends(_service)]
TheJobs = Annotated[JobQueue, Depends(_jobs)]
