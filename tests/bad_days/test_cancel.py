"""A cancel reaches a running engine that does not listen, and leaves nothing behind."""

import psutil
import pytest
from sqlalchemy import select

from app.db.models import Job, ObjectCleanup
from app.db.session import read_session
from app.settings import get_settings
from app.storage import keys
from tests.bad_days.conftest import Script, StartWorker
from tests.bad_days.jobs import add_inputs, api, attempts_of, checkpoint_steps, objects_after_sweep, post_job, store
from tests.e2e.system import wait_for
from tests.fixtures.factories import read_job
from tests.worker.scripted_engine import STEP

pytestmark = [
    pytest.mark.xdist_group("bad_days_cancel"),
    pytest.mark.usefixtures("postgres_database", "s3_object_store"),
]

# What the service promises.
REACH_SECONDS = 5.0


class TestCancel:
    def test_reaches_the_engine_and_its_helpers_within_seconds_and_leaves_nothing(
        self, script: Script, start_worker: StartWorker
    ) -> None:
        add_inputs()
        inputs = {stored.key for stored in store().list("")}
        script.play("deaf_family")
        client = api()
        job_id = post_job(client)
        worker = start_worker()
        wait_for(lambda: checkpoint_steps(job_id) == [STEP], 60, "checkpoint", process=worker)
        family = psutil.Process(worker.popen.pid).children(recursive=True)
        assert len(family) == 2
        assert list(get_settings().work_dir.iterdir())
        assert {stored.key for stored in store().list("")} > inputs
        # What an upload leaves that the cancel cuts off: no row will ever name it.
        store().put_bytes(keys.job_checkpoint(job_id, str(read_job(job_id).run_token), 2 * STEP) + "/state.json", b"{}")

        assert client.post(f"/jobs/{job_id}/cancel").status_code == 202
        wait_for(lambda: not any(map(_is_alive, family)), REACH_SECONDS, "end of the engine", process=worker)
        wait_for(lambda: read_job(job_id).status == "cancelled", 30, "end of the job", process=worker)
        job = client.get(f"/jobs/{job_id}").json()
        assert (job["terminal"], job["error"], job["result"]) == (True, None, None)
        assert attempts_of(job_id) == [(1, "cancelled", None)]
        assert checkpoint_steps(job_id) == []
        wait_for(lambda: not list(get_settings().work_dir.iterdir()), 30, "empty work folder", process=worker)
        assert objects_after_sweep(job_id) == []
        assert {stored.key for stored in store().list("")} == inputs
        with read_session() as session:
            leased = session.execute(select(Job.run_token, Job.lease_expires_at)).one()
            noted = session.scalars(select(ObjectCleanup.object_prefix)).all()
        assert (tuple(leased), noted) == ((None, None), [])

        # The worker is free for the next.
        script.play("student")
        next_id = post_job(client)
        wait_for(lambda: read_job(next_id).status == "succeeded", 60, "success", process=worker)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
