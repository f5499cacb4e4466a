"""Jobs for scripted engines: a dataset and a teacher with files of their own in the store, and the API to post with."""

import hashlib
from collections.abc import Sequence

from fastapi.testclient import TestClient
from sqlalchemy import select

from app.db.models import Artifact, Attempt, Checkpoint
from app.db.session import read_session
from app.domain.files import StoredFile
from app.main import create_app
from app.settings import get_settings
from app.storage.store import ObjectStore
from app.sweep import sweep_once
from tests.app.routes.helpers import add_demo, job_body
from tests.fixtures.factories import make_cleanups_due


def api() -> TestClient:
    """The application with the settings of the test; nothing sweeps."""
    return TestClient(create_app(get_settings()), raise_server_exceptions=False)


def store() -> ObjectStore:
    return ObjectStore.from_settings(get_settings())


def add_inputs() -> None:
    """A ready teacher and dataset, whose files are there to be fetched but are no model and no rows."""
    prefixes = {"dataset": "datasets/dts_demo/imported/prepared", "teacher": "teachers/tch_demo/imported"}
    values = {}
    for kind, prefix in prefixes.items():
        content = f"what a {kind} would hold".encode()
        store().put_bytes(f"{prefix}/{kind}.bin", content)
        file: StoredFile = {
            "path": f"{kind}.bin",
            "size_bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        values[kind] = {"object_prefix": prefix, "files": [file]}
    add_demo(**values)


def post_job(client: TestClient, **changes: object) -> str:
    response = client.post("/jobs", json=job_body(**changes))
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def attempts_of(job_id: str) -> list[tuple[int, str, str | None]]:
    """(number, outcome, error code), the oldest first."""
    query = select(Attempt.number, Attempt.outcome, Attempt.error_code).where(Attempt.job_id == job_id)
    with read_session() as session:
        return [(row[0], row[1], row[2]) for row in session.execute(query.order_by(Attempt.number))]


def checkpoint_steps(job_id: str) -> list[int]:
    with read_session() as session:
        return sorted(session.scalars(select(Checkpoint.step).where(Checkpoint.job_id == job_id)))


def artifacts_of(job_id: str) -> Sequence[Artifact]:
    with read_session() as session:
        return session.scalars(select(Artifact).where(Artifact.job_id == job_id)).all()


def check_student(job_id: str) -> None:
    """Every file of the job's student is in the store, byte for byte as its row says, and no other object of it."""
    rows = artifacts_of(job_id)
    assert sorted(row.name for row in rows) == ["config.json", "onnx/model.onnx", "student.tar.gz"]
    for row in rows:
        content = store().get_bytes(row.object_key)
        assert (len(content), hashlib.sha256(content).hexdigest()) == (row.size_bytes, row.sha256), row.name
    assert objects_after_sweep(job_id) == sorted(row.object_key for row in rows)


def objects_after_sweep(job_id: str) -> list[str]:
    """What is left under a job once the sweep's delay is over."""
    make_cleanups_due()
    sweep_once()
    return sorted(stored.key for stored in store().list(f"jobs/{job_id}"))
