"""Artifacts: the files of a finished job's student. Rows appear with the job's success, all at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from app.db.models import Artifact


@dataclass(frozen=True)
class ArtifactRow:
    name: str
    object_key: str
    size_bytes: int
    sha256: str


def add(session: Session, job_id: str, artifacts: Sequence[ArtifactRow]) -> None:
    """Insert a job's artifacts. Called by `jobs.finish_succeeded`, behind its fence."""
    if artifacts:
        session.execute(
            insert(Artifact),
            [
                {
                    "job_id": job_id,
                    "name": artifact.name,
                    "object_key": artifact.object_key,
                    "size_bytes": artifact.size_bytes,
                    "sha256": artifact.sha256,
                }
                for artifact in artifacts
            ],
        )


def list_for_job(session: Session, job_id: str) -> Sequence[Artifact]:
    """The job's artifacts by name."""
    return session.scalars(select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.name)).all()


def get(session: Session, job_id: str, name: str) -> Artifact | None:
    return session.get(Artifact, (job_id, name))
