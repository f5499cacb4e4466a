import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db.session import write_session
from app.main import create_app
from app.repositories import datasets, jobs, teachers
from app.schemas.job_bodies import JOB_EXAMPLE, KD_EXAMPLE
from app.settings import get_settings
from tests.app.routes.helpers import add_demo, failed_job, running_job, succeeded_job
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_dataset, add_job, add_teacher, claimed, ready_dataset, ready_teacher

pytestmark = pytest.mark.usefixtures("sqlite_database")


def objects_in(schema: dict[str, Any], part: Any) -> dict[str, dict[str, Any]]:
    """The named objects that a part of the description is made of, and those in them."""
    found: dict[str, dict[str, Any]] = {}
    names = re.findall(r"#/components/schemas/(\w+)", str(part))
    while names:
        name = names.pop()
        if name not in found:
            found[name] = schema["components"]["schemas"][name]
            names += re.findall(r"#/components/schemas/(\w+)", str(found[name]))
    return {name: value for name, value in found.items() if "properties" in value}


def operations(schema: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation) for path, methods in schema["paths"].items() for method, operation in methods.items()
    ]


def path_parameters(client: TestClient, path: str) -> list[dict[str, Any]]:
    operation = client.get("/openapi.json").json()["paths"][path]["post"]
    return [parameter for parameter in operation["parameters"] if parameter["in"] == "path"]


def job_examples(client: TestClient) -> list[dict[str, Any]]:
    body = client.get("/openapi.json").json()["paths"]["/jobs"]["post"]["requestBody"]
    return [example["value"] for example in body["content"]["application/json"]["examples"].values()]


def paused_job() -> str:
    job_id = add_job()
    with write_session() as session:
        jobs.request_pause(session, job_id)
    return job_id


class TestDocs:
    def test_needs_nothing_from_outside(self, client: TestClient) -> None:
        page = client.get("/docs").text
        references = re.findall(r'(?:src|href|url)="([^"]+)"', page)
        assert len(references) >= 5
        for reference in references:
            assert reference.startswith("/")
            assert client.get(reference).status_code == 200
        assert not re.search(r"https?://", page)

    def test_serves_every_file_of_the_page_with_its_type(self, client: TestClient) -> None:
        for name, media_type in {
            "swagger-ui.css": "text/css",
            "swagger-ui-bundle.js": "javascript",
            "initializer.js": "javascript",
            "favicon-32x32.png": "image/png",
            "LICENSE": "",
            "NOTICE": "",
        }.items():
            response = client.get(f"/docs/assets/{name}")
            assert response.status_code == 200
            assert media_type in response.headers["Content-Type"]

    def test_allows_no_other_origin_and_no_inline_script(self, client: TestClient) -> None:
        headers = client.get("/docs").headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "<script>" not in client.get("/docs").text

    def test_is_where_the_root_leads(self, client: TestClient) -> None:
        response = client.get("/", follow_redirects=False)
        assert (response.status_code, response.headers["Location"]) == (307, "/docs")


class TestOpenapi:
    def test_describes_every_operation(self, client: TestClient) -> None:
        for _, path, operation in operations(client.get("/openapi.json").json()):
            assert operation["summary"], path
            assert operation["description"], path
            assert len(operation["tags"]) == 1, path
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorResponse"}, path

    def test_leaves_out_no_refusal_of_a_value(self, client: TestClient) -> None:
        """What has but names and headers of any form in it has no value that could be refused."""
        schema = client.get("/openapi.json").json()
        assert "ValidationError" not in str(schema)
        for _, path, operation in operations(schema):
            if "422" not in operation["responses"]:
                assert "requestBody" not in operation, path
                for parameter in operation.get("parameters", []):
                    assert parameter["in"] != "query", path
                    assert not {"pattern", "minLength", "maxLength", "integer"} & set(
                        re.findall(r"\w+", str(parameter))
                    )

    def test_lets_responses_grow_but_not_requests(self, client: TestClient) -> None:
        """Harm: clients that were generated from this description refuse every job once a later release says more of
        it; and a misspelt field of a request is let through by them."""
        schema = client.get("/openapi.json").json()
        described = [operation for _, _, operation in operations(schema)]
        answered = objects_in(schema, [operation["responses"] for operation in described])
        sent = objects_in(schema, [operation.get("requestBody") for operation in described])
        assert {"JobRead", "JobPage", "JobLinks", "ErrorResponse", "MethodRead", "Readiness"} <= set(answered)
        assert {"JobCreate", "TrainingConfig", "Sage", "TeacherCreate", "HubSource"} <= set(sent)
        assert {name for name, value in answered.items() if value.get("additionalProperties") is not True} == set()
        assert {name for name, value in sent.items() if value.get("additionalProperties") is not False} == set()
        assert "may add fields to a response" in schema["info"]["description"].replace("\n", " ")

    def test_has_an_operation_id_for_each(self, client: TestClient) -> None:
        ids = [operation["operationId"] for _, _, operation in operations(client.get("/openapi.json").json())]
        assert len(ids) == len(set(ids))

    def test_offers_a_file_input_for_each_split(self, client: TestClient) -> None:
        body = client.get("/openapi.json").json()["paths"]["/datasets"]["post"]["requestBody"]
        properties = body["content"]["multipart/form-data"]["schema"]["properties"]
        assert [name for name, value in properties.items() if value.get("format") == "binary"] == [
            "train",
            "validation",
            "test",
            "unlabelled",
        ]

    def test_is_served_while_the_database_is_down(self, change_settings: ChangeSettings) -> None:
        settings = change_settings(database_url="postgresql://nobody@127.0.0.1:1/none")
        assert TestClient(create_app(settings)).get("/openapi.json").status_code == 200


