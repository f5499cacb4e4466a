"""The sweep over both databases and, where objects go, both stores."""

import errno
import re
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from obstore.exceptions import GenericError
from sqlalchemy import event, select
from sqlalchemy.exc import InternalError, OperationalError
from structlog.testing import capture_logs

from app import queue, sweep
from app.db import session as session_module
from app.db.models import ObjectCleanup
from app.db.session import dispose_engines, get_engine, read_session, write_session
from app.domain.leases import Claim
from app.prometheus import SWEEP_LAST_SUCCESS
from app.repositories import cleanups, idempotency, imports, jobs, leases
from app.repositories.artifacts import ArtifactRow
from app.repositories.checkpoints import CheckpointFacts, drop_older, list_for_job, record
from app.settings import get_settings
from app.storage import keys
from app.storage.store import ObjectStore, StoredObject
from app.sweep import Grace, SweepThread, clean, sweep_once, sweep_until
from tests.app.test_queue import take_messages
from tests.fixtures.database import Primary
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import (
    SHA256,
    add_dataset,
    add_job,
    add_teacher,
    claimed,
    expire,
    make_cleanups_due,
    read_dataset,
    read_job,
    read_teacher,
    ready_dataset,
    ready_teacher,
)
from tests.fixtures.racing import race
from tests.fixtures.servers import free_port

OPERATIONS = (Path(__file__).parents[2] / "docs/operations.md").read_text()


def cancel(job_id: str) -> None:
    with write_session() as session:
        jobs.request_cancel(session, job_id)


def write_checkpoint(store: ObjectStore, claim: Claim, step: int) -> str:
    """Store and record a checkpoint of one file. Gives the file's key."""
    prefix = keys.job_checkpoint(claim.id, claim.run_token, step)
    key = keys.inside(prefix, "state.json")
    store.put_bytes(key, b"{}")
    with write_session() as session:
        files = [{"path": "state.json", "size_bytes": 2, "sha256": SHA256}]
        record(session, claim, CheckpointFacts(step=step), object_prefix=prefix, files=files)  # type: ignore[arg-type]
    return key


def stored(store: ObjectStore, prefix: str) -> list[str]:
    return sorted(item.key for item in store.list(prefix))


def scheduled(prefix: str, *, delay_seconds: float = 0) -> ObjectCleanup:
    with write_session() as session:
        cleanups.schedule(session, prefix, delay_seconds=delay_seconds)
    with read_session() as session:
        row = session.get(ObjectCleanup, prefix)
    assert row is not None
    return row


def pass_time(seconds: float) -> None:
    """Let the cleanups wait that much less."""
    with write_session() as session:
        for row in session.scalars(select(ObjectCleanup)):
            row.due_at -= timedelta(seconds=seconds)


def due() -> list[str]:
    with read_session() as session:
        return [row.object_prefix for row in cleanups.due(session, settle_seconds=0, limit=10)]


