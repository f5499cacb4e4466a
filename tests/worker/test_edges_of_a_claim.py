"""What lies at the edges of a claim: a machine that is broken, an engine that others stop, a cancel that finds the
worker in a call that nothing can interrupt, answers that are lost."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from obstore.exceptions import GenericError
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from app.db.models import Attempt, Dataset, Teacher
from app.db.session import read_session, write_session
from app.domain.leases import Claim
from app.repositories import checkpoints, jobs, leases
from app.repositories.checkpoints import CheckpointFacts
from app.storage import keys
from app.storage.store import ObjectStore
from app.sweep import sweep_once
from tests.bad_days.jobs import attempts_of
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job, claimed, expire
from tests.worker.conftest import Bench, scripted, wait_for, wait_until_over
from worker import cache_store, runner, work_loop
from worker.lease_keeper import LeaseKeeper
from worker.patience import patiently
from worker.work_loop import WorkLoop


class TestBrokenMachine:
    @pytest.fixture(autouse=True)
    def rest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(work_loop, "LONGEST_REST_SECONDS", 0.01)
        monkeypatch.setattr(work_loop, "log", structlog.get_logger())

    def faults(self, bench: Bench, part: str) -> list[int]:
        """How many there had been one after the other, each time that a worker rests which does all that waits."""
        with capture_logs() as said:
            WorkLoop(bench.settings, engine=scripted(part)).run_until_idle()
        return [line["faults"] for line in said if line["event"] == "worker_rests"]

    def test_rests_longer_after_each_failure_that_may_be_its_own(self, local_bench: Bench) -> None:
        """Harm: a worker whose device or disk is broken takes the whole queue and fails it, while others stand by."""
        inputs = local_bench.ready_inputs()
        job_ids = [local_bench.add_job(inputs) for _ in range(3)]
        assert self.faults(local_bench, "crashing") == [1, 2, 3]
        assert {local_bench.job(job_id).error_code for job_id in job_ids} == {"engine_died"}

    def test_rests_after_an_engine_that_was_killed_before_it_got_anywhere(
        self, local_bench: Bench, change_settings: ChangeSettings
    ) -> None:
        change_settings(max_attempts=2)
        local_bench.add_job()
        assert self.faults(local_bench, "killed") == [1, 2]

    def test_rests_after_a_gpu_that_failed_where_it_may_go_on_without(
        self, local_bench: Bench, change_settings: ChangeSettings
    ) -> None:
        change_settings(max_attempts=2)
        local_bench.add_job()
        assert self.faults(local_bench, "losing_device") == [1, 2]

    def test_has_no_fault_where_the_engine_had_got_further(self, local_bench: Bench) -> None:
        """Harm: a worker whose engines are killed now and then works on one job of four."""
        local_bench.add_job()
        claim = claimed()
        engine = scripted("killed_later")
        assert runner.run_claim(claim, local_bench.settings, local_bench.shutdown, engine=engine) is None
        assert local_bench.job(claim.id).status == "queued"

    def test_goes_on_at_once_after_one_that_is_the_jobs(self, local_bench: Bench) -> None:
        inputs = local_bench.ready_inputs()
        job_ids = [local_bench.add_job(inputs) for _ in range(2)]
        assert self.faults(local_bench, "failing") == []
        assert {local_bench.job(job_id).error_code for job_id in job_ids} == {"nan_loss"}


class TestStoreThatRefusesOneWork:
    """It answers, but not about what has one of the names `refused`, and the worker has no patience."""

    @pytest.fixture
    def refused(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        assert patiently.__kwdefaults__ is not None
        monkeypatch.setitem(patiently.__kwdefaults__, "patience_seconds", 0.0)
        monkeypatch.setattr(work_loop, "LONGEST_REST_SECONDS", 0.01)
        monkeypatch.setattr(work_loop, "log", structlog.get_logger())

        names = list[str]()
        for method in ("put_file", "get_file"):
            real = getattr(ObjectStore, method)

            def ask(self: ObjectStore, key: str, path: Path, real: Callable[..., int] = real) -> int:
                if any(name in key for name in names):
                    raise GenericError("403")
                return real(self, key, path)

            monkeypatch.setattr(ObjectStore, method, ask)
        return names

    def test_ends_a_job_after_as_many_workers_as_it_may_have(
        self, local_bench: Bench, refused: list[str], change_settings: ChangeSettings
    ) -> None:
        """Harm: a job whose teacher nobody may read is tried for ever."""
        change_settings(max_attempts=2)
        job_id = local_bench.add_job()
        refused.append("teachers/")
        with capture_logs() as said:
            WorkLoop(local_bench.settings, engine=scripted("student")).run_until_idle()
        job = local_bench.job(job_id)
        assert (job.status, job.error_code) == ("failed", "storage_unavailable")
        for part in ("fetching teachers/", "object store", "POST /jobs/{id}/retry"):
            assert part in str(job.error_message)
        # While it waits that is refused with 409.
        with read_session() as session:
            message = str(session.scalar(select(Attempt.error_message).where(Attempt.number == 1)))
        assert "fetching teachers/" in message
        assert message.endswith("wait: it is tried again by itself.")
        assert attempts_of(job_id) == [(1, "failed", "storage_unavailable"), (2, "failed", "storage_unavailable")]
        assert [line["faults"] for line in said if line["event"] == "worker_rests"] == [1, 2]

    @pytest.mark.parametrize("kind", ["dataset", "teacher"])
    def test_ends_an_import_likewise(
        self, local_bench: Bench, refused: list[str], change_settings: ChangeSettings, kind: str
    ) -> None:
        change_settings(max_attempts=2)
        rows: dict[str, Callable[[str], Dataset | Teacher]] = {
            "dataset": local_bench.dataset,
            "teacher": local_bench.teacher,
        }
        if kind == "dataset":
            row_id = local_bench.add_dataset({"train.csv": b"text,label\na,b\n"})
        else:
            row_id = local_bench.add_teacher()
        refused.append(f"{kind}s/")
        runner.run_claim(claimed(), local_bench.settings, local_bench.shutdown)
        row = rows[kind](row_id)
        assert (row.status, row.run_token, row.fruitless_attempts) == ("pending", None, 1)
        runner.run_claim(claimed(), local_bench.settings, local_bench.shutdown)
        row = rows[kind](row_id)
        assert (row.status, row.error_code) == ("failed", "storage_unavailable")

    def test_leaves_a_student_that_it_does_not_take_to_the_next_worker(
        self, local_bench: Bench, refused: list[str], change_settings: ChangeSettings
    ) -> None:
        """Harm: a student that took hours is thrown away because the store was out of order for ten minutes."""
        job_id = local_bench.add_job()
        refused.append("/artifact/onnx")
        local_bench.run("pausing_student")
        assert local_bench.job(job_id).status == "queued"
        # Of what was stored of it nothing is left but what the next worker goes on from.
        sweep_once(change_settings(cleanup_delay_seconds=0.001))
        assert all("/checkpoints/" in key for key in local_bench.objects(keys.job_root(job_id)))
        refused.clear()
        local_bench.run("student")
        assert local_bench.job(job_id).status == "succeeded"
        assert attempts_of(job_id) == [(1, "failed", "storage_unavailable"), (2, "succeeded", None)]


class TestWorkThatIsTakenOrGivenBack:
    @pytest.mark.parametrize("is_lost", [True, False])
    def test_leaves_what_is_named_and_what_the_next_worker_stores(
        self, local_bench: Bench, change_settings: ChangeSettings, is_lost: bool
    ) -> None:
        """Harm: a job that is paused, or waits for long, keeps what its lost workers stored in vain; or the next one
        loses what it goes on from."""
        job_id = add_job()
        claim = claimed()
        prefix = keys.job_checkpoint(job_id, claim.run_token, 10)
        recorded, vain = f"{prefix}/state.json", keys.job_artifact(job_id, claim.run_token, "model.safetensors")
        for key in (recorded, vain):
            local_bench.store.put_bytes(key, b"x")
        with write_session() as session:
            checkpoints.record(session, claim, CheckpointFacts(step=10), object_prefix=prefix, files=[])
        if is_lost:
            expire(claim)
            with write_session() as session:
                assert leases.take_back_expired(session, max_attempts=3).requeued == [("job", job_id)]
        else:
            with write_session() as session:
                assert leases.release(session, claim)
        begun = keys.job_checkpoint(job_id, claimed().run_token, 20) + "/state.json"
        local_bench.store.put_bytes(begun, b"x")
        sweep_once(change_settings(cleanup_delay_seconds=0.001))
        assert local_bench.objects(keys.job_root(job_id)) == sorted([recorded, begun])


class TestEngineThatOthersStop:
    def test_counts_as_one_that_was_killed(self, local_bench: Bench, change_settings: ChangeSettings) -> None:
        """Harm: where a program watches over the machine's memory, a job that does not fit is tried for ever."""
        change_settings(max_attempts=2)
        job_id = local_bench.add_job()
        local_bench.run("stopped")
        assert local_bench.job(job_id).status == "queued"
        local_bench.run("stopped")
        job = local_bench.job(job_id)
        assert (job.status, job.error_code) == ("failed", "engine_died")
        assert "SIGTERM" in str(job.error_message)
        assert attempts_of(job_id) == [(1, "failed", "engine_died"), (2, "failed", "engine_died")]


