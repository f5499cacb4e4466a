"""The worker as a process: how it hears of work, and how it ends."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from app import queue
from app.db.session import read_session
from app.repositories import attempts
from tests.fixtures.environment import ChangeSettings
from tests.worker.conftest import Bench, StartWorker, wait_for
from worker.distill import exit_codes

HEARING_WORKER = "tests.worker.hearing_worker"
HASTY_WORKER = "tests.worker.hasty_worker"
HELD_WORKER = "tests.worker.held_worker"
SLOW_WORKER = "tests.worker.slow_worker"
STALLED_WORKER = "tests.worker.stalled_worker"
CSV = b"text,label\n" + b"".join(b"row %d,%s\n" % (number, b"ab"[number % 2 :][:1]) for number in range(20))


class TestHearing:
    @pytest.mark.usefixtures("sqlite_database", "folder_object_store", "broker")
    def test_a_message_wakes_it(self, bench: Bench, start_worker: StartWorker) -> None:
        start_worker(HEARING_WORKER).wait_until_ready()
        dataset_id = bench.add_dataset({"train.csv": CSV})
        assert queue.wake(bench.settings)
        wait_for(lambda: bench.dataset(dataset_id).status == "ready")

    def test_a_message_wakes_it_after_a_power_cut(self, local_bench: Bench, start_worker: StartWorker) -> None:
        """Harm: what the power cut tore in the queue's folder ends every worker that comes, for ever."""
        folder = local_bench.settings.queue_dir
        assert folder is not None
        for torn in ("control/stillhouse.exchange", "messages/1_0.stillhouse.msg"):
            (folder / torn).parent.mkdir(parents=True, exist_ok=True)
            (folder / torn).touch()
        start_worker(HEARING_WORKER).wait_until_ready()
        dataset_id = local_bench.add_dataset({"train.csv": CSV})
        assert queue.wake(local_bench.settings)
        wait_for(lambda: local_bench.dataset(dataset_id).status == "ready")

    def test_work_that_nobody_announced_is_found(self, local_bench: Bench, start_worker: StartWorker) -> None:
        start_worker(HASTY_WORKER).wait_until_ready()
        dataset_id = local_bench.add_dataset({"train.csv": CSV})
        wait_for(lambda: local_bench.dataset(dataset_id).status == "ready")

    def test_a_broker_that_is_down_delays_nothing(
        self, local_bench: Bench, start_worker: StartWorker, change_settings: ChangeSettings
    ) -> None:
        change_settings(broker_url="redis://127.0.0.1:9/0")
        dataset_id = local_bench.add_dataset({"train.csv": CSV})
        worker = start_worker()
        wait_for(lambda: local_bench.dataset(dataset_id).status == "ready")
        worker.process.terminate()
        assert worker.process.wait(local_bench.settings.shutdown_seconds + 10) in (0, 1)
        assert "worker_stop_timed_out" not in worker.log

    @pytest.mark.usefixtures("database", "folder_object_store")
    def test_two_workers_share_the_work(self, bench: Bench, start_worker: StartWorker, tmp_path: Path) -> None:
        is_let = tmp_path / "is-let"
        workers = [start_worker(HELD_WORKER, HELD_UNTIL=str(is_let)) for _ in range(2)]
        for worker in workers:
            worker.wait_until_ready()
        datasets = [bench.add_dataset({"train.csv": CSV}) for _ in range(6)]
        for _ in datasets:
            queue.wake(bench.settings)
        # The one that was the first to hear of them does not have them all done before the other hears of any.
        wait_for(lambda: all("work_begun" in worker.log for worker in workers))
        is_let.touch()
        wait_for(lambda: all(bench.dataset(row).status == "ready" for row in datasets))
        begun = sum(worker.log.count("work_begun") for worker in workers)
        assert begun == len(datasets)


