"""GET /metrics of the API, behind a real server."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import get_settings
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.exposition import Scrape
from tests.fixtures.factories import add_job

# Of anyio, for all routes that are plain functions.
REQUEST_THREADS = 40
REQUESTS = "stillhouse_http_request_duration_seconds_count"


@pytest.mark.usefixtures("sqlite_database")
class TestRequests:
    def test_are_counted_by_route_and_not_by_path(self, server: str) -> None:
        before = Scrape.of(server)
        for number in range(5):
            assert httpx.get(f"{server}/jobs/job_{number}").status_code == 404
        httpx.get(f"{server}/jobs")
        after = Scrape.of(server)
        place = {"method": "GET", "route": "/jobs/{job_id}", "status": "404"}
        assert after.value(REQUESTS, **place) - before.value(REQUESTS, **place) == 5
        place = {"method": "GET", "route": "/jobs", "status": "200"}
        assert after.value(REQUESTS, **place) - before.value(REQUESTS, **place) == 1
        assert "job_1" not in after.text

    def test_do_not_make_a_series_of_whatever_a_client_invents(self, server: str) -> None:
        """Harm: each new label value is a series that stays for as long as the process lives."""
        for word in ("one", "two", "three"):
            httpx.get(f"{server}/{word}/{word}")
            httpx.request(word.upper(), f"{server}/jobs")
        scrape = Scrape.of(server)
        assert scrape.value(REQUESTS, method="GET", route="unmatched", status="404") >= 3
        assert scrape.value(REQUESTS, method="OTHER", status="405") >= 3
        assert not {"one", "ONE"} & {value for sample in scrape.samples(REQUESTS) for value in sample.labels.values()}

    def test_that_break_count_as_500(self) -> None:
        app = create_app(get_settings())

        @app.get("/breaks")
        def breaks() -> None:
            raise ValueError("unforeseen")

        client = TestClient(app, raise_server_exceptions=False)
        assert client.get("/breaks").status_code == 500
        scrape = Scrape(client.get("/metrics").text)
        assert scrape.value(REQUESTS, method="GET", route="/breaks", status="500") == 1
        # This one is under way.
        assert scrape.value("stillhouse_http_requests_in_flight") >= 1

    def test_that_listen_are_counted_while_they_do(self, server: str) -> None:
        path = f"{server}/jobs/{add_job()}/events"
        before = Scrape.of(server).value("stillhouse_event_listeners")
        with httpx.stream("GET", path, headers={"Accept": "text/event-stream"}, timeout=30.0) as stream:
            lines = stream.iter_lines()  # kept: without it the stream is closed
            assert next(lines).startswith("retry:")
            assert Scrape.of(server).value("stillhouse_event_listeners") == before + 1
        deadline = time.monotonic() + 30
        while Scrape.of(server).value("stillhouse_event_listeners") > before:
            assert time.monotonic() < deadline

    def test_to_the_object_store_are_timed_by_outcome(self, server: str) -> None:
        name = "stillhouse_object_store_request_duration_seconds_count"
        before = Scrape.of(server).value(name, operation="put", outcome="ok")
        files = {"train": ("train.csv", b"text,label\na,b\n", "text/csv")}
        assert httpx.post(f"{server}/datasets", files=files).status_code == 202
        assert Scrape.of(server).value(name, operation="put", outcome="ok") == before + 1


class TestBacklog:
    @pytest.mark.usefixtures("sqlite_database")
    def test_is_shown_by_the_api_that_sweeps(self, server: str) -> None:
        add_job()
        add_job()
        scrape = Scrape.of(server)
        assert scrape.value("stillhouse_database_up") == 1
        assert scrape.value("stillhouse_queue_depth", kind="job", status="queued") == 2
        assert scrape.samples("stillhouse_sweep_last_success_timestamp_seconds")

    @pytest.mark.usefixtures("postgres_database")
    def test_is_left_to_the_scheduler_in_a_cluster(self, server: str) -> None:
        """Harm: with several APIs every sum over the queue would be a multiple."""
        scrape = Scrape.of(server)
        assert not scrape.samples("stillhouse_queue_depth")
        assert not scrape.samples("stillhouse_sweep_last_success_timestamp_seconds")
        assert scrape.samples("stillhouse_build_info", service="api")


class TestWithoutADatabase:
    @pytest.fixture
    def silent_port(self) -> Iterator[int]:
        with closing(socket.socket()) as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(64)
            yield int(listener.getsockname()[1])

    def test_metrics_still_come(self, change_settings: ChangeSettings, silent_port: int) -> None:
        """Harm: the moment that the numbers are wanted most is the one at which there are none."""
        settings = change_settings(database_url=f"postgresql://me@127.0.0.1:{silent_port}/none")
        client = TestClient(create_app(settings))
        assert client.get("/metrics").status_code == 200


class TestWhileRequestsHang:
    def test_metrics_still_come(self) -> None:
        """Harm: as without a database; here it, or the store, has taken all threads that requests have."""
        app = create_app(get_settings())
        begun, is_over = threading.Semaphore(0), threading.Event()

        @app.get("/hangs")
        def hang() -> None:
            begun.release()
            is_over.wait(60)

        async def scrape() -> int:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                hanging = [asyncio.create_task(client.get("/hangs")) for _ in range(REQUEST_THREADS + 5)]
                try:
                    for _ in range(REQUEST_THREADS):
                        while not begun.acquire(blocking=False):
                            await asyncio.sleep(0.01)
                    async with asyncio.timeout(10):
                        return (await client.get("/metrics")).status_code
                finally:
                    is_over.set()
                    await asyncio.gather(*hanging)

        assert asyncio.run(scrape()) == 200
