"""What Prometheus learns of runs that end in each of the ways there are."""

import threading
from collections.abc import Callable
from pathlib import Path

import yaml
from sqlalchemy import update
from structlog.testing import capture_logs

from app import exposition
from app.db.models import Job
from app.db.session import write_session
from app.repositories import imports, jobs
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.exposition import Scrape
from tests.fixtures.factories import claimed
from tests.worker.conftest import Bench, wait_for
from worker.runner import run_claim

RULES = Path(__file__).parents[2] / "k8s" / "alerts" / "prometheus-rules.yaml"
ATTEMPTS = "stillhouse_attempt_duration_seconds_count"


def now(bench: Bench, name: str, **labels: str) -> float:
    return Scrape(exposition.Exposition(bench.settings, "worker").render().decode()).value(name, **labels)


def stop(thread: threading.Thread) -> None:
    thread.join(20)
    assert not thread.is_alive()


class TestAttempt:
    def test_that_succeeds_tells_of_its_phases(self, local_bench: Bench, since: Callable[..., float]) -> None:
        local_bench.add_job()
        local_bench.run("student")
        assert since(ATTEMPTS, kind="job", outcome="succeeded") == 1
        assert since(ATTEMPTS, kind="dataset", outcome="succeeded") == 1
        assert since(ATTEMPTS, kind="teacher", outcome="succeeded") == 1
        for phase in ("fetching", "training", "storing"):
            assert since("stillhouse_job_phase_duration_seconds_count", phase=phase, outcome="succeeded") == 1
        assert since("stillhouse_engine_exits_total", exit="0") == 1
        assert since("stillhouse_work_ended_total", kind="job", outcome="succeeded") == 1
        assert since("stillhouse_work_ended_total", kind="dataset", outcome="ready") == 1

    def test_that_fails_tells_the_code(self, local_bench: Bench, since: Callable[..., float]) -> None:
        local_bench.add_job()
        local_bench.run("failing")
        assert since(ATTEMPTS, kind="job", outcome="failed") == 1
        assert since("stillhouse_work_failed_total", kind="job", error_code="nan_loss") == 1
        assert since("stillhouse_engine_exits_total", exit="70") == 1
        assert since("stillhouse_checkpoint_upload_duration_seconds_count", outcome="stored") == 1
        assert since("stillhouse_checkpoint_upload_bytes_total") > 0

    def test_whose_engine_was_killed_has_failed_and_its_job_has_not(
        self, local_bench: Bench, since: Callable[..., float]
    ) -> None:
        job_id = local_bench.add_job()
        local_bench.run("killed_later")
        assert local_bench.job(job_id).status == "queued"
        assert since(ATTEMPTS, kind="job", outcome="failed") == 1
        assert since("stillhouse_engine_exits_total", exit="SIGKILL") == 1
        assert since("stillhouse_work_ended_total", kind="job") == 0

    def test_that_is_cancelled(self, local_bench: Bench, since: Callable[..., float]) -> None:
        job_id = local_bench.add_job()
        _, thread = local_bench.start("endless")
        with write_session() as session:
            jobs.request_cancel(session, job_id)
        stop(thread)
        assert since(ATTEMPTS, kind="job", outcome="cancelled") == 1
        # Harm: an alert on engines that somebody kills goes off when users cancel their jobs.
        assert since("stillhouse_engine_exits_total", exit="told_to") == 1
        assert since("stillhouse_engine_exits_total", exit="SIGKILL") == 0
        assert since("stillhouse_work_ended_total", kind="job", outcome="cancelled") == 1

    def test_whose_engine_needs_too_much_memory(
        self, local_bench: Bench, since: Callable[..., float], change_settings: ChangeSettings
    ) -> None:
        change_settings(engine_memory_limit_bytes=300 * 1024**2)
        local_bench.add_job()
        local_bench.run("greedy")
        assert since("stillhouse_engine_exits_total", exit="over_memory") == 1
        assert since("stillhouse_engine_exits_total", exit="SIGKILL") == 0

    def test_whose_dataset_was_deleted_while_it_waited_is_lost(
        self, local_bench: Bench, since: Callable[..., float]
    ) -> None:
        """Harm: it counts as a dataset that is ready, and there is none."""
        dataset_id = local_bench.add_dataset({"train.csv": b"text,label\na,x\nb,y\n"})
        claim = claimed()
        with write_session() as session:
            imports.remove(session, "dataset", dataset_id)
        run_claim(claim, local_bench.settings, local_bench.shutdown)
        assert since(ATTEMPTS, kind="dataset", outcome="lost") == 1
        assert since(ATTEMPTS, kind="dataset", outcome="succeeded") == 0

    def test_that_is_paused(self, local_bench: Bench, since: Callable[..., float]) -> None:
        job_id = local_bench.add_job()
        _, thread = local_bench.start("endless")
        with write_session() as session:
            jobs.request_pause(session, job_id)
        stop(thread)
        assert since(ATTEMPTS, kind="job", outcome="paused") == 1
        assert since("stillhouse_engine_exits_total", exit="75") == 1
        assert since("stillhouse_work_ended_total", kind="job") == 0

    def test_that_is_handed_back(self, local_bench: Bench, since: Callable[..., float]) -> None:
        local_bench.add_job()
        _, thread = local_bench.start("endless")
        local_bench.shutdown.request()
        stop(thread)
        assert since(ATTEMPTS, kind="job", outcome="handed_back") == 1

    def test_whose_lease_was_taken(self, local_bench: Bench, since: Callable[..., float]) -> None:
        job_id = local_bench.add_job()
        _, thread = local_bench.start("deaf")
        with write_session() as session:
            session.execute(update(Job).where(Job.id == job_id).values(run_token="another"))
        stop(thread)
        assert since(ATTEMPTS, kind="job", outcome="lost") == 1
        assert since("stillhouse_leases_lost_total", kind="job") == 1


