"""A job that takes its worker with it, each time: it ends, with the reason, and the others get their turn."""

import signal

import pytest

from app.settings import get_settings
from app.sweep import sweep_once
from tests.bad_days.conftest import Script, StartWorker
from tests.bad_days.jobs import add_inputs, api, attempts_of, objects_after_sweep, post_job
from tests.e2e.system import wait_for
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import read_job

pytestmark = [
    pytest.mark.xdist_group("bad_days_killers"),
    pytest.mark.usefixtures("postgres_database", "folder_object_store"),
]


class TestJobThatKillsItsWorker:
    def test_fails_after_a_few_and_does_not_go_round_for_ever(
        self, script: Script, start_worker: StartWorker, change_settings: ChangeSettings
    ) -> None:
        change_settings(lease_seconds=2, heartbeat_seconds=0.5, max_attempts=2)
        add_inputs()
        client = api()
        killer, other = post_job(client, priority=5), post_job(client)
        script.play("kills_its_worker", killer)

        def swept() -> str:
            sweep_once()
            return read_job(killer).status

        for attempt in (1, 2):
            # As an orchestrator does: each comes in the place of one that died.
            worker = start_worker()
            assert worker.popen.wait(timeout=60) == -signal.SIGKILL
            assert (read_job(killer).status, read_job(killer).attempt) == ("running", attempt)
            assert read_job(other).status == "queued"
            wait_for(lambda: swept() != "running", 30, "end of the lease")

        job = client.get(f"/jobs/{killer}").json()
        assert (job["status"], job["terminal"], job["error"]["code"]) == ("failed", True, "worker_lost")
        for part in ("2 workers in a row", "Most often the machine runs out of memory"):
            assert part in job["error"]["message"]
        assert attempts_of(killer) == [(1, "lost", None), (2, "lost", "worker_lost")]

        worker = start_worker()
        wait_for(lambda: read_job(other).status == "succeeded", 60, "success of the other", process=worker)
        report = sweep_once()
        assert (report.waiting, report.expired.requeued) == (0, [])
        assert (read_job(killer).status, read_job(killer).attempt) == ("failed", 2)
        assert worker.popen.poll() is None
        # The folders of the dead went when the next worker started.
        wait_for(lambda: not list(get_settings().work_dir.iterdir()), 30, "empty work folder", process=worker)
        assert objects_after_sweep(killer) == []
