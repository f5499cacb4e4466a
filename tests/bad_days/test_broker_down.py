"""The broker is away: jobs are accepted, and run when it is back; also while it stays away."""

import pytest
import redis

from app import queue
from app.settings import get_settings
from app.sweep import sweep_once
from tests.bad_days.conftest import Outage, StartWorker
from tests.bad_days.jobs import add_inputs, api, check_student, post_job
from tests.e2e.system import wait_for
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


def _hints() -> int:
    with redis.Redis.from_url(get_settings().broker_url) as client:
        return int(client.llen(queue.QUEUE))  # type: ignore[arg-type]


def _is_listened_to() -> bool:
    """Whether somebody waits for a message."""
    with redis.Redis.from_url(get_settings().broker_url) as client:
        clients: list[dict[str, str]] = client.client_list()  # type: ignore[assignment]
    return any(listener["cmd"] == "brpop" for listener in clients)
