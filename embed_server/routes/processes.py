"""Processes: what can run as a job."""

from __future__ import annotations

from fastapi import APIRouter, Response, status

from embed_server.models import Execution, JobStatus, ProcessDescription, Processes
from embed_server.routes.state import TheJobs, TheService

router = APIRouter(prefix="/processes", tags=["processes"])


@router.get("")
def processes(service: TheService) -> Processes:
    """List the processes."""
    return service.processes()


@router.get("/{process_id}")
def process(process_id: str, service: TheService) -> ProcessDescription:
    """Describe one process."""
    return service.process(process_id)


@router.post("/{process_id}/execution", status_code=status.HTTP_201_CREATED)
def execute(
    process_id: str, execution: Execution, service: TheService, jobs: TheJobs, response: Response
) -> JobStatus:
    """Queue a job that runs the process."""
    job = jobs.submit(process_id, service.work(process_id, execution))
    response.headers["Location"] = next(link.href for link in job.links if link.rel == "self")
    return job
