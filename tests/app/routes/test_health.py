import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.db import migrate
from app.db.session import dispose_engines, write_session
from app.main import create_app
from app.services import health
from app.settings import Settings, get_settings
from tests.app.routes.helpers import add_demo, check_error, job_body
from tests.fixtures.disk import fill, mounted_disk
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.servers import free_port

ALL_WELL = {
    "status": "ready",
    "database": "ok",
    "migrations": "ok",
    "object_store": "ok",
    "queue": "ok",
    "disk": "ok",
}


def client_with(settings: Settings) -> TestClient:
    return TestClient(create_app(settings), raise_server_exceptions=False)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts and never says a word."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield int(listener.getsockname()[1])


class TestHealthz:
    def test_is_fine_also_without_a_database(self, change_settings: ChangeSettings) -> None:
        settings = change_settings(database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
        assert client_with(settings).get("/healthz").json() == {"status": "ok"}

    def test_answers_probes_that_send_head(self, change_settings: ChangeSettings) -> None:
        """Harm: a load balancer that asks so takes every API for dead."""
        response = client_with(change_settings()).head("/healthz")
        assert (response.status_code, response.content) == (200, b"")


class TestReadyz:
    @pytest.mark.usefixtures("database", "object_store", "broker")
    def test_is_ready_when_all_parts_answer(self, client: TestClient) -> None:
        response = client.get("/readyz")
        assert response.status_code == 200
        assert response.json() == ALL_WELL

    @pytest.mark.usefixtures("sqlite_database")
    def test_answers_head_as_it_does_get(self, change_settings: ChangeSettings) -> None:
        response = client_with(get_settings()).head("/readyz")
        assert (response.status_code, response.content) == (200, b"")
        away = change_settings(database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
        response = client_with(away).head("/readyz")
        assert (response.status_code, response.content) == (503, b"")

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
        assert "migrations" not in response.text

    @pytest.mark.usefixtures("sqlite_database")
    def test_names_an_object_store_that_does_not_answer(
        self, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
        settings = change_settings(object_store_url="s3://bucket/prefix")
        response = client_with(settings).get("/readyz")
        check_error(response, status=503, code="not_ready", param=None, message=["object_store: "])

    def test_names_every_part_that_keeps_silent_in_a_few_seconds(
        self, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch, silent_port: int
    ) -> None:
        """Harm: a probe that hangs says nothing, and the one who probes gives up without a name."""
        assert health.CHECK_SECONDS < 5, "a few"
        monkeypatch.setattr(health, "CHECK_SECONDS", 1.0)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
        settings = change_settings(
            database_url=f"postgresql://me@127.0.0.1:{silent_port}/none",
            object_store_url="s3://bucket/prefix",
            broker_url=f"redis://127.0.0.1:{silent_port}/0",
        )
        client = client_with(settings)
        began = time.monotonic()
        for _ in range(3):
            response = client.get("/readyz")
            check_error(
                response, status=503, code="not_ready", param=None, message=["database: ", "object_store: ", "queue: "]
            )
        assert time.monotonic() - began < 10


class TestMigrations:
    def test_are_asked_for_where_they_never_ran(self, change_settings: ChangeSettings) -> None:
        response = client_with(change_settings()).get("/readyz")
        check_error(response, status=503, code="not_ready", param=None, message=["migrations: ", "stillhouse migrate"])

    @pytest.mark.usefixtures("sqlite_database")
    def test_are_asked_for_where_a_newer_one_is_missing(self) -> None:
        migrate.downgrade(get_settings(), "-1")
        response = client_with(get_settings()).get("/readyz")
        check_error(response, status=503, code="not_ready", param=None, message=["migrations: ", "stillhouse migrate"])
        migrate.upgrade(get_settings())
        assert client_with(get_settings()).get("/readyz").json() == ALL_WELL

    @pytest.mark.usefixtures("sqlite_database")
    def test_of_a_newer_release_are_no_reason_to_stop_serving(self) -> None:
        """Harm: an upgrade migrates first, and every process of the old release would leave at that moment."""
        with write_session() as session:
            session.execute(text("UPDATE alembic_version SET version_num = 'newer'"))
        assert client_with(get_settings()).get("/readyz").json() == ALL_WELL


class TestDisk:
    @pytest.fixture
    def disk(self, tmp_path: Path, change_settings: ChangeSettings) -> Iterator[Path]:
        """STILLHOUSE_HOME on a disk of 8 MiB, with a migrated database and the demo."""
        with mounted_disk(tmp_path / "disk", "8m") as folder:
            migrate.upgrade(change_settings(home=folder))
            add_demo()
            yield folder
            dispose_engines()

    def test_that_is_full_is_named_and_work_is_refused_until_there_is_room(self, disk: Path) -> None:
        client = client_with(get_settings())
        assert client.get("/readyz").json() == ALL_WELL
        filler = fill(disk)
        response = client.get("/readyz")
        check_error(response, status=503, code="not_ready", param=None, message=["disk: no space left"])
        assert str(disk) not in response.text
        response = client.post("/jobs", json=job_body())
        check_error(response, status=503, code="database_unavailable", param=None, message=["disk", "STILLHOUSE_HOME"])
        assert response.headers["Retry-After"] == "5"
        filler.unlink()
        assert client.get("/readyz").json() == ALL_WELL
        assert client.post("/jobs", json=job_body()).status_code == 202
        assert len(client.get("/jobs").json()["data"]) == 1
