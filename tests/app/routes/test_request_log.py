"""What a request leaves in the log."""

import contextlib
import io
import json
import re
import socket
import threading
import time
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from app.logging import configure_logging
from app.main import create_app
from app.settings import Settings, get_settings
from tests.app.routes.helpers import add_demo, job_body, running_job
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.servers import free_port

ID = {"X-Request-ID": "req-42"}


class Lines:
    """The service's log in JSON. Each call gives the lines written since the last one."""

    def __init__(self) -> None:
        self._stream = io.StringIO()

    def configure(self, settings: Settings) -> None:
        with contextlib.redirect_stderr(self._stream):
            configure_logging(settings, service="api")

    def __call__(self) -> list[dict[str, Any]]:
        said = [json.loads(line) for line in self._stream.getvalue().splitlines()]
        self._stream.seek(0)
        self._stream.truncate()
        # The client runs in this process too.
        return [line for line in said if not line["logger"].startswith("httpx")]


@pytest.fixture
def lines(change_settings: ChangeSettings) -> Lines:
    lines = Lines()
    lines.configure(change_settings(log_format="json"))
    return lines


@pytest.mark.usefixtures("sqlite_database")
class TestRequestLine:
    def test_tells_what_was_changed_and_by_which_request(self, lines: Lines, client: TestClient) -> None:
        job_id = running_job()
        lines()
        client.post(f"/jobs/{job_id}/cancel", headers=ID)
        (line,) = [line for line in lines() if line["event"] == "request"]
        assert (line["method"], line["path"], line["status"]) == ("POST", f"/jobs/{job_id}/cancel", 202)
        assert (line["request_id"], line["job_id"], line["service"]) == ("req-42", job_id, "api")
        assert line["route"] == "/jobs/{job_id}/cancel"
        assert line["seconds"] > 0

    def test_is_not_written_for_those_who_poll(self, lines: Lines) -> None:
        """Harm: ten thousand lines an hour that say that nothing happened, around the one that does."""
        job_id = running_job()
        client = TestClient(create_app(get_settings()))
        lines()
        for path in (f"/jobs/{job_id}", "/jobs", "/healthz", "/readyz", "/metrics"):
            assert client.get(path).status_code == 200
        assert lines() == []

    def test_is_written_for_those_who_poll_where_asked_for(
        self, change_settings: ChangeSettings, lines: Lines, client: TestClient
    ) -> None:
        lines.configure(change_settings(log_level="DEBUG"))
        client.get("/jobs", headers=ID)
        assert [line["request_id"] for line in lines() if line["event"] == "request"] == ["req-42"]

    def test_is_written_for_what_is_refused(self, lines: Lines, client: TestClient) -> None:
        client.get("/jobs/job_nowhere", headers=ID)
        (line,) = lines()
        assert (line["event"], line["status"], line["request_id"]) == ("request", 404, "req-42")
        assert line["job_id"] == "job_nowhere"

    def test_comes_once_from_a_real_server(self, lines: Lines, server: str) -> None:
        lines.configure(get_settings())  # the server has done so too, for its own standard error
        httpx.post(f"{server}/jobs", json={}, headers=ID)
        said: list[dict[str, Any]] = []
        deadline = time.monotonic() + 20
        while not said and time.monotonic() < deadline:  # the answer is on its way before its line is written
            time.sleep(0.01)
            said = [line for line in lines() if line.get("request_id") == "req-42"]
        assert [line["event"] for line in said] == ["request"]

    def test_of_a_job_that_was_made_has_its_id(self, lines: Lines, client: TestClient) -> None:
        add_demo()
        lines()
        job_id = client.post("/jobs", json=job_body(), headers=ID).json()["id"]
        (line,) = [line for line in lines() if line["event"] == "job_submitted"]
        assert (line["job_id"], line["request_id"]) == (job_id, "req-42")


@pytest.mark.usefixtures("sqlite_database")
class TestUnexpectedError:
    def test_has_one_trace_under_the_request_s_id(self, lines: Lines) -> None:
        app = create_app(get_settings())

        @app.get("/broken")
        def broken() -> None:
            raise ValueError("unforeseen")

        running = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
            thread.start()
            deadline = time.monotonic() + 20
            while not running.started and time.monotonic() < deadline:
                time.sleep(0.01)
            httpx.get(f"http://127.0.0.1:{listener.getsockname()[1]}/broken", headers=ID)
            running.should_exit = True
            thread.join(timeout=20)
        said = lines()
        assert [line["request_id"] for line in said if "exception" in line] == ["req-42"]
        assert [line["status"] for line in said if line["event"] == "request"] == [500]


class TestOutage:
    def test_of_the_database_is_one_line_without_a_trace(self, change_settings: ChangeSettings, lines: Lines) -> None:
        url = f"postgresql://me:hunter2@127.0.0.1:{free_port()}/none"
        client = TestClient(create_app(change_settings(database_url=url)), raise_server_exceptions=False)
        response = client.post("/jobs", json=job_body(), headers=ID)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
        said = [line for line in lines() if line.get("request_id") == "req-42"]
        assert [line["event"] for line in said] == ["database_unavailable", "request"]
        assert not any("exception" in line for line in said)
        assert "refused" in said[0]["error"]
        assert not re.search("hunter2|Traceback", json.dumps(said))
