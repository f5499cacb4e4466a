"""The broker is away, or answers with errors: jobs are accepted, and run when it is well; also while it is not."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from app import queue
from app.settings import get_settings
from app.sweep import sweep_once
from tests.bad_days.conftest import Outage, Script, StartWorker
from tests.bad_days.jobs import add_inputs, api, check_student, post_job
from tests.e2e.system import Process, wait_for
from tests.fixtures.factories import read_job

pytestmark = [
    pytest.mark.xdist_group("bad_days_broker"),
    pytest.mark.usefixtures("postgres_database", "folder_object_store"),
]


class TestJobPostedMeanwhile:
    def test_is_accepted_and_runs_when_the_broker_is_back(
        self, failing_redis: Outage, start_worker: StartWorker
    ) -> None:
        add_inputs()
        client = api()
        with failing_redis.away():
            job_id = post_job(client)
            assert client.get(f"/jobs/{job_id}").json()["status"] == "queued"
            ready = client.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        # It came back empty: the hint, if ever there was one, is lost. The sweep sends another.
        assert _hints() == 0
        assert sweep_once().woke
        assert _hints() == 1
        worker = start_worker()
        wait_for(lambda: read_job(job_id).status == "succeeded", 60, "success", process=worker)
        wait_for(lambda: _hints() == 0, 30, "end of the hint", process=worker)
        check_student(job_id)
        assert client.get("/readyz").json()["status"] == "ready"

    def test_runs_also_while_the_broker_stays_away(self, failing_redis: Outage, start_worker: StartWorker) -> None:
        """Harm: an idle GPU beside a queued job, for as long as a Redis is broken."""
        add_inputs()
        client = api()
        worker = start_worker()
        wait_for(_is_listened_to, 30, "listener", process=worker)
        # It has done what there was to do, and asked for more.
        first = post_job(client)
        wait_for(lambda: '"work_ended"' in worker.log.read_text(), 60, "end of the first", process=worker)
        assert read_job(first).status == "succeeded"
        with failing_redis.away():
            job_id = post_job(client)
            wait_for(lambda: read_job(job_id).status == "succeeded", 60, "success", process=worker)
        # And it listens again, without a restart.
        wait_for(_is_listened_to, 60, "listener", process=worker)
        assert queue.wake(get_settings())
        wait_for(lambda: _hints() == 0, 30, "end of the hint", process=worker)
        check_student(job_id)


class TestBrokerThatAnswersWithErrors:
    @pytest.mark.usefixtures("failing_redis")
    def test_stops_no_worker_and_wakes_it_once_it_is_well(self, script: Script, start_worker: StartWorker) -> None:
        """Harm: the failover of a Redis stops every worker, with the jobs that they have in hand; or each of them
        opens connections until there are too many."""
        add_inputs()
        client = api()
        job_id = post_job(client)
        script.play("steered", job_id)
        worker = start_worker()
        wait_for(lambda: read_job(job_id).status == "running", 30, "claim", process=worker)
        with _demoted():
            wait_for(lambda: _refusals(worker) >= 10, 30, "tries", process=worker)
            assert _connections() < 10
            next_id = post_job(client)
            script.tell(job_id, "finish")
            wait_for(lambda: read_job(next_id).status == "succeeded", 60, "success", process=worker)
            assert read_job(job_id).status == "succeeded"
        wait_for(_is_listened_to, 60, "listener", process=worker)
        assert queue.wake(get_settings())
        wait_for(lambda: _hints() == 0, 30, "end of the hint", process=worker)
        check_student(job_id)
        check_student(next_id)


@contextmanager
def _demoted() -> Iterator[None]:
    """The replica of nobody, for the block: it answers, and refuses what would change anything."""
    with redis.Redis.from_url(get_settings().broker_url) as client:
        client.replicaof("127.0.0.1", "1")
        try:
            yield
        finally:
            client.replicaof("NO", "ONE")


def _refusals(worker: Process) -> int:
    """How often the worker has been told that the broker is none to write to."""
    return worker.log.read_text().count("read only replica")


def _connections() -> int:
    with redis.Redis.from_url(get_settings().broker_url) as client:
        return len(client.client_list())  # type: ignore[arg-type]


def _hints() -> int:
    with redis.Redis.from_url(get_settings().broker_url) as client:
        return int(client.llen(queue.QUEUE))  # type: ignore[arg-type]


def _is_listened_to() -> bool:
    """Whether somebody waits for a message."""
    with redis.Redis.from_url(get_settings().broker_url) as client:
        clients: list[dict[str, str]] = client.client_list()  # type: ignore[assignment]
    return any(listener["cmd"] == "brpop" for listener in clients)
