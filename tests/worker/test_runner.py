"""Runs from claim to end, and every way in which they end early. The engine is scripted, all else is real."""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError

from app import queue
from app.db.models import Job, ObjectCleanup
from app.db.session import dispose_engines, read_session, write_session
from app.db.types import db_now
from app.domain.jobs import JobStatus
from app.repositories import artifacts, checkpoints, jobs, leases, metrics
from app.repositories.checkpoints import CheckpointFacts
from app.settings import Settings
from app.storage import keys
from app.storage.store import ObjectStore
from app.sweep import sweep_once
from tests.app.test_queue import take_messages
from tests.bad_days.jobs import attempts_of
from tests.fixtures.disk import fill, mounted_disk
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import claim_next, claimed, expire
from tests.worker import scripted_engine
from tests.worker.conftest import Bench, wait_for, wait_until_over
from worker import job_run, lease_keeper, work
from worker.machine import engine_memory_limit_bytes
from worker.patience import patiently
from worker.runner import run_claim
from worker.stopping import Shutdown


def before_checkpoint_files(monkeypatch: pytest.MonkeyPatch, wait: Callable[[], object]) -> None:
    """A store that calls `wait` before it takes a file of a checkpoint."""
    put_file = ObjectStore.put_file

    def put(self: ObjectStore, key: str, path: Path) -> int:
        if "/checkpoints/" in key:
            wait()
        return put_file(self, key, path)

    monkeypatch.setattr(ObjectStore, "put_file", put)


