import time

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.app.routes.helpers import check_error
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.servers import free_port


def client_with(settings: Settings) -> TestClient:
    return TestClient(create_app(settings), raise_server_exceptions=False)


class TestHealthz:
    def test_is_fine_also_without_a_database(self, change_settings: ChangeSettings) -> None:
        settings = change_settings(database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
        assert client_with(settings).get("/healthz").json() == {"status": "ok"}


class TestReadyz:
    @pytest.mark.usefixtures("database", "object_store", "broker")
    def test_is_ready_when_all_parts_answer(self, client: TestClient) -> None:
        response = client.get("/readyz")
        assert response.status_code == 200
        assert response.json() == {"status": "ready", "database": "ok", "object_store": "ok", "queue": "ok"}

    @pytest.mark.usefixtures("sqlite_database")
    def test_is_degraded_without_the_queue(self, change_settings: ChangeSettings) -> None:
        settings = change_settings(broker_url=f"redis://127.0.0.1:{free_port()}/0")
        response = client_with(settings).get("/readyz")
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        assert response.json()["queue"].startswith("unreachable")

    def test_names_a_database_that_does_not_answer_and_no_secret(self, change_settings: ChangeSettings) -> None:
        url = f"postgresql://me:hunter2@127.0.0.1:{free_port()}/none"
        response = client_with(change_settings(database_url=url)).get("/readyz")
        check_error(response, status=503, code="not_ready", param=None, message=["database: unreachable"])
        assert "hunter2" not in response.text

    def test_names_a_database_that_was_never_migrated(self, change_settings: ChangeSettings) -> None:
        response = client_with(change_settings()).get("/readyz")
        check_error(response, status=503, code="not_ready", param=None, message=["database: unreachable"])

    @pytest.mark.usefixtures("sqlite_database")
    def test_names_an_object_store_that_does_not_answer(
        self, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
        settings = change_settings(object_store_url="s3://bucket/prefix")
        begin = time.monotonic()
        response = client_with(settings).get("/readyz")
        check_error(response, status=503, code="not_ready", param=None, message=["object_store: "])
        assert time.monotonic() - begin < 10
