"""`stillhouse scheduler` as a process, on the servers of a cluster."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from app.db.session import create_database_engine, dispose_engines, write_session
from app.repositories import leases
from app.settings import get_settings
from app.storage.store import ObjectStore
from tests.app.test_queue import take_messages
from tests.e2e.system import START_SECONDS, Process, wait_for
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job, claimed, expire, read_job
from tests.fixtures.servers import free_port

# The command's own way in, with less patience than a real hang deserves.
IMPATIENT = (
    "import sys; from app import scheduler; from app.settings import get_settings; "
    "sys.exit(0 if scheduler.run(get_settings(), stuck_seconds=1) else 1)"
)

# The command, but that it leaves the leases that it finds alone for five seconds less.
HASTY = "import sys; from app import cli, sweep; sweep.CONNECT_SECONDS = 0.2; sys.exit(cli.main(['scheduler']))"

# Without these the leases that it finds are left alone for a quarter of a minute.
QUICK = {"sweep_seconds": 0.1, "heartbeat_seconds": 0.1}


class Scheduler(Process):
    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__([sys.executable, "-P", *arguments], os.environ, folder / "scheduler.log")

    def logged(self, event: str) -> bool:
        return any(json.loads(line)["event"] == event for line in self.log.read_text().splitlines())

    def wait_until_logged(self, event: str) -> None:
        wait_for(lambda: self.logged(event), START_SECONDS, f"log line {event}", process=self)


Start = Callable[..., Scheduler]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a scheduler with the settings of the test; none outlives the test."""
    started: list[Scheduler] = []

    def begin(*arguments: str) -> Scheduler:
        started.append(Scheduler(tmp_path, *(arguments or ("-m", "app.cli", "scheduler"))))
        return started[-1]

    yield begin
    for scheduler in started:
        scheduler.end()


def lost_job() -> str:
    """A job whose worker fell silent."""
    add_job()
    claim = claimed()
    expire(claim)
    return claim.id


def wait_until_queued(job_id: str, scheduler: Scheduler) -> None:
    wait_for(lambda: read_job(job_id).status == "queued", START_SECONDS, "sweep", process=scheduler)


@pytest.mark.usefixtures("postgres_database", "redis_broker")
class TestScheduler:
    def test_puts_back_what_dead_workers_held_until_it_is_told_to_stop(
        self, start: Start, s3_object_store: ObjectStore, change_settings: ChangeSettings
    ) -> None:
        assert s3_object_store.url.startswith("s3://")
        change_settings(**QUICK)
        scheduler = start("-c", HASTY)
        for _ in range(2):
            wait_until_queued(lost_job(), scheduler)
        wait_for(take_messages, START_SECONDS, "hint to the workers", process=scheduler)
        assert scheduler.stop() == 0
        assert scheduler.logged("scheduler_stopped")

    def test_answers_those_who_watch_it(self, start: Start, change_settings: ChangeSettings) -> None:
        port = free_port()
        change_settings(metrics_port=port)
        scheduler = start()
        scheduler.wait_until_logged("scheduler_started")
        assert httpx.get(f"http://127.0.0.1:{port}/healthz").json() == {"status": "ok"}
        assert 'service="scheduler"' in httpx.get(f"http://127.0.0.1:{port}/metrics").text

    def test_outlives_a_database_that_ends_its_sessions_and_takes_no_new_ones(
        self, start: Start, change_settings: ChangeSettings
    ) -> None:
        change_settings(**QUICK)
        job_id = add_job()
        claimed(lease_seconds=0.01)
        scheduler = start("-c", HASTY)
        wait_until_queued(job_id, scheduler)
        with no_connections(get_settings().database_url):
            scheduler.wait_until_logged("sweep_failed")
        wait_until_queued(lost_job(), scheduler)
        assert scheduler.stop() == 0

    def test_leaves_workers_the_time_to_renew_when_it_starts_and_when_the_database_is_back(
        self, start: Start, change_settings: ChangeSettings
    ) -> None:
        """Harm: after an outage longer than a lease the sweep gets through first, and every job that runs goes back to
        its last checkpoint."""
        change_settings(**QUICK)
        job_id = lost_job()
        scheduler = start()
        scheduler.wait_until_logged("leases_left_alone")
        assert read_job(job_id).status == "running"
        wait_until_queued(job_id, scheduler)

        claim = claimed(lease_seconds=2)
        with no_connections(get_settings().database_url):
            scheduler.wait_until_logged("sweep_failed")
            time.sleep(2)
        time.sleep(1)  # ten sweeps
        with write_session() as session:
            assert leases.renew(session, claim, 30, run_seconds=3.0) == "running"

    def test_ends_when_a_sweep_hangs_so_that_it_is_started_again(
        self, start: Start, change_settings: ChangeSettings
    ) -> None:
        change_settings(**QUICK)
        job_id = lost_job()
        engine = create_database_engine(get_settings().database_url)
        with engine.connect() as connection, connection.begin():
            connection.execute(text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"))
            stuck = start("-c", IMPATIENT)
            assert stuck.popen.wait(START_SECONDS) == 1
            assert stuck.logged("sweep_stuck")
        engine.dispose()
        wait_until_queued(job_id, start("-c", HASTY))


class no_connections:
    """For the block, the server ends every session of this database and refuses new ones."""

    def __init__(self, url: str) -> None:
        self._name = make_url(url).database
        self._engine = create_database_engine(make_url(url).set(database="postgres").render_as_string(False))

    def __enter__(self) -> None:
        dispose_engines()
        self._run(f'ALTER DATABASE "{self._name}" WITH ALLOW_CONNECTIONS false')
        self._run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'")

    def __exit__(self, *_: object) -> None:
        self._run(f'ALTER DATABASE "{self._name}" WITH ALLOW_CONNECTIONS true')
        self._engine.dispose()

    def _run(self, statement: str) -> None:
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(statement))