class TestCancelOfAStuckWorker:
    @pytest.fixture
    def held_student(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
        """A store that has a file of the student in hand: the first event says so, the second lets it go on."""
        is_held, is_let = threading.Event(), threading.Event()
        put_file = ObjectStore.put_file

        def put(self: ObjectStore, key: str, path: Path) -> int:
            if "/artifact" in key:
                is_held.set()
                is_let.wait(60)
            return put_file(self, key, path)

        monkeypatch.setattr(ObjectStore, "put_file", put)
        yield is_held, is_let
        is_let.set()

    def test_ends_the_job_and_the_sweep_gets_what_is_stored_after_it(
        self,
        local_bench: Bench,
        held_student: tuple[threading.Event, threading.Event],
        change_settings: ChangeSettings,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Harm: on a slow line a cancelled job goes on for as long as its student takes to be stored."""
        monkeypatch.setattr(runner, "CANCEL_SECONDS", 0.5)
        is_held, is_let = held_student
        job_id = local_bench.add_job()
        _, thread = local_bench.begin("student")
        assert is_held.wait(60)
        with write_session() as session:
            jobs.request_cancel(session, job_id)
        wait_for(lambda: local_bench.job(job_id).status == "cancelled")
        assert thread.is_alive()

        is_let.set()
        wait_until_over(thread)
        assert local_bench.job(job_id).status == "cancelled"
        assert attempts_of(job_id) == [(1, "cancelled", None)]
        sweep_once(change_settings(cleanup_delay_seconds=0.001))
        assert local_bench.objects(keys.job_root(job_id)) == []


class TestLostAnswers:
    def test_of_a_renewal_count_no_second_twice(
        self, local_bench: Bench, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: a job is out of time that has had a part of it."""
        change_settings(heartbeat_seconds=0.1)
        job_id = local_bench.add_job(time_limit_seconds=600.0)
        claim = claimed()
        renew, counted = leases.renew, []

        def renew_and_lose(session: Session, claim: Claim, seconds: float, **more: Any) -> str:
            renew(session, claim, seconds, **more)
            session.commit()
            counted.append(local_bench.job(job_id).run_seconds)
            raise OperationalError("COMMIT", None, ConnectionResetError())

        monkeypatch.setattr(leases, "renew", renew_and_lose)
        with LeaseKeeper(claim, local_bench.settings, local_bench.shutdown) as keeper:
            keeper.begin_run()
            wait_for(lambda: len(counted) >= 4)
            assert not keeper.is_out_of_time
            spent = keeper.run_seconds
        assert counted == sorted(counted)
        assert counted[-1] <= spent

    def test_of_the_store_about_the_age_of_a_cache_entry_fail_no_job(
        self, local_bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cache_store, "PATIENCE_SECONDS", 0.1)
        inputs = local_bench.ready_inputs()
        local_bench.add_job(inputs)
        local_bench.run("student")

        def modified_at(_store: ObjectStore, key: str) -> None:
            raise GenericError(f"no answer about {key}")

        monkeypatch.setattr(ObjectStore, "modified_at", modified_at)
        job_id = local_bench.add_job(inputs)
        local_bench.run("student")
        assert local_bench.job(job_id).status == "succeeded"
        assert [event for event in local_bench.events(job_id) if event.get("code") == "cached"]
