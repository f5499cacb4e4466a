"""Persist, commit, then wake: what waits is in the database before a worker hears of it, and it hears once."""

from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from app import queue
from app.db.session import read_session, write_session
from app.repositories import imports, leases
from app.settings import Settings
from tests.app.routes.helpers import add_demo, failed_job, job_body
from tests.app.test_queue import take_messages
from tests.fixtures.factories import add_job

pytestmark = pytest.mark.usefixtures("database", "folder_object_store", "filesystem_broker")

Ask = Callable[[TestClient], Response]


def post_job(client: TestClient) -> Response:
    add_demo()
    return client.post("/jobs", json=job_body())


def post_dataset(client: TestClient, **columns: str) -> Response:
    rows = b"text,label\nhello,greeting\nbye,farewell\n"
    return client.post("/datasets", files={"train": ("rows.csv", rows)}, data=columns)


def post_teacher(client: TestClient) -> Response:
    return client.post("/teachers", json={"source": {"type": "hub", "repo": "org/name"}})


def upload_teacher(client: TestClient) -> Response:
    return client.post("/teachers/upload", files={"file": ("config.json", b"{}")})


def resume(client: TestClient) -> Response:
    job_id = add_job()
    client.post(f"/jobs/{job_id}/pause")
    return client.post(f"/jobs/{job_id}/resume")


def retry(client: TestClient) -> Response:
    add_demo()
    return client.post(f"/jobs/{failed_job()}/retry")


@pytest.mark.parametrize(
    ("module", "ask"),
    [
        ("jobs", post_job),
        ("receiving", post_dataset),
        ("receiving", upload_teacher),
        ("teachers", post_teacher),
        ("job_control", resume),
        ("job_control", retry),
    ],
)
def test_workers_hear_once_of_work_that_they_can_find(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, module: str, ask: Ask
) -> None:
    """Harm: a worker that hears too early finds nothing and goes back to sleep; one that does not hear looks seconds
    later."""
    waiting = []

    def look_and_wake(settings: Settings) -> bool:
        with read_session(settings) as session:
            waiting.append(leases.count_waiting(session))
        return queue.wake(settings)

    monkeypatch.setattr(f"app.services.{module}.wake", look_and_wake)
    assert ask(client).status_code == 202
    assert waiting == [1]
    assert len(take_messages()) == 1


def post_job_on_nothing(client: TestClient) -> Response:
    return client.post("/jobs", json=job_body())


def post_dataset_of_one_column(client: TestClient) -> Response:
    return post_dataset(client, text_column="text", label_column="text")


def post_teacher_of_no_job(client: TestClient) -> Response:
    return client.post("/teachers", json={"source": {"type": "job", "job": "job_unknown"}})


def resume_what_failed(client: TestClient) -> Response:
    return client.post(f"/jobs/{failed_job()}/resume")


def resume_what_waits(client: TestClient) -> Response:
    return client.post(f"/jobs/{add_job()}/resume")


def retry_what_waits(client: TestClient) -> Response:
    add_demo()
    return client.post(f"/jobs/{add_job()}/retry")


def retry_without_its_dataset(client: TestClient) -> Response:
    """The job is queued, and the transaction then rolled back."""
    add_demo()
    job_id = failed_job()
    with write_session() as session:
        imports.remove(session, "dataset", "dts_demo")
    return client.post(f"/jobs/{job_id}/retry")


@pytest.mark.parametrize(
    ("ask", "status"),
    [
        (post_job_on_nothing, 404),
        (post_dataset_of_one_column, 422),
        (post_teacher_of_no_job, 404),
        (resume_what_failed, 409),
        (resume_what_waits, 202),
        (retry_what_waits, 409),
        (retry_without_its_dataset, 409),
    ],
)
def test_workers_hear_nothing_of_what_brings_no_work(client: TestClient, ask: Ask, status: int) -> None:
    """Harm: whoever can send requests that are refused keeps every worker looking."""
    response = ask(client)
    assert response.status_code == status, response.text
    assert take_messages() == []


def test_workers_hear_once_of_a_job_that_is_posted_twice(client: TestClient) -> None:
    add_demo()
    for status in (202, 200):
        response = client.post("/jobs", json=job_body(), headers={"Idempotency-Key": "k1"})
        assert response.status_code == status
    assert len(take_messages()) == 1