def hold(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Let no file be deleted that has `part` in its path. Without permissions: root, as whom tests may run, has all."""
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if part in str(path):
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)


@contextmanager
def after_statement(number: int, act: Callable[[], None]) -> Iterator[None]:
    """Call `act` right after the block's statement of that number, counted from 1."""
    count = 0

    def executed(*_: object) -> None:
        nonlocal count
        count += 1
        if count == number:
            act()

    event.listen(get_engine(), "after_cursor_execute", executed)
    try:
        yield
    finally:
        event.remove(get_engine(), "after_cursor_execute", executed)


@pytest.mark.usefixtures("database", "filesystem_broker")
class TestExpiredLeases:
    def test_puts_a_job_whose_worker_died_back_and_wakes_the_others(self) -> None:
        job_id = add_job()
        expire(claimed())
        report = sweep_once()
        assert report.expired.requeued == [("job", job_id)]
        assert (report.waiting, report.woke) == (1, True)
        assert len(take_messages()) == 1
        assert read_job(job_id).status == "queued"

    def test_ends_a_job_whose_worker_died_while_it_was_cancelled(self) -> None:
        job_id = add_job()
        claim = claimed()
        cancel(job_id)
        expire(claim)
        assert sweep_once().expired.cancelled == [("job", job_id)]
        assert read_job(job_id).status == "cancelled"
        assert take_messages() == []

    def test_gives_up_what_keeps_losing_its_workers(self, change_settings: ChangeSettings) -> None:
        change_settings(max_attempts=2)
        job_id = add_job()
        expire(claimed())
        sweep_once()
        expire(claimed())
        assert sweep_once().expired.failed == [("job", job_id)]
        job = read_job(job_id)
        assert (job.status, job.error_code) == ("failed", "worker_lost")
        assert job.error_message is not None
        assert "a smaller training.batch_size" in job.error_message

    def test_lets_live_leases_be(self) -> None:
        job_id = add_job()
        claimed()
        report = sweep_once()
        assert report.expired.requeued == []
        assert (report.waiting, report.woke) == (0, False)
        assert read_job(job_id).status == "running"

    def test_does_no_harm_when_many_sweep_at_once(self) -> None:
        made = [add_job() for _ in range(3)]
        for _ in made:
            expire(claimed())
        reports = race(3, lambda _number: sweep_once())
        requeued = [row_id for report in reports for _kind, row_id in report.expired.requeued]
        assert sorted(requeued) == sorted(made)


@pytest.mark.usefixtures("sqlite_database")
class TestWake:
    @pytest.mark.usefixtures("broker")
    def test_makes_up_for_a_lost_message(self) -> None:
        """Committed, but the API died before it sent the hint."""
        add_job(), add_dataset()
        assert sweep_once().woke
        assert len(take_messages()) == 2

    @pytest.mark.usefixtures("broker")
    def test_does_not_repeat_what_already_waits(self) -> None:
        add_job()
        queue.wake()
        for _ in range(3):
            sweep_once()
        assert len(take_messages()) == 1

    def test_is_tried_again_while_the_broker_is_down(self, change_settings: ChangeSettings) -> None:
        change_settings(broker_url=f"redis://127.0.0.1:{free_port()}/0")
        job_id = add_job()
        expire(claimed())
        report = sweep_once()
        assert report.expired.requeued == [("job", job_id)]
        assert not report.woke


@pytest.mark.usefixtures("database", "filesystem_broker")
class TestIdempotencyKeys:
    def test_drops_the_old_ones(self, change_settings: ChangeSettings) -> None:
        change_settings(idempotency_hours=0.00001)
        with write_session() as session:
            idempotency.take(session, key="k", body_sha256=SHA256, job_id="job_a", hours=24)
        time.sleep(0.1)
        assert sweep_once().keys_dropped == 1
        assert sweep_once().keys_dropped == 0


@pytest.mark.usefixtures("sqlite_database", "filesystem_broker")
class TestObjects:
    def test_keeps_the_artifact_alone_of_a_job_that_succeeded(self, object_store: ObjectStore) -> None:
        job_id = add_job()
        lost = claimed()
        write_checkpoint(object_store, lost, 1)
        object_store.put_bytes(keys.job_artifact(job_id, lost.run_token, "config.json"), b"half")
        expire(lost)
        sweep_once()
        winner = claimed()
        write_checkpoint(object_store, winner, 2)
        artifact = keys.job_artifact(job_id, winner.run_token, "config.json")
        object_store.put_bytes(artifact, b"{}")
        object_store.put_bytes(keys.job_artifact(job_id, winner.run_token, "scratch.bin"), b"unnamed")
        with write_session() as session:
            row = ArtifactRow("config.json", artifact, 2, SHA256)
            jobs.finish_succeeded(session, winner, result={}, artifacts=[row])
        make_cleanups_due()
        report = sweep_once()
        assert stored(object_store, keys.job_root(job_id)) == [artifact]
        assert report.objects_deleted == 4

    def test_waits_until_a_worker_without_token_has_stopped(self, folder_object_store: ObjectStore) -> None:
        job_id = add_job()
        key = write_checkpoint(folder_object_store, claimed(), 1)
        cancel(job_id)
        with write_session() as session:
            jobs.finish_cancelled(session, Claim("job", job_id, read_job(job_id).run_token or "", 1))
        sweep_once()
        late = keys.inside(keys.job_root(job_id), "late.bin")
        folder_object_store.put_bytes(late, b"")
        make_cleanups_due()
        sweep_once()
        assert not folder_object_store.exists(key)
        assert not folder_object_store.exists(late)

    @pytest.mark.parametrize("how", ["handed back", "paused", "lost"])
    def test_deletes_the_checkpoints_of_a_job_that_no_worker_cancels(self, object_store: ObjectStore, how: str) -> None:
        """Harm: gigabytes that nobody can use, kept for as long as the cancelled job is."""
        job_id = add_job()
        claim = claimed()
        write_checkpoint(object_store, claim, 1)
        if how == "paused":
            with write_session() as session:
                jobs.request_pause(session, job_id)
        if how == "lost":
            cancel(job_id)
            expire(claim)
            assert sweep_once().expired.cancelled == [("job", job_id)]
        else:
            with write_session() as session:
                leases.release(session, claim)
            assert read_job(job_id).status == ("paused" if how == "paused" else "queued")
            cancel(job_id)
        assert read_job(job_id).status == "cancelled"
        with read_session() as session:
            assert list_for_job(session, job_id) == []
        make_cleanups_due()
        sweep_once()
        assert stored(object_store, keys.job_root(job_id)) == []

    def test_keeps_what_a_running_job_needs(self, object_store: ObjectStore) -> None:
        """The checkpoint of the lost worker is what the new one goes on from."""
        job_id = add_job()
        lost = claimed()
        old = write_checkpoint(object_store, lost, 1)
        expire(lost)
        sweep_once()
        holder = claimed()
        unrecorded = keys.inside(keys.job_checkpoint(job_id, holder.run_token, 2), "state.json")
        object_store.put_bytes(unrecorded, b"being written")
        with write_session() as session:
            cleanups.schedule(session, keys.job_root(job_id), delay_seconds=0)
        assert sweep_once().objects_deleted == 0
        assert stored(object_store, keys.job_root(job_id)) == sorted([old, unrecorded])

    def test_deletes_dropped_checkpoints_of_a_running_job(self, object_store: ObjectStore) -> None:
        job_id = add_job()
        claim = claimed()
        written = [write_checkpoint(object_store, claim, step) for step in (1, 2, 3)]
        with write_session() as session:
            drop_older(session, claim, keep=2)
        make_cleanups_due()
        assert sweep_once().objects_deleted == 1
        assert stored(object_store, keys.job_root(job_id)) == written[1:]

    def test_deletes_all_of_a_deleted_job(self, object_store: ObjectStore) -> None:
        job_id = add_job()
        claim = claimed()
        write_checkpoint(object_store, claim, 1)
        with write_session() as session:
            jobs.finish_failed(session, claim, code="nan_loss", message="m")
        with write_session() as session:
            jobs.delete_terminal(session, job_id)
        make_cleanups_due()
        sweep_once()
        assert stored(object_store, keys.job_root(job_id)) == []

    def test_keeps_the_checkpoints_of_a_failed_job(self, folder_object_store: ObjectStore) -> None:
        job_id = add_job()
        claim = claimed()
        key = write_checkpoint(folder_object_store, claim, 1)
        with write_session() as session:
            jobs.finish_failed(session, claim, code="nan_loss", message="m")
        make_cleanups_due()
        sweep_once()
        assert stored(folder_object_store, keys.job_root(job_id)) == [key]

    def test_keeps_a_ready_dataset_and_drops_what_failed_attempts_left(self, object_store: ObjectStore) -> None:
        dataset_id = add_dataset()
        lost = claimed()
        half = keys.inside(keys.dataset_prepared(dataset_id, lost.run_token), "train.parquet")
        object_store.put_bytes(half, b"half")
        expire(lost)
        sweep_once()
        winner = claimed()
        whole = keys.inside(keys.dataset_prepared(dataset_id, winner.run_token), "train.parquet")
        upload = keys.dataset_upload(dataset_id, "train", ".csv")
        for key in (whole, upload):
            object_store.put_bytes(key, b"rows")
        ready_dataset(winner)
        make_cleanups_due()
        sweep_once()
        assert stored(object_store, keys.dataset_root(dataset_id)) == sorted([whole, upload])

    def test_deletes_all_of_a_deleted_dataset_and_teacher(self, object_store: ObjectStore) -> None:
        dataset_id, teacher_id = add_dataset(), add_teacher()
        claims = [claimed(), claimed()]
        object_store.put_bytes(keys.dataset_upload(dataset_id, "train", ".csv"), b"rows")
        kept = keys.inside(keys.teacher_files(teacher_id, claims[1].run_token), "config.json")
        object_store.put_bytes(kept, b"{}")
        ready_teacher(claims[1])
        with write_session() as session:
            imports.remove(session, "dataset", dataset_id)
        make_cleanups_due()
        sweep_once()
        assert stored(object_store, keys.dataset_root(dataset_id)) == []
        assert stored(object_store, keys.teacher_root(teacher_id)) == [kept]

    def test_removes_an_upload_whose_request_was_cut_off(self, object_store: ObjectStore) -> None:
        """The root is scheduled before the first byte, the row would have come after the last."""
        root = keys.dataset_root("dts_never")
        with write_session() as session:
            cleanups.schedule(session, root, delay_seconds=cleanups.UPLOAD_SECONDS)
        object_store.put_bytes(keys.dataset_upload("dts_never", "train", ".csv"), b"rows")
        assert sweep_once().objects_deleted == 0
        make_cleanups_due()
        assert sweep_once().objects_deleted == 1
        assert stored(object_store, root) == []

    def test_removes_what_a_killed_writer_left_half_written(self, folder_object_store: ObjectStore) -> None:
        job_id = add_job()
        cancel(job_id)
        folder = folder_object_store.folder
        assert folder is not None
        half = folder / "jobs" / job_id / "t" / "artifact" / "model.safetensors#1"
        half.parent.mkdir(parents=True)
        half.write_bytes(b"half")
        make_cleanups_due()
        sweep_once()
        assert not half.exists()
        assert not half.parents[2].exists()

    def test_looks_at_nothing_twice(self, folder_object_store: ObjectStore) -> None:
        assert folder_object_store.folder is not None
        cancel(add_job())
        make_cleanups_due()
        sweep_once()
        with read_session() as session:
            assert cleanups.due(session, settle_seconds=0, limit=10) == []

    def test_leaves_what_it_does_not_know(self, folder_object_store: ObjectStore) -> None:
        key = keys.cache_file("projections", "abc", "points.bin")
        folder_object_store.put_bytes(key, b"1")
        with write_session() as session:
            cleanups.schedule(session, keys.CACHE_ROOT, delay_seconds=0)
        make_cleanups_due()
        sweep_once()
        assert folder_object_store.exists(key)


@pytest.mark.usefixtures("database")
class TestWorkThatEndsWhileItIsCleaned:
    """Harm: the student of a job that has just succeeded is deleted, and the job names files that are not there."""

    @pytest.mark.parametrize("statement", [1, 2, 3])
    def test_of_a_job_keeps_its_student(self, folder_object_store: ObjectStore, statement: int) -> None:
        job_id = add_job()
        claim = claimed()
        key = keys.job_artifact(job_id, claim.run_token, "student.tar.gz")
        folder_object_store.put_bytes(key, b"student")

        def succeed() -> None:
            with write_session() as session:
                row = ArtifactRow("student.tar.gz", key, 7, SHA256)
                jobs.finish_succeeded(session, claim, result={}, artifacts=[row])

        cleanup = scheduled(keys.job_root(job_id))
        with after_statement(statement, succeed):
            assert clean(get_settings(), folder_object_store, cleanup) == 0
        assert read_job(job_id).status == "succeeded"
        assert folder_object_store.exists(key)

    @pytest.mark.parametrize("statement", [1, 2])
    def test_of_a_dataset_keeps_what_was_prepared(self, folder_object_store: ObjectStore, statement: int) -> None:
        dataset_id = add_dataset()
        claim = claimed()
        prefix = keys.dataset_prepared(dataset_id, claim.run_token)
        key = keys.inside(prefix, "train.parquet")
        folder_object_store.put_bytes(key, b"rows")
        cleanup = scheduled(keys.dataset_root(dataset_id))
        with after_statement(statement, lambda: ready_dataset(claim, object_prefix=prefix)):
            assert clean(get_settings(), folder_object_store, cleanup) == 0
        assert read_dataset(dataset_id).status == "ready"
        assert folder_object_store.exists(key)

    @pytest.mark.parametrize("statement", [1, 2])
    def test_of_a_teacher_keeps_its_files(self, folder_object_store: ObjectStore, statement: int) -> None:
        teacher_id = add_teacher()
        claim = claimed()
        prefix = keys.teacher_files(teacher_id, claim.run_token)
        key = keys.inside(prefix, "config.json")
        folder_object_store.put_bytes(key, b"{}")
        cleanup = scheduled(keys.teacher_root(teacher_id))
        with after_statement(statement, lambda: ready_teacher(claim, object_prefix=prefix)):
            assert clean(get_settings(), folder_object_store, cleanup) == 0
        assert read_teacher(teacher_id).status == "ready"
        assert folder_object_store.exists(key)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[MutableMapping[str, Any]]]:
    """The sweep's log lines."""
    # The module's own logger may be bound to what an earlier test had configured.
    monkeypatch.setattr(sweep, "log", structlog.get_logger())
    with capture_logs() as lines:
        yield lines


