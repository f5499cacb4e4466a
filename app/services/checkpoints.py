"""Read a job's checkpoints."""

from collections.abc import Sequence

from app.db.models import Checkpoint
from app.db.session import read_session
from app.repositories import checkpoints
from app.services.jobs import find_job
from app.settings import Settings


def list_for_job(settings: Settings, job_id: str) -> Sequence[Checkpoint]:
    """The job's checkpoints, the newest first; JobNotFound when there is no such job."""
    with read_session(settings) as session:
        find_job(session, job_id)
        return checkpoints.list_for_job(session, job_id)