class TestEnding:
    @pytest.mark.usefixtures("local_bench")
    def test_sigterm_ends_an_idle_worker_long_before_its_time_is_up(
        self, start_worker: StartWorker, change_settings: ChangeSettings
    ) -> None:
        change_settings(shutdown_seconds=300)
        worker = start_worker()
        worker.wait_until_ready()
        worker.process.terminate()
        assert worker.process.wait(30) == 0

    @pytest.mark.usefixtures("local_bench")
    def test_end_of_its_parent_ends_it_too(self, start_worker: StartWorker, change_settings: ChangeSettings) -> None:
        change_settings(shutdown_seconds=300)
        worker = start_worker(STILLHOUSE_WORKER_PARENT_PIPE="1")
        worker.wait_until_ready()
        worker.close_pipes()
        assert worker.process.wait(30) == 0

    def test_work_under_way_is_handed_back(
        self, local_bench: Bench, start_worker: StartWorker, change_settings: ChangeSettings
    ) -> None:
        """With the real engine, stopped while it loads: there is nothing to keep, and nothing is lost."""
        change_settings(shutdown_seconds=20)
        job_id = local_bench.add_job()
        worker = start_worker()
        wait_for(lambda: "engine_started" in worker.log)
        worker.process.terminate()
        time.sleep(0.2)
        worker.process.terminate()  # the impatient are not punished
        assert worker.process.wait(30) == 0  # and not 1: its time was not up
        job = local_bench.job(job_id)
        assert (job.status, job.attempt) == ("queued", 1)
        assert list(local_bench.settings.work_dir.iterdir()) == []

    def test_work_is_handed_back_too_that_was_there_before_celery_was(
        self, local_bench: Bench, start_worker: StartWorker, change_settings: ChangeSettings
    ) -> None:
        """Harm: a worker that is stopped as it starts dies with a job in hand, which then waits for its lease to run
        out, and the attempt counts as lost."""
        change_settings(shutdown_seconds=20)
        job_id = local_bench.add_job()
        worker = start_worker(SLOW_WORKER)
        wait_for(lambda: "engine_started" in worker.log)
        worker.process.terminate()
        assert worker.process.wait(30) == 0
        job = local_bench.job(job_id)
        assert (job.status, job.attempt) == ("queued", 1)

    def test_an_upload_that_does_not_end_holds_nothing_up(
        self, local_bench: Bench, start_worker: StartWorker, change_settings: ChangeSettings
    ) -> None:
        """Harm: a worker leaves without a word because the store is slow, the job waits until its lease has run out,
        and the attempt counts as lost."""
        change_settings(shutdown_seconds=8)
        job_id = local_bench.add_job()
        worker = start_worker(STALLED_WORKER, STALLED_KEYS="/checkpoints/", STALLED_PART="endless")
        worker.wait_until_ready()
        wait_for(lambda: local_bench.job(job_id).progress == 0.25)
        worker.process.terminate()
        assert worker.process.wait(30) == 0
        assert "stalled: jobs/" in worker.log
        check_handed_back(local_bench, job_id)
        assert local_bench.checkpoint_steps(job_id) == []
        assert list(local_bench.settings.work_dir.iterdir()) == []

    @pytest.mark.parametrize(("shutdown_seconds", "saving_seconds"), [(10, 8.0), (120, 115.0)])
    def test_some_of_its_time_is_kept_for_handing_back(
        self, change_settings: ChangeSettings, shutdown_seconds: int, saving_seconds: float
    ) -> None:
        """Harm: what is saved until the very last moment is saved in vain, because the worker is gone before the job
        is handed back."""
        change_settings(shutdown_seconds=shutdown_seconds)
        ask = "from worker.celery_app import work_loop; print(work_loop.shutdown.seconds)"
        seen = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
        assert float(seen.stdout) == saving_seconds

    def test_it_leaves_when_it_finds_its_gpu_no_more_and_the_job_waits_for_another(
        self, local_bench: Bench, start_worker: StartWorker, change_settings: ChangeSettings
    ) -> None:
        """With the real engine. Harm: a worker that only a new start gives its GPU back lives on for days without."""
        change_settings(engine_device="cuda")
        job_id = local_bench.add_job()
        worker = start_worker(HASTY_WORKER, CUDA_VISIBLE_DEVICES="")
        assert worker.process.wait(60) == exit_codes.NO_DEVICE
        assert "worker_leaves" in worker.log
        assert "STILLHOUSE_ENGINE_DEVICE is cuda" in worker.log
        check_handed_back(local_bench, job_id)
        assert list(local_bench.settings.work_dir.iterdir()) == []

    def test_work_is_handed_back_over_the_head_of_a_thread_that_is_stuck(
        self, local_bench: Bench, start_worker: StartWorker, change_settings: ChangeSettings
    ) -> None:
        """Harm: as above, of a job whose teacher is being fetched, or whose student is being stored."""
        change_settings(shutdown_seconds=8)
        job_id = local_bench.add_job()
        worker = start_worker(STALLED_WORKER, STALLED_KEYS="teachers/", STALLED_PART="student")
        worker.wait_until_ready()
        wait_for(lambda: "stalled: teachers/" in worker.log)
        worker.process.terminate()
        assert worker.process.wait(30) == 1
        check_handed_back(local_bench, job_id)


def check_handed_back(bench: Bench, job_id: str) -> None:
    """The job waits for another worker, and this one's go does not count."""
    job = bench.job(job_id)
    assert (job.status, job.run_token, job.attempt, job.fruitless_attempts) == ("queued", None, 1, 0)
    with read_session() as session:
        assert [attempt.outcome for attempt in attempts.list_for_job(session, job_id)] == ["handed_back"]


class TestImports:
    @pytest.mark.usefixtures("home")
    def test_the_celery_process_loads_no_model_library(self) -> None:
        check = (
            "import sys, worker.celery_app, worker.tasks; "
            "print(sorted({'torch', 'transformers', 'umap', 'faiss', 'numba'} & set(sys.modules)))"
        )
        seen = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
        assert seen.stdout.strip() == "[]"
