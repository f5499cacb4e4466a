"""The errors that /docs shows are what the routes answer."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db.session import write_session
from app.domain.leases import Claim
from app.main import create_app
from app.repositories import jobs
from app.repositories.artifacts import ArtifactRow
from app.schemas.error_examples import JOB_ID
from app.settings import get_settings
from tests.app.routes.helpers import add_demo, job_body
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import claimed
from tests.fixtures.servers import free_port

pytestmark = pytest.mark.usefixtures("sqlite_database", "filesystem_broker")

JSON = {"Content-Type": "application/json"}
TEXT = {"Content-Type": "text/plain"}
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
KEY = {"Idempotency-Key": "my-first-job"}
JOB = {"teacher": "tch_x", "dataset": "dts_x", "student": {"layers": 3}}
LARGE = {"json": {"teacher": "x" * 1024**2}}
FOREIGN_PAGE = {"Sec-Fetch-Site": "cross-site", "Origin": "https://example.org"}
FOREIGN_HOST = {"Host": "stillhouse.example"}
# Met by every operation, or by none unless something is broken: other tests bring them about.
ELSEWHERE = {"403", "408", "500", "503"}


def nothing() -> None:
    """What there is in a service that is new."""


def queued() -> None:
    add_demo()
    with write_session() as session:
        jobs.create(
            session,
            job_id=JOB_ID,
            teacher_id="tch_demo",
            dataset_id="dts_demo",
            student={"layers": 3},
            method={"type": "sage"},
            training={"epochs": 1},
        )


def running() -> Claim:
    queued()
    return claimed()


def succeeded() -> None:
    claim = running()
    with write_session() as session:
        artifacts = [ArtifactRow("student.tar.gz", "students/1", 4, "ab" * 32)]
        jobs.finish_succeeded(session, claim, result={}, artifacts=artifacts)


def failed() -> None:
    claim = running()
    with write_session() as session:
        jobs.finish_failed(session, claim, code="nan_loss", message="The loss was NaN.")


def posted() -> None:
    add_demo()
    client = TestClient(create_app(get_settings()))
    assert client.post("/jobs", json=job_body(), headers=KEY).status_code == 202


@dataclass(frozen=True)
class Refusal:
    """A request that is answered with an error, and what there is beforehand."""

    operation: str
    status: int
    sent: dict[str, Any] = field(default_factory=dict)
    given: Callable[[], object] = nothing

    @property
    def method(self) -> str:
        return self.operation.split(" ")[0]

    @property
    def path(self) -> str:
        found = {"job_id": JOB_ID, "dataset_id": "dts_demo", "teacher_id": "tch_demo", "name": "student.tar.gz"}
        missing = {"job_id": "job_x", "dataset_id": "dts_x", "teacher_id": "tch_x", "name": "student.tar.gz"}
        return self.operation.split(" ")[1].format_map(missing if self.given is nothing else found)


REFUSALS = [
    Refusal("POST /jobs", 400, {"content": "nope", "headers": JSON}),
    Refusal("POST /jobs", 404, {"json": JOB}),
    Refusal("POST /jobs", 409, {"json": job_body(priority=1), "headers": KEY}, posted),
    Refusal("POST /jobs", 413, LARGE),
    Refusal("POST /jobs", 415, {"content": "x", "headers": TEXT}),
    Refusal("POST /jobs", 422, {"json": JOB | {"method": {"type": "sage", "rounds": 0}}}),
    Refusal("GET /jobs", 422, {"params": {"state": "queued"}}),
    Refusal("GET /jobs/{job_id}", 404),
    Refusal("DELETE /jobs/{job_id}", 404),
    Refusal("DELETE /jobs/{job_id}", 409, given=running),
    Refusal("POST /jobs/{job_id}/cancel", 404),
    Refusal("POST /jobs/{job_id}/cancel", 409, given=succeeded),
    Refusal("POST /jobs/{job_id}/pause", 404),
    Refusal("POST /jobs/{job_id}/pause", 409, given=succeeded),
    Refusal("POST /jobs/{job_id}/resume", 404),
    Refusal("POST /jobs/{job_id}/resume", 409, given=failed),
    Refusal("POST /jobs/{job_id}/retry", 400, {"content": "nope", "headers": JSON}, failed),
    Refusal("POST /jobs/{job_id}/retry", 404),
    Refusal("POST /jobs/{job_id}/retry", 409, given=succeeded),
    Refusal("POST /jobs/{job_id}/retry", 413, LARGE, failed),
    Refusal("POST /jobs/{job_id}/retry", 415, {"content": "x", "headers": TEXT}, failed),
    Refusal("POST /jobs/{job_id}/retry", 422, {"json": {"from_start": "yes"}}, failed),
    Refusal("GET /jobs/{job_id}/events", 404),
    Refusal("GET /jobs/{job_id}/events", 422, {"params": {"limit": 5000}}, queued),
    Refusal("GET /jobs/{job_id}/metrics", 404),
    Refusal("GET /jobs/{job_id}/metrics", 422, {"params": {"from_step": 500, "to_step": 100}}, queued),
    Refusal("GET /jobs/{job_id}/attempts", 404),
    Refusal("GET /jobs/{job_id}/attempts", 422, {"params": {"limit": 5}}, queued),
    Refusal("GET /jobs/{job_id}/checkpoints", 404),
    Refusal("GET /jobs/{job_id}/checkpoints", 422, {"params": {"limit": 5}}, queued),
    Refusal("GET /jobs/{job_id}/artifacts", 404),
    Refusal("GET /jobs/{job_id}/artifacts", 422, {"params": {"limit": 5}}, queued),
    Refusal("GET /jobs/{job_id}/artifacts/{name}", 404, given=queued),
    Refusal("GET /jobs/{job_id}/artifacts/{name}", 416, {"headers": {"Range": "bytes=9-"}}, succeeded),
    Refusal("POST /datasets", 400, {"content": b"--x\r\n", "headers": FORM}),
    Refusal("POST /datasets", 413, {"content": b"", "headers": {**FORM, "Content-Length": str(2**32)}}),
    Refusal("POST /datasets", 415, {"json": {}}),
    Refusal("POST /datasets", 422, {"files": {"test": ("a.csv", b"x")}}),
    Refusal("POST /teachers/upload", 400, {"content": b"--x\r\n", "headers": FORM}),
    Refusal("POST /teachers/upload", 413, {"content": b"", "headers": {**FORM, "Content-Length": str(2**32)}}),
    Refusal("POST /teachers/upload", 415, {"json": {}}),
    Refusal("POST /teachers/upload", 422, {"files": {"file": ("pytorch_model.bin", b"x")}}),
    Refusal("GET /datasets", 422, {"params": {"after": "2"}}),
    Refusal("GET /datasets/{dataset_id}", 404),
    Refusal("DELETE /datasets/{dataset_id}", 404),
    Refusal("DELETE /datasets/{dataset_id}", 409, given=queued),
    Refusal("POST /teachers", 400, {"content": "nope", "headers": JSON}),
    Refusal("POST /teachers", 404, {"json": {"source": {"type": "job", "job": "job_x"}}}),
    Refusal("POST /teachers", 409, {"json": {"source": {"type": "job", "job": JOB_ID}}}, running),
    Refusal("POST /teachers", 413, LARGE),
    Refusal("POST /teachers", 415, {"content": "x", "headers": TEXT}),
    Refusal("POST /teachers", 422, {"json": {}}),
    Refusal("GET /teachers", 422, {"params": {"limit": 0}}),
    Refusal("GET /teachers/{teacher_id}", 404),
    Refusal("DELETE /teachers/{teacher_id}", 404),
    Refusal("DELETE /teachers/{teacher_id}", 409, given=queued),
    Refusal("GET /methods", 422, {"params": {"limit": 5}}),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal.operation}-{refusal.status}")
def test_are_what_is_answered(refusal: Refusal, client: TestClient) -> None:
    """Harm: a client that is written by an example which never comes."""
    refusal.given()
    response = client.request(refusal.method, refusal.path, **refusal.sent)
    assert response.status_code == refusal.status, response.text
    assert shown(client, refusal.operation, refusal.status) == said(response.json())


def test_leave_out_no_error_of_any_operation(client: TestClient) -> None:
    """Harm: a new route shows what others answer, and nobody has looked whether it does too."""
    documented = {
        (operation, status)
        for operation, description in operations(client).items()
        for status in description["responses"]
        if int(status) >= 400
    }
    provoked = {(refusal.operation, str(refusal.status)) for refusal in REFUSALS}
    assert {error for error in documented if error[1] not in ELSEWHERE} == provoked


def test_of_a_foreign_page_or_host_are_what_every_operation_answers(client: TestClient) -> None:
    for operation in operations(client):
        method, path = operation.split(" ")
        headers = FOREIGN_HOST if method == "GET" else FOREIGN_PAGE
        response = client.request(method, f"http://127.0.0.1:8000{re.sub('{.*?}', 'x', path)}", headers=headers)
        assert response.status_code == 403, operation
        assert shown(client, operation, 403) == said(response.json()), operation


def test_of_readiness_is_what_is_answered_without_a_database(change_settings: ChangeSettings) -> None:
    settings = change_settings(database_url=f"postgresql://me@127.0.0.1:{free_port()}/none")
    client = TestClient(create_app(settings))
    response = client.get("/readyz")
    assert response.status_code == 503
    assert shown(client, "GET /readyz", 503) == said(response.json())


def operations(client: TestClient) -> dict[str, dict[str, Any]]:
    """Every documented operation, as "GET /jobs"."""
    paths: dict[str, dict[str, Any]] = client.get("/openapi.json").json()["paths"]
    return {f"{method.upper()} {path}": found for path, methods in paths.items() for method, found in methods.items()}


def shown(client: TestClient, operation: str, status: int) -> dict[str, Any]:
    """The documented example, without the id of its request."""
    example = operations(client)[operation]["responses"][str(status)]["content"]["application/json"]["example"]
    # The framework leaves what is null out of an example.
    return {"param": None, **example["error"], "request_id": ""}


def said(body: dict[str, Any]) -> dict[str, Any]:
    return {**body["error"], "request_id": ""}
