"""Jobs: their status, their results, and their dismissal."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from embed_server.models import Jobs, JobStatus
from embed_server.routes.state import TheJobs

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get("")
def all_jobs(jobs: TheJobs) -> Jobs:
    """List the jobs of this server, oldest first."""
    return jobs.listing()


@router.get("/{job_id}")
def job(job_id: str, jobs: TheJobs) -> JobStatus:
    """Say how a job fares."""
    return jobs.status(job_id)


@router.delete("/{job_id}")
def dismiss(job_id: str, jobs: TheJobs) -> JobStatus:
    """Ask a waiting or running job to stop; forget an ended one."""
    return jobs.dismiss(job_id)


@router.get("/{job_id}/results")
def results(job_id: str, jobs: TheJobs) -> dict[str, Any]:
    """Return the outputs of a successful job by their ids, each as ``{"value": ...}``."""
    return jobs.result(job_id)