class TestWhileItRuns:
    def test_worker_is_busy_and_the_engine_s_memory_is_seen(self, local_bench: Bench) -> None:
        local_bench.add_job()
        assert now(local_bench, "stillhouse_worker_busy") == 0
        _, thread = local_bench.start("endless")
        wait_for(lambda: now(local_bench, "stillhouse_engine_memory_bytes") > 1_000_000)
        assert now(local_bench, "stillhouse_worker_busy", kind="job") == 1
        assert now(local_bench, "stillhouse_engine_memory_limit_bytes") > 0
        local_bench.shutdown.request()
        stop(thread)
        for name in ("worker_busy", "engine_memory_bytes", "engine_memory_limit_bytes"):
            assert now(local_bench, f"stillhouse_{name}") == 0

    def test_memory_of_its_device_is_seen_until_it_ends(self, local_bench: Bench) -> None:
        local_bench.add_job()
        _, thread = local_bench.start("on_a_device")
        assert now(local_bench, "stillhouse_engine_device_memory_bytes", device="GPU of a test") == 3e9
        assert now(local_bench, "stillhouse_engine_device_memory_total_bytes") == 8e10
        local_bench.shutdown.request()
        stop(thread)
        assert now(local_bench, "stillhouse_engine_device_memory_bytes") == 0


class TestAlerts:
    def test_only_checkpoints_that_were_stored_tell_how_long_storing_takes(self) -> None:
        """Harm: what is dropped is dropped soon, so a store too slow for all of them would pass for a fast one."""
        rules = [rule for group in yaml.safe_load(RULES.read_text())["spec"]["groups"] for rule in group["rules"]]
        (slow,) = [rule for rule in rules if rule["alert"] == "StillhouseCheckpointsAreSlow"]
        assert 'stillhouse_checkpoint_upload_duration_seconds_bucket{outcome="stored"}' in slow["expr"]


class TestEngineOutput:
    def test_is_in_the_log_under_the_ids_of_its_job(self, local_bench: Bench) -> None:
        job_id = local_bench.add_job(request_id="req-42")
        with capture_logs(processors=[_with_context]) as logs:
            local_bench.run("crashing", claimed())
        lines = [entry for entry in logs if entry["event"] == "engine_output"]
        assert any("an unforeseen end" in entry["line"] for entry in lines)
        assert {(entry["job_id"], entry["attempt"], entry["request_id"]) for entry in lines} == {(job_id, 1, "req-42")}


def _with_context(logger: object, method: str, event: dict[str, object]) -> dict[str, object]:
    from structlog.contextvars import merge_contextvars

    return dict(merge_contextvars(logger, method, event))
