"""The disk of a worker is full: the job fails and says so, the worker lives on and does the next one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad_days.conftest import Script, StartWorker
from tests.bad_days.jobs import attempts_of
from tests.e2e.system import wait_for
from tests.fixtures.disk import fill, mounted_disk
from tests.fixtures.environment import ChangeSettings
from tests.worker.conftest import Bench, bench, local_bench, teacher_folder  # noqa: F401 - fixtures

pytestmark = pytest.mark.xdist_group("bad_days_disk")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", "16m") as folder:
        yield folder


class TestWorker:
    def test_survives_it_at_each_stage_of_a_run(
        self,
        local_bench: Bench,  # noqa: F811
        disk: Path,
        script: Script,
        start_worker: StartWorker,
        change_settings: ChangeSettings,
    ) -> None:
        inputs = local_bench.ready_inputs()
        change_settings(work_dir=disk)
        worker = start_worker()

        def wait_for_empty_disk() -> None:
            # The folder goes once the job's end is written, so that a crash between the two loses nothing.
            wait_for(lambda: not any(path.is_dir() for path in disk.iterdir()), 30, "empty disk", process=worker)

        def check_full(job_id: str) -> None:
            wait_for(lambda: local_bench.job(job_id).status != "queued", 30, "claim", process=worker)
            wait_for(lambda: local_bench.job(job_id).status == "failed", 90, "end of the job", process=worker)
            job = local_bench.job(job_id)
            assert job.error_code == "disk_full", job.error_message
            assert "STILLHOUSE_WORK_DIR" in str(job.error_message)
            assert attempts_of(job_id) == [(1, "failed", "disk_full")]
            wait_for_empty_disk()

        filler = fill(disk)
        check_full(local_bench.add_job(inputs))  # there is no room for the inputs
        filler.unlink()

        # The real engine, which meets the full disk while it writes.
        for place in ("worker.distill.run_checkpoints:save_checkpoint", "worker.distill.loop:write_artifact"):
            script.play(f"full {place}")
            check_full(local_bench.add_job(inputs))

        script.play("pausing_student")
        job_id = local_bench.add_job(inputs)
        wait_for(lambda: local_bench.job(job_id).status == "succeeded", 60, "success", process=worker)
        wait_for_empty_disk()
        assert list(disk.iterdir()) == []
