import hashlib
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from app.settings import get_settings
from app.storage.store import ObjectStore
from tests.app.routes.helpers import check_error, succeeded_job
from tests.fixtures.factories import add_job

WEIGHTS = bytes(range(256)) * 10_000  # 2.56 MB: more than one chunk
ETAG = f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'


@pytest.fixture
def weights_url() -> str:
    """Where a succeeded job's only artifact is downloaded."""
    return f"/jobs/{succeeded_job({'model.safetensors': WEIGHTS})}/artifacts/model.safetensors"


@pytest.mark.usefixtures("database", "folder_object_store")
class TestListArtifacts:
    def test_gives_size_hash_and_type_by_name(self, client: TestClient) -> None:
        job_id = succeeded_job({"student.tar.gz": b"all", "README.md": b"# card", "config.json": b"{}"})
        found = client.get(f"/jobs/{job_id}/artifacts").json()["data"]
        assert [(item["name"], item["size_bytes"], item["content_type"]) for item in found] == [
            ("README.md", 6, "text/markdown; charset=utf-8"),
            ("config.json", 2, "application/json"),
            ("student.tar.gz", 3, "application/gzip"),
        ]
        assert found[1]["sha256"] == hashlib.sha256(b"{}").hexdigest()
        for item in found:
            assert client.get(item["links"]["download"]).headers["Content-Type"] == item["content_type"]

    def test_is_empty_until_the_job_has_succeeded(self, client: TestClient) -> None:
        assert client.get(f"/jobs/{add_job()}/artifacts").json()["data"] == []

    def test_names_a_job_that_is_not_there(self, client: TestClient) -> None:
        response = client.get("/jobs/job_unknown/artifacts")
        check_error(response, status=404, code="job_not_found", param="job_id", message=["'job_unknown'"])


