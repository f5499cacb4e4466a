"""What goes wrong outside of a route's own subject."""

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import get_settings
from tests.app.routes.helpers import check_error, job_body
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.servers import free_port

pytestmark = pytest.mark.usefixtures("sqlite_database")


class TestRequestId:
    def test_is_taken_over_from_the_caller(self, client: TestClient) -> None:
        response = client.get("/jobs/job_x", headers={"X-Request-ID": "trace-42.a_b"})
        assert response.headers["X-Request-ID"] == "trace-42.a_b"
        assert response.json()["error"]["request_id"] == "trace-42.a_b"

    @pytest.mark.parametrize("received", ["with space", "x" * 101, "a\tb", ""])
    def test_is_made_anew_when_the_caller_s_is_not_plain(self, client: TestClient, received: str) -> None:
        made = client.get("/healthz", headers={"X-Request-ID": received}).headers["X-Request-ID"]
        assert made.startswith("req_")

    def test_differs_between_requests(self, client: TestClient) -> None:
        ids = {client.get("/healthz").headers["X-Request-ID"] for _ in range(3)}
        assert len(ids) == 3


class TestUnknownRoute:
    @pytest.mark.parametrize("path", ["/nowhere", "/jobs/", "/jobs/a/b/c", "/docs/assets/none.js", "/docs/assets/../x"])
    def test_is_named(self, client: TestClient, path: str) -> None:
        response = client.get(path)
        check_error(response, status=404, code="route_not_found", param=None, message=["GET /docs"])


class TestMethodNotAllowed:
    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("PUT", "/jobs", "GET, POST"),
            ("PATCH", "/jobs/job_x", "GET, DELETE"),
            ("POST", "/jobs/job_x/artifacts/a.json", "GET, HEAD"),
            ("GET", "/jobs/job_x/cancel", "POST"),
        ],
    )
    def test_names_the_methods_there_are(self, client: TestClient, method: str, path: str, allowed: str) -> None:
        response = client.request(method, path)
        check_error(response, status=405, code="method_not_allowed", param=None, message=[method, allowed])
        assert response.headers["Allow"] == allowed


class TestUnexpectedError:
    def test_says_nothing_of_the_inside(self) -> None:
        app = create_app(get_settings())

        @app.get("/broken")
        def broken() -> None:
            raise ValueError("secret detail at /srv/secret/path")

        response = TestClient(app, raise_server_exceptions=False).get("/broken")
        check_error(response, status=500, code="internal_error", param=None, message=["request id"])
        assert "secret" not in response.text


class TestDatabaseGone:
    def test_is_503_and_can_be_tried_again(self, change_settings: ChangeSettings) -> None:
        url = f"postgresql://me:hunter2@127.0.0.1:{free_port()}/none"
        client = TestClient(create_app(change_settings(database_url=url)), raise_server_exceptions=False)
        for response in (client.get("/jobs"), client.post("/jobs", json=job_body())):
            check_error(response, status=503, code="database_unavailable", param=None, message=["again"])
            assert response.headers["Retry-After"] == "5"
            assert "hunter2" not in response.text


class TestObjectStoreGone:
    def test_is_503_and_leaves_no_row(self, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
        app = create_app(change_settings(object_store_url="s3://bucket/prefix"))
        app.state.store = type(app.state.store)("s3://bucket/prefix", timeout_seconds=1, retries=0)
        client = TestClient(app, raise_server_exceptions=False)
        response = client.post("/datasets", files={"train": ("a.csv", b"text,label\n")})
        check_error(response, status=503, code="object_store_unavailable", param=None, message=["again"])
        assert client.get("/datasets").json()["data"] == []