@pytest.mark.usefixtures("sqlite_database", "filesystem_broker")
class TestObjectThatCannotBeDeleted:
    def test_is_put_off_and_stops_nothing(
        self,
        folder_object_store: ObjectStore,
        monkeypatch: pytest.MonkeyPatch,
        said: list[MutableMapping[str, Any]],
    ) -> None:
        """Harm: it comes first in every sweep, and nothing is ever deleted again."""
        held, other = (keys.job_root(name) for name in ("held", "other"))
        for root in (held, other):
            folder_object_store.put_bytes(keys.inside(root, "t/student.bin"), b"1")
        scheduled(other, delay_seconds=-3600)
        scheduled(held, delay_seconds=-7200)  # so it comes first
        with monkeypatch.context() as patch:
            hold(patch, "/held/")
            report = sweep_once()
        assert (report.put_off, report.objects_deleted) == ([held], 1)
        (line,) = [line for line in said if line["event"] == "cleanup_failed"]
        assert (line["prefix"], "Operation not permitted" in line["error"]) == (held, True)
        assert stored(folder_object_store, other) == []
        assert due() == []
        assert sweep_once().put_off == []
        # Once its time has come and it can be deleted:
        make_cleanups_due()
        assert sweep_once().objects_deleted == 1
        assert due() == []


