"""What workers and the scheduler serve on a port of their own."""

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx
import pytest
from sqlalchemy import update

from app import backlog, exposition
from app.db.models import Job
from app.db.session import write_session
from app.prometheus import Service
from app.settings import get_settings
from app.sweep import SweepThread
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.exposition import Scrape
from tests.fixtures.factories import add_job, claimed, expire


@contextmanager
def serving(change_settings: ChangeSettings, service: Service = "scheduler", **values: object) -> Iterator[str]:
    server = exposition.serve(change_settings(metrics_port=0, **values), service)
    assert server is not None
    with closing(server.socket):
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class TestServe:
    def test_serves_nothing_where_no_port_is_set(self, change_settings: ChangeSettings) -> None:
        assert exposition.serve(change_settings()) is None

    @pytest.mark.usefixtures("database")
    def test_shows_the_backlog_beside_the_sweep(self, change_settings: ChangeSettings) -> None:
        add_job()
        with serving(change_settings) as address:
            scrape = Scrape.of(address)
        assert scrape.value("stillhouse_queue_depth", kind="job", status="queued") == 1
        assert scrape.value("stillhouse_queue_depth", kind="job", status="running") == 0
        assert scrape.samples("stillhouse_sweep_last_success_timestamp_seconds")
        assert "stillhouse_worker_busy" not in scrape.text

    def test_shows_of_a_worker_what_is_a_worker_s(self, change_settings: ChangeSettings) -> None:
        with serving(change_settings, "worker") as address:
            scrape = Scrape.of(address)
        assert "stillhouse_engine_memory_bytes" in scrape.names()
        assert "stillhouse_queue_depth" not in scrape.names()
        assert scrape.value("process_resident_memory_bytes") > 0

    def test_is_alive_and_nothing_else(self, change_settings: ChangeSettings) -> None:
        with serving(change_settings) as address:
            assert httpx.get(f"{address}/healthz").json() == {"status": "ok"}
            assert httpx.get(f"{address}/").status_code == 404

    @pytest.mark.parametrize("sent", [b"", b"GET /metr"])
    def test_gives_up_a_client_that_stops(
        self, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch, sent: bytes
    ) -> None:
        """Harm: each such client keeps a thread for as long as the worker lives."""
        assert exposition.SILENCE_SECONDS == 30
        monkeypatch.setattr(exposition, "SILENCE_SECONDS", 0.2)
        with serving(change_settings) as address:
            port = int(address.rsplit(":", 1)[1])
            with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
                connection.sendall(sent)
                assert connection.recv(1) == b""

    def test_goes_on_where_the_port_is_taken(self, change_settings: ChangeSettings) -> None:
        """Harm: a second worker on the machine would not start, for the sake of its numbers."""
        with closing(socket.socket()) as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            assert exposition.serve(change_settings(metrics_port=other.getsockname()[1])) is None

    def test_of_a_cluster_is_reached_over_both_kinds_of_address(self, change_settings: ChangeSettings) -> None:
        with serving(change_settings, "worker", database_url="postgresql://me@127.0.0.1:1/none") as address:
            port = address.rsplit(":", 1)[1]
            assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
            if socket.has_dualstack_ipv6():
                assert httpx.get(f"http://[::1]:{port}/healthz").status_code == 200


@pytest.mark.usefixtures("sqlite_database", "folder_object_store")
class TestSweep:
    def test_shows_when_it_last_went_well_and_what_it_took_back(self, change_settings: ChangeSettings) -> None:
        add_job()
        doomed = add_job()
        with serving(change_settings, sweep_seconds=0.05, max_attempts=1) as address:
            before = Scrape.of(address)
            claims = [claimed(), claimed()]
            with write_session() as session:
                # The one got somewhere before its worker died.
                session.execute(update(Job).where(Job.id != doomed).values(fruitless_attempts=0))
            for claim in claims:
                expire(claim)
            sweep = SweepThread(get_settings())
            began = time.time()
            sweep.start()
            deadline = time.monotonic() + 30
            done = before.value("stillhouse_sweep_duration_seconds_count", outcome="done")
            while Scrape.of(address).value("stillhouse_sweep_duration_seconds_count", outcome="done") == done:
                assert time.monotonic() < deadline
            sweep.stop()
            after = Scrape.of(address)
        assert after.value("stillhouse_sweep_last_success_timestamp_seconds") >= began
        for name, labels in (
            ("stillhouse_leases_expired_total", {"kind": "job", "outcome": "requeued"}),
            ("stillhouse_leases_expired_total", {"kind": "job", "outcome": "failed"}),
            ("stillhouse_work_ended_total", {"kind": "job", "outcome": "failed"}),
            ("stillhouse_work_failed_total", {"kind": "job", "error_code": "worker_lost"}),
        ):
            assert after.value(name, **labels) - before.value(name, **labels) == 1, (name, labels)


class TestBacklog:
    def test_of_a_silent_database_is_left_out_and_said_to_be(self, change_settings: ChangeSettings) -> None:
        with closing(socket.socket()) as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(8)
            url = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/none"
            began = time.monotonic()
            with serving(change_settings, database_url=url) as address:
                scrape = Scrape.of(address)
            assert time.monotonic() - began < 30
        assert scrape.value("stillhouse_database_up") == 0
        assert scrape.samples("stillhouse_database_up")
        assert not scrape.samples("stillhouse_queue_depth")
        assert scrape.samples("process_cpu_seconds_total")

    @pytest.mark.usefixtures("sqlite_database")
    def test_is_asked_of_the_database_once_for_many_scrapes(
        self, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backlog, "CACHE_SECONDS", 3600.0)
        with serving(change_settings) as address:
            assert Scrape.of(address).value("stillhouse_queue_depth", kind="job") == 0
            add_job()
            assert Scrape.of(address).value("stillhouse_queue_depth", kind="job") == 0
            monkeypatch.setattr(backlog, "CACHE_SECONDS", 0.0)
            assert Scrape.of(address).value("stillhouse_queue_depth", kind="job") == 1
