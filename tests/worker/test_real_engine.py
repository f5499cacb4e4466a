"""The worker and the real engine together: one whole run, and one that is killed and goes on."""

import psutil

from app.db.session import read_session
from app.domain.jobs import TERMINAL
from app.repositories import artifacts, metrics
from app.sweep import sweep_once
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import claimed
from tests.worker.conftest import TRAINING, Bench, StartWorker, wait_for
from worker.runner import run_claim

TUNING = {
    "epochs": 1.0,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "seed": 7,
}


class TestWholeRun:
    def test_student_of_one_job_is_the_teacher_of_the_next(self, local_bench: Bench) -> None:
        job_id = local_bench.add_job(teacher_tuning=TUNING)
        run_claim(claimed(), local_bench.settings, local_bench.shutdown)

        job = local_bench.job(job_id)
        assert (job.status, job.error_message) == ("succeeded", None)
        assert job.result is not None
        assert {"teacher", "student"} <= set(job.result)
        with read_session() as session:
            names = {row.name for row in artifacts.list_for_job(session, job_id)}
            assert metrics.list_points(session, job_id)
        assert {"config.json", "model.safetensors", "manifest.json", "student.tar.gz"} <= names
        kinds = {key.split("/")[1] for key in local_bench.objects("cache")}
        assert kinds >= {"tuned_teachers", "teacher_outputs"}

        teacher_id = local_bench.add_teacher({"type": "job", "job": job_id})
        run_claim(claimed(), local_bench.settings, local_bench.shutdown)
        teacher = local_bench.teacher(teacher_id)
        assert (teacher.status, teacher.error_message) == ("ready", None)
        assert (teacher.layers, teacher.num_labels) == (2, 3)


class TestKilledWorker:
    def test_engine_is_gone_within_seconds_and_the_next_worker_finishes_the_job(
        self, local_bench: Bench, start_worker: StartWorker, change_settings: ChangeSettings
    ) -> None:
        change_settings(checkpoint_seconds=0.2, lease_seconds=2, heartbeat_seconds=0.5)
        job_id = local_bench.add_job(training={**TRAINING, "epochs": 60.0})
        worker = start_worker()
        wait_for(lambda: local_bench.checkpoint_steps(job_id), seconds=60)
        family = psutil.Process(worker.process.pid).children(recursive=True)
        assert family, "the engine runs"

        worker.kill()
        wait_for(lambda: not any(is_alive(process) for process in family))
        assert local_bench.job(job_id).status == "running"

        wait_for(lambda: sweep_once(local_bench.settings).expired.requeued)
        start_worker()
        wait_for(lambda: local_bench.job(job_id).status in TERMINAL, seconds=90)
        job = local_bench.job(job_id)
        assert (job.status, job.error_message) == ("succeeded", None)
        resumed = [event for event in local_bench.events(job_id) if event["type"] == "resumed"]
        assert [event["exact_resume"] for event in resumed] == [True]
        wait_for(lambda: not list(local_bench.settings.work_dir.iterdir()))


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
