"""What the tests of the routes have in common: rows to begin with, and how an error is checked."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from sqlalchemy import Connection, event

from app.db.session import get_engine, write_session
from app.repositories import datasets, jobs, teachers
from app.repositories.artifacts import ArtifactRow
from app.settings import get_settings
from app.storage import keys
from app.storage.store import ObjectStore
from tests.fixtures.factories import add_job, claimed, ready_dataset, ready_teacher


class AnswerLike(Protocol):
    """A response of the test client, or of one over a socket."""

    @property
    def status_code(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    def json(self) -> Any: ...


DEMO_LABELS = ["balance", "transfer"]


def add_demo(*, dataset: dict[str, Any] | None = None, teacher: dict[str, Any] | None = None) -> None:
    """A ready dts_demo and tch_demo (a pretrained encoder of 6 layers), with some of their values replaced."""
    with write_session() as session:
        datasets.create(session, dataset_id="dts_demo", name="demo", uploads=[], size_bytes=1)
    ready_dataset(claimed(), **{"labels": DEMO_LABELS, **(dataset or {})})
    with write_session() as session:
        teachers.create(session, teacher_id="tch_demo", name="demo", source={"type": "folder", "path": "/t"})
    ready_teacher(claimed(), **(teacher or {}))


def job_body(**changes: Any) -> dict[str, Any]:
    """A body that POST /jobs accepts beside `add_demo()`."""
    body = {"teacher": "tch_demo", "dataset": "dts_demo", "student": {"layers": 3}, "teacher_tuning": {}}
    return {**body, **changes}


def running_job() -> str:
    job_id = add_job()
    claimed()
    return job_id


def succeeded_job(files: dict[str, bytes] | None = None) -> str:
    """A job that has succeeded with these artifacts, their objects stored."""
    job_id = add_job()
    claim = claimed()
    store = ObjectStore.from_settings(get_settings())
    rows = []
    for name, content in (files or {}).items():
        key = keys.job_artifact(job_id, claim.run_token, name)
        store.put_bytes(key, content)
        rows.append(ArtifactRow(name, key, len(content), hashlib.sha256(content).hexdigest()))
    with write_session() as session:
        jobs.finish_succeeded(session, claim, result={"teacher": {}}, artifacts=rows)
    return job_id


def failed_job() -> str:
    job_id = add_job()
    claim = claimed()
    with write_session() as session:
        jobs.finish_failed(session, claim, code="nan_loss", message="The loss was NaN. Lower learning_rate.")
    return job_id


@contextmanager
def commit_answers_lost(*, but_first: int = 0) -> Iterator[None]:
    """For the block, PostgreSQL commits, and the connection is lost before it says so; not so the `but_first` first."""
    answered = 0

    def commit_and_lose(connection: Connection) -> None:
        nonlocal answered
        driver = connection.connection.dbapi_connection
        assert driver is not None
        if answered < but_first:
            answered += 1
            return
        driver.commit()
        driver.close()

    event.listen(get_engine(), "commit", commit_and_lose)
    try:
        yield
    finally:
        event.remove(get_engine(), "commit", commit_and_lose)


def check_error(response: AnswerLike, *, status: int, code: str, param: str | None, message: list[str]) -> None:
    """The one error shape, with this status, code and param, and a message that holds each of the texts."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"type", "code", "message", "param", "request_id"}
    assert (error["code"], error["param"]) == (code, param), error
    assert error["request_id"] == response.headers["X-Request-ID"]
    for text in message:
        assert text in error["message"], error["message"]
