import threading
import time

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import get_settings
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job, claimed, expire, read_job


def sweeping() -> bool:
    return any(thread.name == "sweep" for thread in threading.enumerate())


class TestLifespan:
    @pytest.mark.usefixtures("sqlite_database")
    def test_sweeps_while_it_serves_in_embedded_mode(self, change_settings: ChangeSettings) -> None:
        job_id = add_job()
        expire(claimed())
        with TestClient(create_app(change_settings(sweep_seconds=0.05))):
            deadline = time.monotonic() + 60
            while read_job(job_id).status != "queued" and time.monotonic() < deadline:
                time.sleep(0.02)
            assert read_job(job_id).status == "queued"
        assert not sweeping()

    @pytest.mark.usefixtures("postgres_database")
    def test_leaves_the_sweep_to_the_scheduler_in_a_cluster(self) -> None:
        with TestClient(create_app(get_settings())):
            assert not sweeping()