@pytest.fixture
def held_upload(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A store that has the files of checkpoints in hand until the event is set."""
    is_let = threading.Event()
    before_checkpoint_files(monkeypatch, lambda: is_let.wait(60))
    yield is_let
    is_let.set()


@pytest.fixture
def hints(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much work was there to be claimed at each hint that a worker sent."""
    hints: list[int] = []
    wake = queue.wake

    def look_and_wake(settings: Settings) -> bool:
        with read_session(settings) as session:
            hints.append(leases.count_waiting(session))
        return wake(settings)

    monkeypatch.setattr(queue, "wake", look_and_wake)
    return hints


@pytest.fixture
def let_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets that many seconds go by at once, by the clock that a job's time is taken with."""
    ahead = 0.0

    def let(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(lease_keeper, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead))
    return let


class TestSucceededJob:
    @pytest.mark.usefixtures("database", "object_store")
    def test_leaves_a_whole_story_and_nothing_else(self, bench: Bench) -> None:
        job_id = bench.add_job()
        bench.run("student")
        job = bench.job(job_id)
        assert (job.status, job.error_code, job.progress) == ("succeeded", None, 1.0)
        assert job.result == {"student": {"parameters": 7}}
        assert (job.phase, job.round, job.rounds) == ("training", 1, 2)

        with read_session() as session:
            rows = {row.name: row for row in artifacts.list_for_job(session, job_id)}
            points = metrics.list_points(session, job_id)
        assert sorted(rows) == ["config.json", "onnx/model.onnx", "student.tar.gz"]
        for row in rows.values():
            content = bench.store.get_bytes(row.object_key)
            assert (len(content), hashlib.sha256(content).hexdigest()) == (row.size_bytes, row.sha256)
        assert points == [("train/loss", 0, 1.0), ("train/loss", 1, 0.5), ("train/loss", 2, None)]

        kinds = [event["type"] for event in bench.events(job_id)]
        assert kinds[:2] == ["status", "status"]
        assert sorted(set(kinds[2:-1]) - {"checkpoint"}) == ["phase", "round"]
        assert kinds[-1] == "status"
        # What the engine left for others is stored, what only this run needed is not kept.
        assert len(bench.objects("cache")) == 2
        assert bench.checkpoint_steps(job_id) == []
        assert list(bench.settings.work_dir.iterdir()) == []

    def test_next_job_on_the_same_inputs_finds_what_it_computed(self, local_bench: Bench) -> None:
        inputs = local_bench.ready_inputs()
        first, second = local_bench.add_job(inputs), local_bench.add_job(inputs)
        local_bench.run("student")
        local_bench.run("student")
        assert "warning" not in [event["type"] for event in local_bench.events(first)]
        warnings = [event for event in local_bench.events(second) if event["type"] == "warning"]
        assert [warning["message"] for warning in warnings] == ["logits"]

    def test_damaged_cache_entry_is_computed_anew(self, local_bench: Bench) -> None:
        inputs = local_bench.ready_inputs()
        local_bench.add_job(inputs)
        local_bench.run("student")
        entry = next(key for key in local_bench.objects("cache") if "/logits.bin." in key)
        local_bench.store.put_bytes(entry, b"rotten")
        second = local_bench.add_job(inputs)
        local_bench.run("student")
        assert local_bench.job(second).status == "succeeded"
        assert local_bench.store.get_bytes(entry) == b"logits"

    def test_slow_store_gets_the_checkpoints_that_it_can_take_and_is_spared_the_others(
        self, local_bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before_checkpoint_files(monkeypatch, lambda: time.sleep(0.2))
        job_id = local_bench.add_job()
        local_bench.run("pausing_student")
        assert local_bench.job(job_id).status == "succeeded"
        steps = [event["step"] for event in local_bench.events(job_id) if event["type"] == "checkpoint"]
        assert steps == sorted(set(steps))
        assert 1 < len(steps) < steps[-1]  # the engine numbers them from 1: some were passed over for newer ones


class TestFailedJob:
    def test_engines_own_words_reach_the_row(self, local_bench: Bench) -> None:
        job_id = local_bench.add_job()
        local_bench.run("failing")
        job = local_bench.job(job_id)
        assert (job.status, job.error_code) == ("failed", "nan_loss")
        assert "lower the learning rate" in str(job.error_message)
        assert local_bench.checkpoint_steps(job_id) == [scripted_engine.STEP]
        assert list(local_bench.settings.work_dir.iterdir()) == []

    def test_unexplained_death_quotes_the_log(self, local_bench: Bench) -> None:
        job_id = local_bench.add_job()
        local_bench.run("crashing")
        job = local_bench.job(job_id)
        assert (job.status, job.error_code) == ("failed", "engine_died")
        assert "an unforeseen end" in str(job.error_message)

    def test_a_killed_engine_is_tried_again_from_its_checkpoint(self, local_bench: Bench, hints: list[int]) -> None:
        """Harm: one stray kill, or one careless container limit, and hours of training are lost."""
        job_id = local_bench.add_job()
        local_bench.run("killed_later")
        job = local_bench.job(job_id)
        assert (job.status, job.attempt, job.fruitless_attempts) == ("queued", 1, 0)
        assert hints == [1]
        assert len(take_messages()) == 1
        local_bench.run("student")
        assert local_bench.job(job_id).status == "succeeded"
        resumed = [event for event in local_bench.events(job_id) if event["type"] == "resumed"]
        assert len(resumed) == 1

    def test_what_a_run_warned_of_stays_where_another_attempt_goes_on(self, local_bench: Bench) -> None:
        """Harm: a student that reads some texts otherwise than it was trained, and nobody who takes it is told."""
        job_id = local_bench.add_job()
        warnings = [{"code": "padding_in_texts", "message": "3 of 90 train rows contain '<pad>'."}]
        local_bench.run("doubting")
        assert (local_bench.job(job_id).status, local_bench.job(job_id).warnings) == ("queued", warnings)
        local_bench.run("student")
        assert (local_bench.job(job_id).status, local_bench.job(job_id).warnings) == ("succeeded", warnings)

    def test_an_engine_that_is_killed_each_time_ends_the_job(self, local_bench: Bench) -> None:
        job = self.job_that_ends_each_time(local_bench, "killed")
        assert job.error_code == "engine_died"
        assert "out of memory" in str(job.error_message)

    def test_a_worker_without_its_gpu_hands_the_job_back_however_often(
        self, local_bench: Bench, hints: list[int]
    ) -> None:
        """Harm: a machine that has lost its GPU fails job after job that would run on any other."""
        job_id = local_bench.add_job()
        waits_since = local_bench.job(job_id).queued_at
        goes = local_bench.settings.max_attempts + 1
        for _ in range(goes):
            local_bench.run("without_device")
        job = local_bench.job(job_id)
        assert (job.status, job.attempt, job.fruitless_attempts) == ("queued", goes, 0)
        # Why nobody works on it can be seen; the alert that it waits, and its time limit, know nothing of these goes.
        assert attempts_of(job_id) == [(number + 1, "handed_back", "device_lost") for number in range(goes)]
        assert (job.queued_at, job.run_seconds) == (waits_since, 0.0)
        assert hints == [1] * goes

    def test_a_gpu_that_fails_each_time_ends_the_job(self, local_bench: Bench, hints: list[int]) -> None:
        """Harm: a job that makes every GPU fail goes from one to the next for ever."""
        job = self.job_that_ends_each_time(local_bench, "losing_device")
        assert (job.error_code, job.error_message) == (
            "device_lost",
            "The GPU failed; look at the log of its machine.",
        )
        assert hints[:2] == [1, 1]

    def job_that_ends_each_time(self, bench: Bench, part: str) -> Job:
        """A job whose engine plays that part as often as it may, and that has then failed."""
        job_id = bench.add_job()
        statuses = []
        for _ in range(bench.settings.max_attempts):
            bench.run(part)
            statuses.append(bench.job(job_id).status)
        assert statuses == ["queued", "queued", "failed"]
        return bench.job(job_id)

    def test_engine_over_its_memory(self, local_bench: Bench, change_settings: ChangeSettings) -> None:
        change_settings(engine_memory_limit_bytes=300 * 1024**2)
        job_id = local_bench.add_job()
        local_bench.run("greedy")
        assert local_bench.job(job_id).error_code == "out_of_memory"

    def test_engine_over_its_share_of_the_machine_s_memory(
        self, local_bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: with nothing set the kernel decides what to kill, the worker itself perhaps."""
        machine_bytes = 300 * 1024**2
        monkeypatch.setattr(job_run, "memory_bytes", lambda: machine_bytes)
        job_id = local_bench.add_job()
        _, thread = local_bench.begin("greedy")
        wait_until_over(thread)
        job = local_bench.job(job_id)
        assert job.error_code == "out_of_memory"
        assert f"limit of {engine_memory_limit_bytes(machine_bytes) / 1e9:.2f} GB" in str(job.error_message)

    def test_full_disk_of_the_worker_fails_the_job_and_not_the_worker(
        self, local_bench: Bench, tiny_disk: Path, change_settings: ChangeSettings
    ) -> None:
        inputs = local_bench.ready_inputs()
        change_settings(work_dir=tiny_disk)
        job_id = local_bench.add_job(inputs)
        local_bench.run("student")
        job = local_bench.job(job_id)
        assert (job.status, job.error_code) == ("failed", "disk_full")
        for part in ("STILLHOUSE_WORK_DIR", "Then retry the job (POST /jobs/{id}/retry"):
            assert part in str(job.error_message)
        assert list(tiny_disk.iterdir()) == []

    def test_input_whose_files_are_gone(self, local_bench: Bench) -> None:
        inputs = local_bench.ready_inputs()
        local_bench.store.delete_prefix(f"teachers/{inputs[0]}")
        job_id = local_bench.add_job(inputs)
        local_bench.run("student")
        job = local_bench.job(job_id)
        assert job.error_code == "input_missing"
        assert inputs[0] in str(job.error_message)

    def test_job_that_the_engine_would_not_understand(self, local_bench: Bench) -> None:
        job_id = local_bench.add_job(student={"layers": 2})
        local_bench.run("student")
        job = local_bench.job(job_id)
        assert job.error_code == "invalid_job"
        assert "student lacks" in str(job.error_message)


class TestCancelledJob:
    @pytest.mark.usefixtures("database", "folder_object_store")
    def test_engine_is_gone_at_once(self, bench: Bench) -> None:
        job_id = bench.add_job()
        _, thread = bench.start("deaf")
        with write_session() as session:
            jobs.request_cancel(session, job_id)
        wait_until_over(thread)  # it would go on for ten minutes
        assert bench.job(job_id).status == "cancelled"
        assert list(bench.settings.work_dir.iterdir()) == []

    def test_cancel_beats_a_success_that_comes_later(self, local_bench: Bench) -> None:
        job_id = local_bench.add_job()
        claim = claimed()
        with write_session() as session:
            jobs.request_cancel(session, job_id)
        local_bench.run("student", claim)
        assert local_bench.job(job_id).status == "cancelled"


class TestLostLease:
    @pytest.mark.usefixtures("database", "folder_object_store")
    def test_engine_is_killed_and_nothing_more_is_written(self, bench: Bench) -> None:
        job_id = bench.add_job()
        claim, thread = bench.start("deaf")
        expire(claim)
        with write_session() as session:
            session.execute(update(Job).where(Job.id == job_id).values(lease_expires_at=None, run_token="another"))
        wait_until_over(thread)
        job = bench.job(job_id)
        assert (job.status, job.run_token) == ("running", "another")
        assert list(bench.settings.work_dir.iterdir()) == []

    def test_what_was_stored_too_late_is_left_to_the_sweep(
        self, local_bench: Bench, change_settings: ChangeSettings
    ) -> None:
        """Harm: a worker that was frozen wakes in the middle of an upload, the sweep was there before, and nothing
        ever looks for the rest of it."""
        job_id = local_bench.add_job()
        claim, thread = local_bench.start("deaf")
        local_bench.store.put_bytes(keys.job_artifact(job_id, claim.run_token, "config.json"), b"{}")
        with write_session() as session:
            session.execute(update(Job).where(Job.id == job_id).values(lease_expires_at=None, run_token="another"))
        wait_until_over(thread)
        sweep_once(change_settings(cleanup_delay_seconds=0.001))
        assert local_bench.objects(keys.job_root(job_id)) == []

    def test_deleted_row_is_a_lost_lease_too(self, local_bench: Bench) -> None:
        job_id = local_bench.add_job()
        _, thread = local_bench.start("deaf")
        with write_session() as session:
            session.delete(session.get(Job, job_id))
        wait_until_over(thread)

    def test_lease_is_renewed_for_as_long_as_the_run_lasts(
        self, local_bench: Bench, change_settings: ChangeSettings
    ) -> None:
        change_settings(lease_seconds=120, heartbeat_seconds=0.2)
        job_id = local_bench.add_job()
        claim, _ = local_bench.start("endless")
        for _ in range(3):
            expire(claim)
            wait_for(lambda: has_lease(job_id, seconds=60))
        assert local_bench.job(job_id).status == "running"


def has_lease(job_id: str, *, seconds: float) -> bool:
    """Whether the job's lease has so much time left."""
    with read_session() as session:
        held = select(Job.id).where(Job.id == job_id, Job.lease_expires_at > db_now(seconds))
        return session.scalar(held) is not None


class TestStoppedWorker:
    @pytest.mark.usefixtures("database", "object_store")
    def test_hands_the_job_back_with_its_checkpoint_and_the_next_goes_on(self, bench: Bench, hints: list[int]) -> None:
        job_id = bench.add_job()
        _, thread = bench.start("endless")
        bench.shutdown.request()
        wait_until_over(thread)
        job = bench.job(job_id)
        assert (job.status, job.attempt, job.fruitless_attempts) == ("queued", 1, 0)
        assert bench.checkpoint_steps(job_id) == [scripted_engine.STEP]
        # The next worker hears of it, once, and not before it can claim it.
        assert hints == [1]
        assert len(take_messages()) == 1

        bench.shutdown = Shutdown(seconds=5.0)
        bench.run("student")
        assert bench.job(job_id).status == "succeeded"
        resumed = [event for event in bench.events(job_id) if event["type"] == "resumed"]
        assert [event["step"] for event in resumed] == [scripted_engine.STEP]

    def test_hands_back_even_when_the_engine_does_not_listen(self, local_bench: Bench) -> None:
        local_bench.shutdown = Shutdown(seconds=1.5)
        job_id = local_bench.add_job()
        _, thread = local_bench.start("deaf")
        local_bench.shutdown.request()
        wait_until_over(thread)  # it would go on for ten minutes
        assert local_bench.job(job_id).status == "queued"

    def test_hands_back_while_the_store_still_has_a_checkpoint_in_hand(
        self, local_bench: Bench, held_upload: threading.Event
    ) -> None:
        local_bench.shutdown = Shutdown(seconds=1.5)
        job_id = local_bench.add_job()
        _, thread = local_bench.start("endless")
        local_bench.shutdown.request()
        wait_until_over(thread)
        job = local_bench.job(job_id)
        assert (job.status, job.attempt, job.fruitless_attempts) == ("queued", 1, 0)
        assert list(local_bench.settings.work_dir.iterdir()) == []

        # What the store has had in hand comes too late for anybody.
        held_upload.set()
        wait_for(lambda: "uploads" not in [thread.name for thread in threading.enumerate()])
        assert local_bench.checkpoint_steps(job_id) == []

    def test_hands_back_over_a_disk_that_the_run_has_filled(
        self, local_bench: Bench, tmp_path: Path, change_settings: ChangeSettings
    ) -> None:
        """Harm: where one disk holds everything, the run folder leaves no room for the row that says how it ended."""
        job_id = local_bench.add_job()
        database = local_bench.settings.database_path
        assert database is not None
        dispose_engines()
        local_bench.shutdown = Shutdown(seconds=2.0)
        with mounted_disk(tmp_path / "disk", "16m") as disk:
            shutil.copy(database, disk)
            change_settings(database_url=f"sqlite:///{disk / database.name}", work_dir=disk)
            claim, thread = local_bench.start("endless")
            fill(disk / job_id / claim.run_token)
            local_bench.shutdown.request()
            wait_until_over(thread)
            assert local_bench.job(job_id).status == "queued"
            dispose_engines()

    def test_damaged_checkpoint_is_passed_over_for_the_one_before(self, local_bench: Bench) -> None:
        """Harm: a student trained on from the older checkpoint with what could be fetched of the newer one."""
        local_bench.shutdown = Shutdown(seconds=1.0)
        job_id = local_bench.add_job()
        claim, thread = local_bench.start("checkpointing")
        wait_for(lambda: local_bench.checkpoint_steps(job_id) == [scripted_engine.STEP])
        with write_session() as session:
            prefix = f"jobs/{job_id}/{claim.run_token}/checkpoints/00000099"
            whole = {"path": "round.safetensors", "size_bytes": 4, "sha256": hashlib.sha256(b"rows").hexdigest()}
            lost = {"path": "state.json", "size_bytes": 3, "sha256": "00" * 32}
            local_bench.store.put_bytes(f"{prefix}/round.safetensors", b"rows")
            checkpoints.record(session, claim, CheckpointFacts(step=99), object_prefix=prefix, files=[whole, lost])  # type: ignore[list-item]
        local_bench.shutdown.request()
        wait_until_over(thread)

        local_bench.shutdown = Shutdown(seconds=5.0)
        local_bench.run("student")
        resumed = [event["step"] for event in local_bench.events(job_id) if event["type"] == "resumed"]
        assert resumed == [scripted_engine.STEP]


class TestPausedJob:
    @pytest.mark.usefixtures("database", "object_store")
    def test_is_saved_and_goes_on_when_it_is_resumed(self, bench: Bench) -> None:
        job_id = bench.add_job()
        _, thread = bench.start("endless")
        with write_session() as session:
            jobs.request_pause(session, job_id)
        wait_until_over(thread)
        assert bench.job(job_id).status == "paused"
        assert bench.checkpoint_steps(job_id) == [scripted_engine.STEP]
        assert list(bench.settings.work_dir.iterdir()) == []
        assert claim_next() is None

        with write_session() as session:
            jobs.resume(session, job_id)
        bench.run("student")
        assert bench.job(job_id).status == "succeeded"
        resumed = [event["step"] for event in bench.events(job_id) if event["type"] == "resumed"]
        assert resumed == [scripted_engine.STEP]

    def test_is_cancelled_by_a_cancel_that_comes_while_it_is_pausing(self, local_bench: Bench) -> None:
        job_id = local_bench.add_job()
        _, thread = local_bench.start("deaf")
        for ask in (jobs.request_pause, jobs.request_cancel):
            with write_session() as session:
                ask(session, job_id)
        wait_until_over(thread)
        assert local_bench.job(job_id).status == "cancelled"

    def test_is_paused_before_an_upload_ends_that_takes_too_long_and_the_sweep_gets_that(
        self,
        local_bench: Bench,
        held_upload: threading.Event,
        change_settings: ChangeSettings,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(job_run, "SAVE_SECONDS", 1.0)
        job_id = local_bench.add_job()
        _, thread = local_bench.start("endless")
        with write_session() as session:
            jobs.request_pause(session, job_id)
        wait_for(lambda: local_bench.job(job_id).status == "paused")

        held_upload.set()
        wait_until_over(thread)
        assert local_bench.checkpoint_steps(job_id) == []
        assert local_bench.objects(keys.job_root(job_id)) != []
        sweep_once(change_settings(cleanup_delay_seconds=0.001))
        assert local_bench.objects(keys.job_root(job_id)) == []


class TestTimeLimit:
    def test_fails_the_job_with_its_checkpoint_for_a_retry(
        self, local_bench: Bench, let_pass: Callable[[float], None]
    ) -> None:
        job_id = local_bench.add_job(time_limit_seconds=600.0)
        _, thread = local_bench.start("endless")
        let_pass(600)
        wait_until_over(thread)
        job = local_bench.job(job_id)
        assert (job.status, job.error_code) == ("failed", "time_limit_exceeded")
        assert "600 seconds" in str(job.error_message)
        assert local_bench.checkpoint_steps(job_id) == [scripted_engine.STEP]

        with write_session() as session:
            jobs.retry(session, job_id, from_start=False)
        local_bench.run("student")
        assert local_bench.job(job_id).status == "succeeded"

    def test_counts_what_earlier_attempts_took(self, local_bench: Bench, let_pass: Callable[[float], None]) -> None:
        """Harm: a job that is handed from worker to worker runs for ever."""
        job_id = local_bench.add_job(time_limit_seconds=600.0)
        with write_session() as session:
            session.execute(update(Job).values(run_seconds=400.0))
        _, thread = local_bench.start("endless")
        let_pass(200)
        wait_until_over(thread)
        assert local_bench.job(job_id).error_code == "time_limit_exceeded"

    def test_leaves_a_job_alone_that_ends_in_time(self, local_bench: Bench) -> None:
        job_id = local_bench.add_job(time_limit_seconds=600.0)
        local_bench.run("student")
        assert local_bench.job(job_id).status == "succeeded"

    def test_worked_time_is_added_once_at_each_renewal(
        self, local_bench: Bench, change_settings: ChangeSettings
    ) -> None:
        """Harm: a job is out of time that has had a part of it."""
        change_settings(heartbeat_seconds=0.3)
        job_id = local_bench.add_job()
        began = time.monotonic()
        local_bench.start("endless")
        wait_for(lambda: local_bench.job(job_id).run_seconds > 1)
        assert local_bench.job(job_id).run_seconds <= time.monotonic() - began


class TestTroubles:
    def test_store_that_is_away_for_a_while_costs_nothing(self, local_bench: Bench) -> None:
        """A folder in the place of the store's stands for a mount that has gone and comes back."""
        local_bench.shutdown = Shutdown(seconds=30.0)
        job_id = local_bench.add_job()
        claim, thread = local_bench.start("endless")
        objects = local_bench.store.folder
        assert objects is not None
        aside = objects.with_name("aside")
        objects.rename(aside)
        objects.write_text("not a folder")

        def mend() -> None:
            time.sleep(1.5)
            objects.unlink()
            aside.rename(objects)

        mending = threading.Thread(target=mend)
        mending.start()
        local_bench.shutdown.request()
        wait_until_over(thread)
        mending.join()
        assert local_bench.job(job_id).status == "queued"
        assert local_bench.checkpoint_steps(job_id) == [scripted_engine.STEP]
        assert local_bench.objects(f"jobs/{job_id}/{claim.run_token}") != []

    @pytest.fixture
    def unreachable_at_the_end(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """A database that takes everything but a success, for as often as the list's number says; and a worker whose
        patience ends at the first error."""
        monkeypatch.setattr(work, "patiently", partial(patiently, patience_seconds=0.0))
        finish_succeeded, left = jobs.finish_succeeded, [2]

        def finish(*given: Any, **named: Any) -> JobStatus:
            if left[0] > 0:
                left[0] -= 1
                raise OperationalError(None, None, ConnectionRefusedError())
            return finish_succeeded(*given, **named)

        monkeypatch.setattr(jobs, "finish_succeeded", finish)
        return left

    def test_database_that_is_away_when_the_student_is_complete_costs_nothing(
        self, local_bench: Bench, unreachable_at_the_end: list[int]
    ) -> None:
        """Harm: a job fails of which nothing is missing, and its student is thrown away."""
        job_id = local_bench.add_job()
        local_bench.run("student")
        assert unreachable_at_the_end == [0]
        assert local_bench.job(job_id).status == "succeeded"
        assert attempts_of(job_id) == [(1, "succeeded", None)]

    def test_database_that_does_not_come_back_has_the_job_handed_back(
        self, local_bench: Bench, unreachable_at_the_end: list[int], monkeypatch: pytest.MonkeyPatch, hints: list[int]
    ) -> None:
        """Harm: somebody has to retry a job that nothing is wrong with."""
        monkeypatch.setattr(job_run, "STORAGE_AWAY_SECONDS", 0.0)
        job_id = local_bench.add_job()
        local_bench.run("student")
        assert unreachable_at_the_end == [1]
        job = local_bench.job(job_id)
        assert (job.status, job.error_code, job.fruitless_attempts) == ("queued", None, 0)
        assert attempts_of(job_id) == [(1, "handed_back", None)]
        assert hints == [1]

    @pytest.mark.usefixtures("postgres_database", "folder_object_store")
    def test_database_that_drops_every_connection_costs_nothing(self, bench: Bench) -> None:
        bench.shutdown = Shutdown(seconds=30.0)
        job_id = bench.add_job()
        _, thread = bench.start("endless")
        for _ in range(3):
            with write_session() as session:
                others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                session.execute(text(f"{others} AND datname = current_database()"))
            time.sleep(0.4)
        bench.shutdown.request()
        wait_until_over(thread)
        assert bench.job(job_id).status == "queued"
        assert bench.checkpoint_steps(job_id) == [scripted_engine.STEP]


class TestRunClaim:
    def test_job_json_holds_all_that_the_engine_is_told(self, local_bench: Bench) -> None:
        job_id = local_bench.add_job(method="sage")
        claim, thread = local_bench.start("endless")
        folder = local_bench.settings.work_dir / job_id / claim.run_token
        told = json.loads((folder / "job.json").read_text())
        assert told["job_id"] == job_id
        assert told["threads"] == 1
        assert told["checkpoint"] == {"every_seconds": 60.0, "keep": 2}
        assert sorted(path.name for path in (folder / "dataset").iterdir()) == [
            "dataset.json",
            "train.parquet",
            "validation.parquet",
        ]
        local_bench.shutdown.request()
        wait_until_over(thread)

    def test_work_that_is_gone_before_it_began_is_dropped(self, local_bench: Bench) -> None:
        local_bench.add_job()
        claim = claimed()
        with write_session() as session:
            session.delete(session.get(Job, claim.id))
        run_claim(claim, local_bench.settings, local_bench.shutdown)
        assert list(local_bench.settings.work_dir.iterdir()) == []
        with read_session() as session:
            assert session.get(ObjectCleanup, keys.job_root(claim.id)) is not None
