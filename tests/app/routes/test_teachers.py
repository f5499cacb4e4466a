import hashlib
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.settings import get_settings
from app.storage.store import ObjectStore
from tests.app.routes.helpers import check_error, failed_job, succeeded_job
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job, add_teacher, claimed, ready_teacher


@pytest.fixture
def allowed(tmp_path: Path, change_settings: ChangeSettings) -> Path:
    """A folder from which teachers may be taken."""
    folder = tmp_path / "teachers"
    folder.mkdir()
    change_settings(teacher_dirs=folder)
    return folder


@pytest.mark.usefixtures("database")
class TestCreateTeacher:
    @pytest.mark.parametrize("repo", ["bert-base-uncased", "org/name.v1_2"])
    def test_registers_a_repository_of_the_hub(self, client: TestClient, repo: str) -> None:
        response = client.post("/teachers", json={"source": {"type": "hub", "repo": repo}})
        assert response.status_code == 202
        teacher = response.json()
        assert response.headers["Location"] == f"/teachers/{teacher['id']}"
        assert teacher["source"] == {"type": "hub", "repo": repo, "revision": "main"}
        assert (teacher["name"], teacher["status"], teacher["terminal"]) == (repo, "pending", False)
        assert client.get(f"/teachers/{teacher['id']}").json() == teacher

    def test_registers_an_allowed_folder(self, allowed: Path, client: TestClient) -> None:
        (allowed / "intents").mkdir()
        source = {"type": "folder", "path": str(allowed / "intents")}
        teacher = client.post("/teachers", json={"source": source, "name": "Intents"}).json()
        assert (teacher["source"], teacher["name"]) == (source, "Intents")

    def test_registers_the_student_of_a_finished_job(self, client: TestClient) -> None:
        job_id = succeeded_job()
        response = client.post("/teachers", json={"source": {"type": "job", "job": job_id}})
        assert (response.status_code, response.json()["name"]) == (202, f"student of {job_id}")

    def test_refuses_a_job_that_is_not_there(self, client: TestClient) -> None:
        response = client.post("/teachers", json={"source": {"type": "job", "job": "job_nowhere"}})
        check_error(response, status=404, code="job_not_found", param="source.job", message=["'job_nowhere'"])

    def test_refuses_a_job_without_a_student(self, client: TestClient) -> None:
        job_id = failed_job()
        response = client.post("/teachers", json={"source": {"type": "job", "job": job_id}})
        check_error(response, status=409, code="job_not_succeeded", param="source.job", message=[job_id, "failed"])


def a_file(name: str, content: bytes = b"{}") -> tuple[str, tuple[str, bytes]]:
    return ("file", (name, content))