@pytest.mark.usefixtures("sqlite_database", "object_store")
class TestDownloadArtifact:
    def test_gives_the_whole_file(self, client: TestClient, weights_url: str) -> None:
        response = client.get(weights_url)
        assert response.status_code == 200
        assert response.content == WEIGHTS
        headers = response.headers
        assert headers["Content-Length"] == str(len(WEIGHTS))
        assert headers["Content-Type"] == "application/octet-stream"
        assert headers["Content-Disposition"].startswith('attachment; filename="model.safetensors"')
        assert (headers["ETag"], headers["Accept-Ranges"]) == (ETAG, "bytes")
        assert headers["X-Content-Type-Options"] == "nosniff"

    @pytest.mark.parametrize(
        ("asked", "start", "end"),
        [
            ("bytes=0-0", 0, 1),
            ("bytes=100-1500000", 100, 1_500_001),
            ("bytes=2559990-", 2_559_990, 2_560_000),
            ("bytes=-10", 2_559_990, 2_560_000),
            ("bytes=5-99999999", 5, 2_560_000),
            ("bytes=-99999999", 0, 2_560_000),
        ],
    )
    def test_gives_a_range(self, client: TestClient, weights_url: str, asked: str, start: int, end: int) -> None:
        response = client.get(weights_url, headers={"Range": asked})
        assert response.status_code == 206
        assert response.content == WEIGHTS[start:end]
        assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(WEIGHTS)}"
        assert response.headers["Content-Length"] == str(end - start)

    @pytest.mark.parametrize("asked", ["bytes=2560000-", "bytes=-0", "bytes=9999999-99999999"])
    def test_refuses_a_range_outside_of_the_file(self, client: TestClient, weights_url: str, asked: str) -> None:
        response = client.get(weights_url, headers={"Range": asked})
        check_error(response, status=416, code="range_not_satisfiable", param="Range", message=[asked, "2560000 bytes"])
        assert response.headers["Content-Range"] == "bytes */2560000"

    @pytest.mark.parametrize("asked", ["bytes=5-1", "bytes=0-1,5-6", "lines=1-2", "bytes=", "bytes=x-"])
    def test_ignores_what_is_not_one_range(self, client: TestClient, weights_url: str, asked: str) -> None:
        response = client.get(weights_url, headers={"Range": asked})
        assert (response.status_code, len(response.content)) == (200, len(WEIGHTS))

    def test_gives_the_range_while_the_file_is_the_same(self, client: TestClient, weights_url: str) -> None:
        same = client.get(weights_url, headers={"Range": "bytes=0-9", "If-Range": ETAG})
        other = client.get(weights_url, headers={"Range": "bytes=0-9", "If-Range": '"other"'})
        weak = client.get(weights_url, headers={"Range": "bytes=0-9", "If-Range": f"W/{ETAG}"})
        assert (same.status_code, other.status_code, weak.status_code) == (206, 200, 200)

    @pytest.mark.parametrize("tags", [ETAG, f'"x", W/{ETAG}', "*"])
    def test_says_when_nothing_has_changed(self, client: TestClient, weights_url: str, tags: str) -> None:
        response = client.get(weights_url, headers={"If-None-Match": tags})
        assert (response.status_code, response.content, response.headers["ETag"]) == (304, b"", ETAG)
        assert response.headers["Cache-Control"] == client.get(weights_url).headers["Cache-Control"]

    def test_gives_the_headers_alone_to_head(self, client: TestClient, weights_url: str) -> None:
        response = client.head(weights_url)
        assert (response.status_code, response.content) == (200, b"")
        assert response.headers["Content-Length"] == str(len(WEIGHTS))
        assert response.headers["ETag"] == ETAG

    @pytest.mark.parametrize("asked", ["bytes=0-9", "bytes=2560000-"])
    def test_gives_head_no_range(self, client: TestClient, weights_url: str, asked: str) -> None:
        """Harm: a downloader that asks for the size first is told that of a part, or of nothing."""
        response = client.head(weights_url, headers={"Range": asked})
        assert (response.status_code, response.headers["Content-Length"]) == (200, str(len(WEIGHTS)))
        assert "Content-Range" not in response.headers

    def test_gives_an_empty_file(self, client: TestClient) -> None:
        url = f"/jobs/{succeeded_job({'empty.txt': b''})}/artifacts/empty.txt"
        response = client.get(url)
        assert (response.status_code, response.content, response.headers["Content-Length"]) == (200, b"", "0")
        assert client.get(url, headers={"Range": "bytes=0-"}).status_code == 416

    def test_names_a_file_inside_a_folder_by_its_last_part(self, client: TestClient) -> None:
        job_id = succeeded_job({"onnx/model.json": b"{}"})
        for path in ("onnx/model.json", quote("onnx/model.json", safe="")):
            response = client.get(f"/jobs/{job_id}/artifacts/{path}")
            assert response.content == b"{}"
            assert 'filename="model.json"' in response.headers["Content-Disposition"]

    def test_says_when_the_object_is_gone(self, client: TestClient, weights_url: str) -> None:
        ObjectStore.from_settings(get_settings()).delete_prefix("jobs")
        response = client.get(weights_url)
        check_error(
            response,
            status=503,
            code="artifact_object_missing",
            param="name",
            message=["'model.safetensors'", "Restore"],
        )

    @pytest.mark.parametrize(
        "name", ["nothing.json", "..%2F..%2Fstillhouse.db", "%2Fetc%2Fpasswd", "%00", "a%09b", "x" * 300]
    )
    def test_knows_only_the_names_it_lists(self, client: TestClient, name: str) -> None:
        job_id = succeeded_job({"config.json": b"{}"})
        response = client.get(f"/jobs/{job_id}/artifacts/{name}")
        check_error(
            response, status=404, code="artifact_not_found", param="name", message=[f"/jobs/{job_id}/artifacts"]
        )

    def test_names_a_job_that_is_not_there(self, client: TestClient) -> None:
        response = client.get("/jobs/job_unknown/artifacts/config.json")
        check_error(response, status=404, code="job_not_found", param="job_id", message=["'job_unknown'"])