class TestExamples:
    """What "Try it out" sends when nothing is changed."""

    def test_of_post_work_as_they_stand(self, change_settings: ChangeSettings, tmp_path: Path) -> None:
        (tmp_path / "bert").mkdir()
        (tmp_path / "bert" / "config.json").write_text("{}")
        change_settings(teacher_dirs=tmp_path)
        client = TestClient(create_app(get_settings()))
        add_demo()
        sent = 0
        for method, path, operation in operations(client.get("/openapi.json").json()):
            content = operation.get("requestBody", {}).get("content", {})
            for example in content.get("application/json", {}).get("examples", {}).values():
                response = client.request(method, path, json=example["value"])
                assert response.status_code == 202, response.text
                sent += 1
        assert sent == 4

    @pytest.mark.parametrize("has_pending_demo", [False, True])
    def test_of_post_jobs_name_ready_ones_where_the_demo_s_are_not(
        self, client: TestClient, has_pending_demo: bool
    ) -> None:
        """Harm: in a service without the demo the first job that one tries out is answered 404."""
        dataset_id = add_dataset()
        ready_dataset(claimed())
        teacher_id = add_teacher()
        ready_teacher(claimed(), layers=2)
        add_dataset()
        add_teacher()
        if has_pending_demo:
            with write_session() as session:
                datasets.create(session, dataset_id="dts_demo", name=None, uploads=[], size_bytes=1)
                teachers.create(session, teacher_id="tch_demo", name=None, source={"type": "folder", "path": "/t"})
        examples = job_examples(client)
        assert [example["student"]["layers"] for example in examples] == [2, 2]
        for example in examples:
            assert (example["teacher"], example["dataset"]) == (teacher_id, dataset_id)
            response = client.post("/jobs", json=example)
            assert response.status_code == 202, response.text
        [parameter] = client.get("/openapi.json").json()["paths"]["/datasets/{dataset_id}"]["get"]["parameters"]
        assert parameter["example"] == dataset_id

    def test_of_post_jobs_name_the_demo_s_where_nothing_is_ready(self, client: TestClient) -> None:
        add_dataset()
        add_teacher()
        assert job_examples(client) == [JOB_EXAMPLE, KD_EXAMPLE]

    def test_of_post_jobs_name_the_demo_s_where_newer_ones_are_ready_too(self, client: TestClient) -> None:
        add_demo()
        add_dataset()
        ready_dataset(claimed())
        add_teacher()
        ready_teacher(claimed())
        assert job_examples(client) == [JOB_EXAMPLE, KD_EXAMPLE]

    def test_of_get_name_what_exists(self, client: TestClient) -> None:
        add_demo()
        succeeded_job({"student.tar.gz": b"all"})
        read = 0
        for method, path, operation in operations(client.get("/openapi.json").json()):
            if method != "get":
                continue
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path":
                    example = parameter.get("example") or next(iter(parameter["examples"].values()))["value"]
                    path = path.replace(f"{{{parameter['name']}}}", example)
            assert client.get(path).status_code == 200, path
            read += 1
        assert read >= 15

    @pytest.mark.parametrize("verb", ["pause", "resume", "retry"])
    def test_of_what_controls_a_job_name_one_that_it_works_on(self, client: TestClient, verb: str) -> None:
        """Harm: "Try it out" stays red until one has looked up and pasted an id, or answers 409."""
        add_demo()
        succeeded_job()
        running_job()
        make = {"pause": running_job, "resume": paused_job, "retry": failed_job}
        path = f"/jobs/{{job_id}}/{verb}"
        if verb != "pause":
            [parameter] = path_parameters(client, path)
            assert "example" not in parameter, "there is none"
        expected = make[verb]()
        [parameter] = path_parameters(client, path)
        assert parameter["example"] == expected
        response = client.post(path.replace("{job_id}", parameter["example"]))
        assert response.status_code == 202, response.text
        assert response.json()["status"] == {"pause": "pausing", "resume": "queued", "retry": "queued"}[verb]

    def test_are_found_behind_a_folder_that_cannot_be_looked_at(
        self, change_settings: ChangeSettings, tmp_path: Path
    ) -> None:
        """Harm: a lost+found, or any folder of somebody else, among the teachers, and the page shows nothing at all."""
        (tmp_path / "bert").mkdir()
        (tmp_path / "bert" / "config.json").write_text("{}")
        too_long = tmp_path / ("x" * 300)  # also root may not
        client = TestClient(create_app(change_settings(teacher_dirs=f"{too_long}:{tmp_path}")))
        assert str(tmp_path / "bert") in client.get("/openapi.json").text

    def test_leave_what_deletes_or_cancels_to_the_reader(self, client: TestClient) -> None:
        add_demo()
        succeeded_job()
        schema = client.get("/openapi.json").json()
        for method, path, operation in operations(schema):
            if method == "delete" or path.endswith("/cancel"):
                assert all("example" not in parameter for parameter in operation["parameters"])