@pytest.mark.usefixtures("database", "object_store")
class TestUploadTeacher:
    def test_stores_the_files_as_they_are_and_leaves_the_rest_to_a_worker(
        self, client: TestClient, object_store: ObjectStore
    ) -> None:
        weights = b"weights" * 3_000_000  # 21 MB: larger than the parts it is stored in
        files = [a_file("config.json"), a_file("model.safetensors", weights), a_file("tokenizer.json", b"[]")]
        response = client.post("/teachers/upload", files=files, data={"name": "Intents"})
        assert response.status_code == 202
        teacher = response.json()
        assert response.headers["Location"] == f"/teachers/{teacher['id']}"
        assert (teacher["name"], teacher["status"], teacher["terminal"]) == ("Intents", "pending", False)
        sent = {"config.json": b"{}", "model.safetensors": weights, "tokenizer.json": b"[]"}
        assert teacher["source"] == {
            "type": "upload",
            "files": [
                {"path": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for name, content in sent.items()
            ],
        }
        root = f"teachers/{teacher['id']}/uploads"
        stored = {item.key: object_store.get_bytes(item.key) for item in object_store.list("teachers")}
        assert stored == {f"{root}/{name}": content for name, content in sent.items()}
        assert client.get(f"/teachers/{teacher['id']}").json() == teacher


@pytest.mark.usefixtures("sqlite_database", "folder_object_store")
class TestFormOfTeacher:
    def test_may_leave_inputs_empty_as_browsers_and_the_docs_page_do(self, client: TestClient) -> None:
        teacher = client.post(
            "/teachers/upload", files=[a_file("", b""), a_file("config.json")], data={"name": ""}
        ).json()
        assert teacher["name"] == "uploaded"
        assert [file["path"] for file in teacher["source"]["files"]] == ["config.json"]

    @pytest.mark.parametrize(
        ("sent", "code", "param", "message"),
        [
            ({"files": [a_file("", b"")]}, "missing_field", "file", ["no part 'file'", "curl -F file=@config.json"]),
            ({"files": [a_file("config.json", b"")]}, "file_empty", "file", ["'config.json'", "0 bytes"]),
            ({"files": [a_file("pytorch_model.bin")]}, "unsupported_file_type", "file", ["'pytorch_model.bin'"]),
            ({"files": [a_file(".json")]}, "unsupported_file_type", "file", ["'.json'"]),
            ({"files": [a_file("mödel.json")]}, "unsupported_file_type", "file", ["'mödel.json'"]),
            ({"files": [a_file("a/config.json")]}, "bad_file_name", "file", ["'a/config.json'", "folder"]),
            ({"files": [a_file("config.json")] * 2}, "duplicate_part", "file", ["two files", "'config.json'"]),
            ({"files": [a_file(f"{n}.json") for n in range(201)]}, "too_many_files", "file", ["more than 200"]),
            ({"files": [("model", ("config.json", b"{}"))]}, "unknown_field", "model", ["'model'", "file"]),
            ({"files": [("name", ("a.txt", b"x"))]}, "not_a_text", "name", ["'a.txt'"]),
            ({"files": [a_file("config.json")], "data": {"name": ["a", "b"]}}, "duplicate_part", "name", ["twice"]),
            ({"files": [a_file("config.json")], "data": {"name": "x" * 201}}, "out_of_range", "name", ["200"]),
        ],
    )
    def test_is_refused_and_leaves_nothing(
        self,
        sent: dict[str, Any],
        code: str,
        param: str,
        message: list[str],
        client: TestClient,
        folder_object_store: ObjectStore,
    ) -> None:
        response = client.post("/teachers/upload", **sent)
        check_error(response, status=422, code=code, param=param, message=message)
        assert list(folder_object_store.list("teachers")) == []
        assert client.get("/teachers").json()["data"] == []

    def test_has_room_for_all_files_together(
        self, client: TestClient, change_settings: ChangeSettings, folder_object_store: ObjectStore
    ) -> None:
        change_settings(max_upload_bytes=1000)
        client.app.state.settings = get_settings()  # type: ignore[attr-defined]
        files = [a_file("model.safetensors", b"x" * 990), a_file("config.json", b"x" * 11)]
        response = client.post("/teachers/upload", files=files)
        check_error(
            response, status=413, code="upload_too_large", param="file", message=["1000 bytes", "half precision"]
        )
        assert list(folder_object_store.list("teachers")) == []


@pytest.mark.usefixtures("sqlite_database")
class TestFolderOutsideOfTheAllowedOnes:
    def test_is_refused(self, allowed: Path, client: TestClient) -> None:
        for path in ("/etc", "/", str(allowed / ".."), str(allowed.parent / "teachers2")):
            response = client.post("/teachers", json={"source": {"type": "folder", "path": path}})
            check_error(
                response,
                status=422,
                code="folder_not_allowed",
                param="source.path",
                message=[repr(path), str(allowed), "STILLHOUSE_TEACHER_DIRS"],
            )

    def test_is_refused_behind_a_link(self, allowed: Path, client: TestClient) -> None:
        (allowed / "link").symlink_to("/etc")
        (allowed / "loop").symlink_to(allowed / "loop")
        for name in ("link", "link/ssl", "loop"):
            path = str(allowed / name)
            response = client.post("/teachers", json={"source": {"type": "folder", "path": path}})
            assert response.status_code == 422
            assert response.json()["error"]["code"] in ("folder_not_allowed", "folder_not_found")

    def test_is_refused_when_none_is_allowed(self, client: TestClient) -> None:
        response = client.post("/teachers", json={"source": {"type": "folder", "path": "/srv"}})
        check_error(response, status=422, code="folder_not_allowed", param="source.path", message=["none"])

    def test_must_be_absolute(self, client: TestClient) -> None:
        response = client.post("/teachers", json={"source": {"type": "folder", "path": "teachers/x"}})
        check_error(response, status=422, code="folder_not_absolute", param="source.path", message=["'teachers/x'"])

    def test_must_exist_where_api_and_worker_share_the_machine(self, allowed: Path, client: TestClient) -> None:
        path = str(allowed / "missing")
        response = client.post("/teachers", json={"source": {"type": "folder", "path": path}})
        check_error(response, status=422, code="folder_not_found", param="source.path", message=[path])

    def test_must_be_one_that_can_be_looked_at(self, allowed: Path, client: TestClient) -> None:
        path = str(allowed / ("x" * 300))
        response = client.post("/teachers", json={"source": {"type": "folder", "path": path}})
        check_error(
            response, status=422, code="folder_not_found", param="source.path", message=[path, "File name too long"]
        )

    def test_is_judged_also_beside_an_allowed_one_that_leads_nowhere(
        self, allowed: Path, client: TestClient, change_settings: ChangeSettings
    ) -> None:
        (allowed / "loop").symlink_to(allowed / "loop")
        change_settings(teacher_dirs=f"{allowed / 'loop'}:{allowed}")
        client.app.state.settings = get_settings()  # type: ignore[attr-defined]
        (allowed / "intents").mkdir()
        source = {"type": "folder", "path": str(allowed / "intents")}
        assert client.post("/teachers", json={"source": source}).status_code == 202


REFUSED: list[tuple[dict[str, Any], str, str, list[str]]] = [
    ({}, "missing_field", "source", ["source is missing"]),
    ({"source": {"type": "ftp"}}, "unknown_type", "source.type", ['"ftp"', "'hub'", "'folder'", "'job'"]),
    ({"source": {"repo": "a/b"}}, "missing_field", "source.type", ["source.type"]),
    ({"source": {"type": "hub"}}, "missing_field", "source.repo", ["source.repo is missing"]),
    ({"source": {"type": "hub", "repo": "../etc"}}, "wrong_form", "source.repo", ['"../etc"']),
    ({"source": {"type": "hub", "repo": "a/b/c"}}, "wrong_form", "source.repo", ['"a/b/c"']),
    ({"source": {"type": "hub", "repo": "a/b\n"}}, "wrong_form", "source.repo", ['"a/b\\n"']),
    ({"source": {"type": "hub", "repo": "a/b", "revision": "a b"}}, "wrong_form", "source.revision", ['"a b"']),
    ({"source": {"type": "hub", "repo": "a/b", "path": "/"}}, "unknown_field", "source.path", ["repo, revision"]),
    ({"source": {"type": "job", "job": 5}}, "wrong_type", "source.job", ["5 (a number)"]),
    ({"source": {"type": "folder", "path": "/a\x00"}}, "wrong_form", "source.path", ["zero byte"]),
    ({"source": {"type": "hub", "repo": "a/b"}, "name": ""}, "out_of_range", "name", ["at least 1"]),
    ({"source": {"type": "hub", "repo": "a/b"}, "trust_remote_code": True}, "unknown_field", "trust_remote_code", []),
]


@pytest.mark.usefixtures("sqlite_database")
class TestRefusedTeacher:
    @pytest.mark.parametrize(("body", "code", "param", "message"), REFUSED, ids=[str(case[0])[:60] for case in REFUSED])
    def test_says_why(
        self, client: TestClient, body: dict[str, Any], code: str, param: str, message: list[str]
    ) -> None:
        response = client.post("/teachers", json=body)
        check_error(response, status=422, code=code, param=param, message=message)
        assert client.get("/teachers").json()["data"] == []


@pytest.mark.usefixtures("database")
class TestListTeachers:
    def test_gives_newest_first_in_pages(self, client: TestClient) -> None:
        made = [add_teacher() for _ in range(3)]
        page = client.get("/teachers?limit=2").json()
        rest = client.get("/teachers", params={"limit": 2, "after": page["next"]}).json()
        assert [item["id"] for item in page["data"] + rest["data"]] == made[::-1]

    def test_filters_by_status(self, client: TestClient) -> None:
        ready = add_teacher()
        ready_teacher(claimed())
        add_teacher()
        assert [item["id"] for item in client.get("/teachers?status=ready").json()["data"]] == [ready]

    def test_refuses_a_cursor_of_its_own_making(self, client: TestClient) -> None:
        response = client.get("/teachers?after=MjAyNi0wMS0wMXx0Y2hfMQ")
        check_error(response, status=422, code="bad_cursor", param="after", message=["MjAyNi0wMS0wMXx0Y2hfMQ"])


@pytest.mark.usefixtures("sqlite_database")
class TestGetTeacher:
    def test_shows_what_the_worker_found(self, client: TestClient) -> None:
        teacher_id = add_teacher()
        ready_teacher(claimed(), num_labels=2, labels=["no", "yes"])
        teacher = client.get(f"/teachers/{teacher_id}").json()
        assert (teacher["status"], teacher["terminal"], teacher["error"]) == ("ready", True, None)
        assert (teacher["layers"], teacher["num_labels"], teacher["labels"]) == (6, 2, ["no", "yes"])

    def test_names_an_id_that_is_not_there(self, client: TestClient) -> None:
        response = client.get("/teachers/7%0D")
        check_error(response, status=404, code="teacher_not_found", param="teacher_id", message=["GET /teachers"])


@pytest.mark.usefixtures("database")
class TestDeleteTeacher:
    def test_removes_an_unused_one(self, client: TestClient) -> None:
        teacher_id = add_teacher()
        assert client.delete(f"/teachers/{teacher_id}").status_code == 204
        assert client.delete(f"/teachers/{teacher_id}").status_code == 404

    def test_refuses_while_a_job_that_is_not_over_uses_it(self, client: TestClient) -> None:
        teacher_id = add_teacher()
        job_id = add_job(teacher_id=teacher_id)
        response = client.delete(f"/teachers/{teacher_id}")
        check_error(response, status=409, code="teacher_in_use", param="teacher_id", message=[teacher_id, job_id])
        assert "more" not in response.json()["error"]["message"]

    def test_says_that_there_are_more_jobs_than_it_names(self, client: TestClient) -> None:
        """Harm: whoever cancels the five that were named is refused again."""
        teacher_id = add_teacher()
        users = [add_job(teacher_id=teacher_id) for _ in range(6)]
        message = client.delete(f"/teachers/{teacher_id}").json()["error"]["message"]
        assert f"used by {', '.join(users[:5])} and more, not finished" in message


def test_no_folder_is_allowed_by_default(home: Path) -> None:  # noqa: ARG001
    assert get_settings().teacher_dirs == []