@pytest.mark.usefixtures("sqlite_database", "filesystem_broker")
class TestStoreThatIsAway:
    def test_and_comes_back_a_moment_later_puts_nothing_off(
        self, folder_object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: what lies there stays for twelve minutes more, though nothing is wrong with it."""
        root = keys.job_root("a")
        folder_object_store.put_bytes(keys.inside(root, "t/student.bin"), b"1")
        scheduled(root, delay_seconds=-3600)
        list_objects, asked = ObjectStore.list, []

        def fail_once(store: ObjectStore, prefix: str) -> Iterator[StoredObject]:
            asked.append(prefix)
            if len(asked) == 1:
                raise GenericError("no answer")
            return list_objects(store, prefix)

        monkeypatch.setattr(ObjectStore, "list", fail_once)
        report = sweep_once()
        assert (report.put_off, report.objects_deleted) == ([], 1)
        assert due() == []

    def test_is_asked_for_the_first_alone_and_nothing_is_put_off(
        self,
        change_settings: ChangeSettings,
        monkeypatch: pytest.MonkeyPatch,
        said: list[MutableMapping[str, Any]],
    ) -> None:
        """Harm: each of fifty cleanups waits for its own timeout while dead workers' jobs wait for the sweep."""
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
        change_settings(object_store_url="s3://bucket/prefix")
        roots = [keys.job_root(name) for name in ("a", "b", "c")]
        for root in roots:
            scheduled(root, delay_seconds=-3600)
        assert sweep_once().put_off == []
        assert len([line for line in said if line["event"] == "cleanup_failed"]) == 1
        assert sorted(due()) == roots


@pytest.mark.usefixtures("sqlite_database", "filesystem_broker")
class TestStoreThatIsSlow:
    """Harm: dead workers' jobs wait until fifty prefixes are cleaned, each for as long as the store likes to take."""

    def test_is_left_when_the_time_is_up_and_cleaned_on_with_the_next_sweep(
        self, folder_object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sweep, "CLEANING_SECONDS", 0.0)
        roots = [self.scheduled_root(folder_object_store, name, age) for name, age in (("a", 3), ("b", 2), ("c", 1))]
        for number in range(3):
            assert due() == roots[number:]
            assert sweep_once().objects_deleted == 1
        assert due() == []
        assert sweep_once().objects_deleted == 0

    def test_is_left_when_the_sweep_is_told_to_stop(self, folder_object_store: ObjectStore) -> None:
        roots = [self.scheduled_root(folder_object_store, name, age) for name, age in (("a", 2), ("b", 1))]
        stopped = threading.Event()
        stopped.set()
        assert sweep_once(stopped=stopped).objects_deleted == 1
        assert due() == roots[1:]

    def test_puts_off_what_it_failed_to_delete_before_the_time_was_up(
        self, folder_object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: it comes first in every sweep, uses up its time, and nothing is ever deleted again."""
        monkeypatch.setattr(sweep, "CLEANING_SECONDS", 0.0)
        held, other = (self.scheduled_root(folder_object_store, name, age) for name, age in (("held", 2), ("other", 1)))
        hold(monkeypatch, "/held/")
        assert sweep_once().put_off == [held]
        assert due() == [other]
        assert sweep_once().objects_deleted == 1
        # It was tried once, so it does not wait as long as what was tried twice.
        with read_session() as session:
            cleanup = session.get(ObjectCleanup, held)
        assert cleanup is not None
        assert 0 < (cleanup.due_at - datetime.now(UTC)).total_seconds() <= sweep.AGAIN_SECONDS

    @pytest.mark.parametrize(("cleaning_seconds", "minutes"), [(10.0, 12.0), (0.0, 2.5)])
    def test_is_tried_again_when_the_manual_says(
        self,
        folder_object_store: ObjectStore,
        monkeypatch: pytest.MonkeyPatch,
        cleaning_seconds: float,
        minutes: float,
    ) -> None:
        """Harm: who has mended the store looks for its objects to go, and they do not."""
        monkeypatch.setattr(sweep, "CLEANING_SECONDS", cleaning_seconds)
        held = self.scheduled_root(folder_object_store, "held", 1)
        with monkeypatch.context() as patch:
            hold(patch, "/held/")
            assert sweep_once().put_off == [held]
        pass_time(60 * minutes - 20)
        assert sweep_once().objects_deleted == 0
        pass_time(20)
        assert sweep_once().objects_deleted == 1
        said = {12.0: "after twelve minutes", 2.5: "after two and a half"}[minutes]
        assert re.search(rf"`cleanup_failed` has their prefix,[^|]*{said}", OPERATIONS)

    def scheduled_root(self, store: ObjectStore, name: str, hours: float) -> str:
        """The root of a job's objects that is due since then, and has one."""
        root = keys.job_root(name)
        store.put_bytes(keys.inside(root, "t/student.bin"), b"1")
        scheduled(root, delay_seconds=-3600 * hours)
        return root


@pytest.mark.usefixtures("postgres_database", "filesystem_broker")
class TestGrace:
    def test_leaves_leases_alone_until_the_database_has_answered_for_long_enough(self) -> None:
        job_id = add_job()
        expire(claimed())
        grace = Grace(0.3, has_begun=True)
        report = sweep_once(grace=grace)
        assert report.expired == leases.TakenBack()
        time.sleep(0.4)
        assert sweep_once(grace=grace).expired.requeued == [("job", job_id)]

    def test_begins_anew_when_the_database_was_away(self, change_settings: ChangeSettings) -> None:
        here = get_settings()
        away = change_settings(database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
        grace = Grace(0.3, has_begun=False)
        with pytest.raises(OperationalError):
            sweep_once(away, grace=grace)
        time.sleep(0.4)
        change_settings(database_url=here.database_url)
        job_id = add_job()
        expire(claimed())
        assert sweep_once(grace=grace).expired == leases.TakenBack()
        time.sleep(0.4)
        assert sweep_once(grace=grace).expired.requeued == [("job", job_id)]

    def test_begins_anew_when_the_retention_finds_the_database_away(self, change_settings: ChangeSettings) -> None:
        """Harm: the sweep that comes next finds it back, and takes the work of workers that are still connecting."""
        grace = Grace(60.0, has_begun=False)
        away = change_settings(
            database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none", checkpoint_retention_days=1
        )
        assert sweep._retain(away, threading.Event(), grace) == sweep.RETENTION_RETRY_SECONDS
        assert not grace.is_over

    @pytest.mark.usefixtures("folder_object_store")
    def test_is_not_begun_by_a_later_step_that_the_database_refuses_each_time(
        self, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: dead workers' jobs wait for as long as somebody holds a row of another table."""
        monkeypatch.setattr(session_module, "LOCK_SECONDS", 0.1)
        monkeypatch.setattr(sweep, "CONNECT_SECONDS", 0.0)
        settings = change_settings(heartbeat_seconds=0.2, sweep_seconds=0.05)
        dispose_engines()
        scheduled(keys.job_root("held"), delay_seconds=-3600)
        job_id = add_job()
        expire(claimed())
        sweeper = SweepThread(settings)
        try:
            with get_engine().connect() as connection, connection.begin():
                connection.execute(select(ObjectCleanup.object_prefix).with_for_update())
                sweeper.start()
                deadline = time.monotonic() + 60
                while read_job(job_id).status != "queued" and time.monotonic() < deadline:
                    time.sleep(0.05)
                sweeper.stop()
            assert read_job(job_id).status == "queued"
        finally:
            dispose_engines()

    def test_of_the_start_is_not_for_the_embedded_mode(self, change_settings: ChangeSettings) -> None:
        """Harm: `stillhouse up`, started again, goes on with its jobs a quarter of a minute later than it could."""
        assert not Grace.at_start(get_settings()).is_over
        assert Grace.at_start(change_settings(database_url="")).is_over


class Between(threading.Event):
    """What a sweep waits on: acts between two sweeps, and has it stop after the last act."""

    def __init__(self, *acts: Callable[[], None]) -> None:
        super().__init__()
        self._acts = list(acts)

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002
        self._acts.pop(0)()
        if not self._acts:
            self.set()
        return self.is_set()


@pytest.mark.usefixtures("sqlite_database", "filesystem_broker")
class TestTimeThatLeaps:
    @pytest.mark.parametrize(
        ("seconds", "is_frozen", "statuses"),
        [
            (60.0, False, ["running", "queued"]),
            (0.1, False, ["queued", "queued"]),
            (60.0, True, ["running", "queued"]),
            (5.1, True, ["queued", "queued"]),  # hardly longer than it waits anyway
        ],
    )
    def test_leaves_workers_the_time_to_renew(
        self,
        change_settings: ChangeSettings,
        monkeypatch: pytest.MonkeyPatch,
        seconds: float,
        is_frozen: bool,
        statuses: list[str],
    ) -> None:
        """Harm: the lid of a laptop is closed for a minute, or all of its containers are paused, and once they go on
        the sweep takes away the job of a worker that is well."""
        monkeypatch.setattr(sweep, "CONNECT_SECONDS", 0.0)
        settings = change_settings(heartbeat_seconds=0.3, sweep_seconds=5)
        job_id, seen = add_job(), list[str]()
        claim = claimed()
        running, wall = 0.0, time.time()
        monkeypatch.setattr(sweep, "time", SimpleNamespace(monotonic=lambda: running, time=lambda: wall))

        def leap() -> None:
            nonlocal running, wall
            # The one clock stands still while the machine is suspended, and goes on while what runs on it is frozen.
            running += seconds if is_frozen else 0.0
            wall += seconds
            expire(claim)

        def look() -> None:
            nonlocal running, wall
            seen.append(read_job(job_id).status)
            running += 0.7  # longer than the grace
            wall += 0.7

        sweep_until(Between(leap, look, look), settings)
        assert seen == statuses


@pytest.mark.usefixtures("filesystem_broker")
class TestDatabaseThatOnlyReads:
    def test_is_away_also_in_the_grace_and_nothing_is_deleted_by_what_it_says(
        self, primary: Primary, folder_object_store: ObjectStore
    ) -> None:
        """Harm: a primary that was demoted knows nothing of the job that was tried again since, whose objects go."""
        root = keys.job_root("a")
        key = keys.inside(root, "t/student.bin")
        folder_object_store.put_bytes(key, b"1")
        scheduled(root, delay_seconds=-3600)
        primary.demote()
        grace = Grace(0.0, has_begun=True)
        for _ in range(2):
            with pytest.raises(InternalError, match="read-only"):
                sweep_once(grace=grace)
            assert not grace.is_over
        assert [stored.key for stored in folder_object_store.list(root)] == [key]
        primary.promote()
        assert sweep_once(grace=grace).objects_deleted == 1


@pytest.mark.usefixtures("sqlite_database", "filesystem_broker")
class TestSweepThread:
    def test_finishes_what_a_dead_worker_left(self, change_settings: ChangeSettings) -> None:
        change_settings(sweep_seconds=0.1)
        job_id = add_job()
        claimed(lease_seconds=0.2)
        sweeper = SweepThread(get_settings())
        sweeper.start()
        try:
            deadline = time.monotonic() + 60
            while read_job(job_id).status != "queued" and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            sweeper.stop()
        assert read_job(job_id).status == "queued"
        assert not sweeper.is_alive()

    def test_outlives_a_store_that_is_away(self, change_settings: ChangeSettings, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        change_settings(sweep_seconds=0.05, object_store_url=(tmp_path / "file" / "x").as_uri())
        cancel(add_job())
        make_cleanups_due()
        dataset_id = add_dataset()
        sweeper = SweepThread(get_settings())
        sweeper.start()
        try:
            time.sleep(0.3)
            claimed(lease_seconds=0.01)
            deadline = time.monotonic() + 60
            while read_dataset(dataset_id).run_token is not None and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            sweeper.stop()
        assert read_dataset(dataset_id).run_token is None

    def test_takes_leases_back_while_a_long_retention_is_under_way(
        self, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: a retention that is set for the first time has a month's jobs to forget, and those of dead workers wait
        for the last of them."""
        monkeypatch.setattr(sweep, "RETAINING_SECONDS", 0.0)
        change_settings(sweep_seconds=0.05, job_retention_days=0.000001)
        old = [add_job() for _ in range(40)]
        for job_id in old:
            cancel(job_id)
        time.sleep(0.2)
        sweeper = SweepThread(get_settings())
        sweeper.start()
        try:
            wait_until(lambda: not all(map(is_there, old)))
            lost = add_job()
            expire(claimed())
            wait_until(lambda: read_job(lost).status == "queued")
            assert any(map(is_there, old))
            wait_until(lambda: not any(map(is_there, old)))
        finally:
            sweeper.stop()

    def test_counts_its_sweeps_and_applies_the_retention_without_a_store(
        self, change_settings: ChangeSettings, tmp_path: Path
    ) -> None:
        """Harm: one fault of the store, and the alert says that nobody sweeps, and rows are kept for ever."""
        (tmp_path / "file").write_text("in the way")
        change_settings(
            sweep_seconds=0.05, object_store_url=(tmp_path / "file" / "x").as_uri(), job_retention_days=0.000001
        )
        SWEEP_LAST_SUCCESS.set(0)
        job_id = add_job()
        cancel(job_id)
        make_cleanups_due()
        time.sleep(0.2)
        sweeper = SweepThread(get_settings())
        sweeper.start()
        try:
            deadline = time.monotonic() + 60
            while is_there(job_id) and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            sweeper.stop()
        assert not is_there(job_id)
        assert SWEEP_LAST_SUCCESS.collect()[0].samples[0].value > 0


def wait_until(probe: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not probe():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_there(job_id: str) -> bool:
    with read_session() as session:
        return jobs.get(session, job_id) is not None
