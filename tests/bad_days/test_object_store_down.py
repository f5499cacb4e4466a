"""The object store is away: runs go on and store later what they have, clients are told to come again."""

import hashlib
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from app.settings import get_settings
from app.sweep import sweep_once
from tests.app.routes.helpers import check_error, succeeded_job
from tests.app.routes.processes import api_process
from tests.bad_days.conftest import Outage, Script, StartWorker
from tests.bad_days.jobs import (
    add_inputs,
    api,
    attempts_of,
    check_student,
    checkpoint_steps,
    objects_after_sweep,
    post_job,
    store,
)
from tests.e2e.system import wait_for
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import claimed, read_job
from tests.worker.scripted_engine import STEP
from worker.patience import patiently
from worker.runner import run_claim
from worker.stopping import Shutdown

pytestmark = [pytest.mark.xdist_group("bad_days_store"), pytest.mark.usefixtures("postgres_database")]


@pytest.fixture(autouse=True)
def quick_leases(change_settings: ChangeSettings) -> None:
    change_settings(lease_seconds=5, heartbeat_seconds=0.5)


class TestRunUnderWay:
    def test_goes_on_and_its_uploads_are_made_when_the_store_is_back(
        self, failing_s3: Outage, script: Script, start_worker: StartWorker
    ) -> None:
        add_inputs()
        script.play("steered")
        job_id = post_job(api())
        worker = start_worker()
        script.tell(job_id, "checkpoint")
        wait_for(lambda: checkpoint_steps(job_id) == [STEP], 30, "checkpoint", process=worker)

        with failing_s3.away():
            script.tell(job_id, "checkpoint")
            script.tell(job_id, "progress")
            wait_for(lambda: read_job(job_id).progress == 0.3, 30, "progress", process=worker)
            wait_for(lambda: _retries(worker.log, f"jobs/{job_id}"), 60, "second try", process=worker)
        wait_for(lambda: checkpoint_steps(job_id) == [STEP, 2 * STEP], 60, "late checkpoint", process=worker)

        with failing_s3.away():
            script.tell(job_id, "finish")
            wait_for(lambda: _retries(worker.log, "/artifact/"), 60, "try to store the student", process=worker)
            assert read_job(job_id).status == "running"
        wait_for(lambda: read_job(job_id).status == "succeeded", 60, "success", process=worker)
        assert attempts_of(job_id) == [(1, "succeeded", None)]
        check_student(job_id)


class TestClaim:
    def test_waits_for_its_inputs_unless_it_is_cancelled(self, failing_s3: Outage, start_worker: StartWorker) -> None:
        """Harm: a worker that waits for its store is deaf for ten minutes."""
        add_inputs()
        client = api()
        with failing_s3.away():
            unwanted = post_job(client)
            worker = start_worker()
            wait_for(lambda: _retries(worker.log, "fetching teachers/"), 60, "second try", process=worker)
            job_id = post_job(client)
            assert [read_job(row).status for row in (unwanted, job_id)] == ["running", "queued"]
            assert client.post(f"/jobs/{unwanted}/cancel").status_code == 202
            wait_for(lambda: read_job(unwanted).status == "cancelled", 30, "end of the first", process=worker)
            wait_for(lambda: read_job(job_id).status == "running", 30, "claim of the second", process=worker)
        wait_for(lambda: read_job(job_id).status == "succeeded", 60, "success", process=worker)
        assert attempts_of(job_id) == [(1, "succeeded", None)]
        check_student(job_id)
        assert objects_after_sweep(unwanted) == []

    def test_is_handed_back_when_the_patience_is_over_and_costs_no_attempt(
        self,
        failing_s3: Outage,
        change_settings: ChangeSettings,
        monkeypatch: pytest.MonkeyPatch,
        start_worker: StartWorker,
    ) -> None:
        """Harm: as long as the store is away, each worker fails a job every ten minutes with which nothing is wrong."""
        assert patiently.__kwdefaults__ is not None
        monkeypatch.setitem(patiently.__kwdefaults__, "patience_seconds", 0.1)
        change_settings(max_attempts=1)
        add_inputs()
        job_id = post_job(api())
        with failing_s3.away():
            for _ in range(2):
                failure = run_claim(claimed(), get_settings(), Shutdown(seconds=5.0))
                assert failure is not None
                assert failure.code == "storage_unavailable"
                assert "fetching teachers/tch_demo" in failure.message
        job = read_job(job_id)
        assert (job.status, job.error_code, job.fruitless_attempts) == ("queued", None, 0)
        worker = start_worker()
        wait_for(lambda: read_job(job_id).status == "succeeded", 60, "success", process=worker)
        assert attempts_of(job_id) == [
            (1, "failed", "storage_unavailable"),
            (2, "failed", "storage_unavailable"),
            (3, "succeeded", None),
        ]


class TestRoutes:
    def test_of_files_answer_503_and_a_broken_download_can_be_resumed(self, failing_s3: Outage, tmp_path: Path) -> None:
        content = bytes(range(256)) * (32 * 1024**2 // 256)
        job_id = succeeded_job({"model.safetensors": content})
        before = {stored.key for stored in store().list("")}
        path = f"/jobs/{job_id}/artifacts/model.safetensors"
        with ExitStack() as stack:
            process = stack.enter_context(api_process(tmp_path))
            client = stack.enter_context(httpx.Client(base_url=process.address, timeout=60))
            first: list[bytes] = []
            with client.stream("GET", path) as response:
                chunks = response.iter_raw(1024**2)
                first.append(next(chunks))
                failing_s3.stop()
                with pytest.raises(httpx.RemoteProtocolError):
                    first.extend(chunks)
            begun = b"".join(first)
            for answer in (
                client.get(path, headers={"Range": "bytes=0-0"}),
                client.post("/datasets", files={"train": ("a.csv", b"text,label\na,b\n")}),
            ):
                check_error(answer, status=503, code="object_store_unavailable", param=None, message=["again"])
                assert int(answer.headers["Retry-After"]) > 0
            # What needs no file works.
            assert client.get(f"/jobs/{job_id}/artifacts").status_code == 200
            assert "answer_broke_off" in process.log()
            assert "Traceback" not in process.log()

            failing_s3.start()
            rest = client.get(path, headers={"Range": f"bytes={len(begun)}-", "If-Range": response.headers["ETag"]})
            assert rest.status_code == 206
            assert hashlib.sha256(begun + rest.content).digest() == hashlib.sha256(content).digest()
        sweep_once()
        assert {stored.key for stored in store().list("")} == before


def _retries(log: Path, what: str) -> int:
    """How often the worker has asked the store again for `what`."""
    return sum('"retrying"' in line and what in line for line in log.read_text(errors="replace").splitlines())
