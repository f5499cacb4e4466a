"""The errors that /docs shows are what the routes answer."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

pytestmark = pytest.mark.usefixtures("sqlite_database")

JSON = {"Content-Type": "application/json"}
FOREIGN = {"Sec-Fetch-Site": "cross-site", "Origin": "https://example.org"}
JOB = {"teacher": "tch_x", "dataset": "dts_x", "student": {"layers": 3}}
FORM = {"Content-Type": "multipart/form-data; boundary=x"}

# method, path, operation, what is sent, status
REFUSALS: list[tuple[str, str, str, dict[str, Any], int]] = [
    ("post", "/jobs", "/jobs", {"content": "nope", "headers": JSON}, 400),
    ("post", "/jobs", "/jobs", {"json": JOB, "headers": FOREIGN}, 403),
    ("post", "/jobs", "/jobs", {"json": JOB}, 404),
    ("post", "/jobs", "/jobs", {"json": {"teacher": "x" * 1024**2}}, 413),
    ("post", "/jobs", "/jobs", {"content": "x", "headers": {"Content-Type": "text/plain"}}, 415),
    ("post", "/jobs", "/jobs", {"json": JOB | {"method": {"type": "sage", "rounds": 0}}}, 422),
    ("get", "/jobs/job_x", "/jobs/{job_id}", {}, 404),
    ("post", "/datasets", "/datasets", {"content": b"--x\r\n", "headers": FORM}, 400),
    ("post", "/datasets", "/datasets", {"json": {}}, 415),
    ("post", "/datasets", "/datasets", {"files": {"test": ("a.csv", b"x")}}, 422),
    ("get", "/datasets/dts_x", "/datasets/{dataset_id}", {}, 404),
    ("post", "/teachers", "/teachers", {"json": {}}, 422),
    ("get", "/teachers/tch_x", "/teachers/{teacher_id}", {}, 404),
]


@pytest.mark.parametrize(("method", "path", "operation", "sent", "status"), REFUSALS)
def test_are_what_is_answered(
    method: str, path: str, operation: str, sent: dict[str, Any], status: int, client: TestClient
) -> None:
    """Harm: a client that is written by an example which never comes."""
    response = client.request(method, path, **sent)
    assert response.status_code == status
    answered = response.json()["error"]
    documented = client.get("/openapi.json").json()["paths"][operation][method]["responses"][str(status)]
    shown = documented["content"]["application/json"]["example"]["error"]
    # The framework leaves what is null out of an example.
    assert {"param": None, **shown, "request_id": ""} == {**answered, "request_id": ""}


def test_every_operation_says_that_it_may_refuse_a_foreign_page(client: TestClient) -> None:
    for methods in client.get("/openapi.json").json()["paths"].values():
        assert all("403" in operation["responses"] for operation in methods.values())
