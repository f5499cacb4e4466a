"""What is forgotten after its time, and what is not."""

import json
import os
import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from app import retention
from app.db.models import Job
from app.db.session import read_session, write_session
from app.db.types import db_now
from app.repositories import artifacts, checkpoints, jobs
from app.repositories.artifacts import ArtifactRow
from app.repositories.checkpoints import CheckpointFacts
from app.retention import RetentionReport, retain_once
from app.storage import keys
from app.storage.store import ObjectStore
from app.sweep import sweep_once
from tests.app.test_sweep import hold
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import SHA256, add_job, add_teacher, claimed, make_cleanups_due, ready_teacher

DAY_SECONDS = 86400


def failed_job(store: ObjectStore, *, days_ago: float) -> tuple[str, str]:
    """A failed job with a checkpoint; gives its id and the checkpoint's key."""
    job_id = add_job()
    claim = claimed()
    prefix = keys.job_checkpoint(job_id, claim.run_token, 1)
    key = keys.inside(prefix, "state.json")
    store.put_bytes(key, b"{}")
    with write_session() as session:
        checkpoints.record(session, claim, CheckpointFacts(step=1), object_prefix=prefix, files=[])
        jobs.finish_failed(session, claim, code="nan_loss", message="x")
        session.execute(update(Job).where(Job.id == job_id).values(finished_at=db_now(-days_ago * DAY_SECONDS)))
    return job_id, key


@pytest.mark.usefixtures("database", "filesystem_broker")
class TestCheckpoints:
    def test_of_a_job_that_failed_long_ago_go_and_the_job_stays(self, folder_object_store: ObjectStore) -> None:
        old, old_key = failed_job(folder_object_store, days_ago=8)
        new, new_key = failed_job(folder_object_store, days_ago=6)
        assert retain_once() == RetentionReport(checkpoints_of_jobs=1)
        make_cleanups_due()
        sweep_once()
        assert not folder_object_store.exists(old_key)
        assert folder_object_store.exists(new_key)
        with read_session() as session:
            assert jobs.get(session, old) is not None
            assert checkpoints.latest(session, old) is None
            assert checkpoints.latest(session, new) is not None
        assert retain_once() == RetentionReport()

    def test_of_a_job_that_did_not_fail_stay(self) -> None:
        """However old it is, and whatever else its row says."""
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            checkpoints.record(session, claim, CheckpointFacts(step=1), object_prefix="jobs/x/c1", files=[])
            jobs.request_pause(session, job_id)
            session.execute(update(Job).values(created_at=db_now(-99 * DAY_SECONDS)))
            session.execute(update(Job).values(finished_at=db_now(-99 * DAY_SECONDS)))
        assert retain_once() == RetentionReport()

    def test_stay_for_ever_where_the_setting_says_so(
        self, folder_object_store: ObjectStore, change_settings: ChangeSettings
    ) -> None:
        failed_job(folder_object_store, days_ago=4000)
        assert retain_once(change_settings(checkpoint_retention_days=None)) == RetentionReport()


@pytest.mark.usefixtures("postgres_database", "filesystem_broker")  # on SQLite one transaction writes at a time
def test_checkpoints_of_a_job_that_is_being_tried_again_stay(folder_object_store: ObjectStore) -> None:
    """Harm: the job waits to go on from a checkpoint that is gone by the time it is claimed."""
    job_id, _ = failed_job(folder_object_store, days_ago=8)
    with write_session() as session:
        assert jobs.retry(session, job_id, from_start=False) is not None
        assert retain_once() == RetentionReport()
    with read_session() as session:
        assert checkpoints.latest(session, job_id) is not None


@pytest.mark.usefixtures("database", "filesystem_broker")
class TestJobs:
    def test_stay_by_default(self, folder_object_store: ObjectStore) -> None:
        job_id, _ = failed_job(folder_object_store, days_ago=4000)
        retain_once()
        with read_session() as session:
            assert jobs.get(session, job_id) is not None

    def test_go_with_their_objects_when_they_have_been_over_for_long(
        self, folder_object_store: ObjectStore, change_settings: ChangeSettings
    ) -> None:
        settings = change_settings(job_retention_days=30)
        job_id, waiting = add_job(), add_job()
        claim = claimed()
        key = keys.job_artifact(job_id, claim.run_token, "student.tar.gz")
        folder_object_store.put_bytes(key, b"student")
        with write_session() as session:
            row = ArtifactRow("student.tar.gz", key, 7, SHA256)
            jobs.finish_succeeded(session, claim, result={}, artifacts=[row])
            session.execute(
                update(Job).values(created_at=db_now(-40 * DAY_SECONDS), finished_at=db_now(-31 * DAY_SECONDS))
            )
        assert retain_once(settings) == RetentionReport(jobs=1)
        make_cleanups_due()
        sweep_once()
        assert not folder_object_store.exists(key)
        with read_session() as session:
            assert jobs.get(session, job_id) is None
            assert artifacts.list_for_job(session, job_id) == []
            assert jobs.get(session, waiting) is not None

    def test_stay_while_a_teacher_made_of_the_student_is_pending(
        self, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: the teacher's files are gone before a worker reads them; or the same job is tried for ever."""
        settings = change_settings(job_retention_days=30)
        # As many as are looked for at once.
        monkeypatch.setattr(retention, "BATCH", 1)
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            jobs.finish_succeeded(session, claim, result={}, artifacts=[])
            session.execute(update(Job).values(finished_at=db_now(-31 * DAY_SECONDS)))
        add_teacher(source={"type": "job", "job": job_id})
        assert retain_once(settings) == RetentionReport()
        with read_session() as session:
            assert jobs.get(session, job_id) is not None
        ready_teacher(claimed())
        assert retain_once(settings) == RetentionReport(jobs=1)

    def test_stay_where_such_a_teacher_was_made_just_now(
        self, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = change_settings(job_retention_days=30)
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            jobs.finish_succeeded(session, claim, result={}, artifacts=[])
        add_teacher(source={"type": "job", "job": job_id})
        monkeypatch.setattr(jobs, "deletable", lambda *_, **__: [job_id])
        assert retain_once(settings) == RetentionReport()
        with read_session() as session:
            assert jobs.get(session, job_id) is not None


@pytest.mark.usefixtures("sqlite_database", "filesystem_broker")
class TestCache:
    def test_entries_that_nobody_used_for_long_go(self, folder_object_store: ObjectStore) -> None:
        assert folder_object_store.folder is not None
        for key, days in (("old", 31), ("used", 31), ("new", 1)):
            for file in ("logits.safetensors", keys.CACHE_INDEX):
                object_key = keys.cache_file("teacher_outputs", key, file)
                folder_object_store.put_bytes(object_key, b"{}")
                is_just_used = key == "used" and file == keys.CACHE_INDEX
                age = timedelta(days=0 if is_just_used else days)
                stamp = (datetime.now(UTC) - age).timestamp()
                os.utime(folder_object_store.folder / object_key, (stamp, stamp))
        assert retain_once() == RetentionReport(cache_entries=1)
        assert cached(folder_object_store) == {"used", "new"}

    def test_what_a_killed_worker_left_half_written_goes_and_what_is_being_written_stays(
        self, folder_object_store: ObjectStore
    ) -> None:
        """Harm: gigabytes of tuned teachers that nothing shows, on a disk that fills."""
        assert folder_object_store.folder is not None
        entry = folder_object_store.folder / keys.cache_file("tuned_teachers", "a", "trained.safetensors")
        left, written = entry.with_name(f"{entry.name}#1"), entry.with_name(f"{entry.name}#2")
        entry.parent.mkdir(parents=True)
        for file in (left, written):
            file.write_bytes(b"half")
        stamp = (datetime.now(UTC) - timedelta(days=2)).timestamp()
        os.utime(left, (stamp, stamp))
        retain_once()
        assert (left.exists(), written.exists()) == (False, True)

    def test_files_that_the_index_of_an_entry_in_use_does_not_name_go(self, folder_object_store: ObjectStore) -> None:
        """Harm: what a worker stored that died before it named it, or that another was faster than, stays for as long
        as jobs use the entry: gigabytes of each tuned teacher."""
        names = ("logits.bin.11", "deep/map.bin.22", "older.bin")
        files = [{"path": "logits.bin", "object": names[0]}, {"path": "deep/map.bin", "object": names[1]}]
        index = json.dumps({"files": [*files, {"path": names[2]}]}).encode()
        folder_object_store.put_bytes(keys.cache_file("teacher_outputs", "used", keys.CACHE_INDEX), index)
        for name, days in ((names[0], 31), (names[1], 31), (names[2], 31), ("logits.bin.33", 2), ("logits.bin.44", 0)):
            cache_file(folder_object_store, "used", name, days_ago=days)
        # Of an index that nobody can read nothing is known.
        folder_object_store.put_bytes(keys.cache_file("teacher_outputs", "torn", keys.CACHE_INDEX), b"{")
        cache_file(folder_object_store, "torn", "logits.bin.55", days_ago=2)
        # Begun, and never named.
        cache_file(folder_object_store, "dead", "logits.bin.66", days_ago=2)
        assert retain_once() == RetentionReport(cache_files=2)
        assert {stored.key.removeprefix("cache/teacher_outputs/") for stored in folder_object_store.list("cache")} == {
            *(f"used/{name}" for name in (keys.CACHE_INDEX, *names, "logits.bin.44")),
            f"torn/{keys.CACHE_INDEX}",
            "torn/logits.bin.55",
        }

    def test_entry_that_cannot_be_deleted_keeps_no_other(
        self, folder_object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert folder_object_store.folder is not None
        for key in ("a", "held", "z"):
            object_key = keys.cache_file("teacher_outputs", key, keys.CACHE_INDEX)
            folder_object_store.put_bytes(object_key, b"{}")
            stamp = (datetime.now(UTC) - timedelta(days=31)).timestamp()
            os.utime(folder_object_store.folder / object_key, (stamp, stamp))
        entry = folder_object_store.folder / keys.cache_file("teacher_outputs", "held", "logits.safetensors")
        left = entry.with_name(f"{entry.name}#1")
        left.write_bytes(b"half")
        os.utime(left, (stamp, stamp))
        hold(monkeypatch, "/held/")
        assert retain_once() == RetentionReport(cache_entries=2)
        assert cached(folder_object_store) == {"held"}


@pytest.mark.usefixtures("sqlite_database", "filesystem_broker")
class TestTimeThatIsUp:
    """Harm: the jobs of dead workers wait for as long as it takes to forget the backlog of a month."""

    def test_leaves_the_rest_to_the_next_call(
        self, folder_object_store: ObjectStore, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = change_settings(job_retention_days=30)
        monkeypatch.setattr(retention, "BATCH", 2)
        for days_ago in (8, 8, 8, 31, 31):
            failed_job(folder_object_store, days_ago=days_ago)
        for key in ("a", "b"):
            cache_entry(folder_object_store, key, days_ago=31)
        reports = [retain_once(settings, seconds=0) for _ in range(7)]
        assert reports == [
            RetentionReport(checkpoints_of_jobs=2, has_more=True),
            RetentionReport(checkpoints_of_jobs=2, has_more=True),
            RetentionReport(checkpoints_of_jobs=1, jobs=1, has_more=True),
            RetentionReport(jobs=1, has_more=True),
            RetentionReport(cache_entries=1, has_more=True),
            RetentionReport(cache_entries=1),
            RetentionReport(),
        ]

    def test_is_up_when_it_is_told_to_stop(
        self, folder_object_store: ObjectStore, change_settings: ChangeSettings
    ) -> None:
        settings = change_settings(checkpoint_retention_days=None, job_retention_days=30)
        for _ in range(3):
            failed_job(folder_object_store, days_ago=31)
        stopped = threading.Event()
        stopped.set()
        assert retain_once(settings, stopped=stopped) == RetentionReport(jobs=1, has_more=True)
        assert retain_once(settings) == RetentionReport(jobs=2)

    def test_is_not_asked_for_again_where_nothing_can_be_deleted(
        self, folder_object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: the whole cache is listed after every sweep, and the log is full of what cannot be deleted."""
        for key in ("held-1", "held-2"):
            cache_entry(folder_object_store, key, days_ago=31)
        hold(monkeypatch, "/held-")
        assert retain_once(seconds=0) == RetentionReport()


@pytest.mark.usefixtures("sqlite_database", "filesystem_broker")
def test_what_a_worker_left_of_asking_whether_the_store_works_goes(folder_object_store: ObjectStore) -> None:
    """Harm: each worker that dies while it asks leaves a megabyte for ever."""
    for key, days_ago in ((keys.probe("old"), 2), (keys.probe("new"), 0)):
        put_long_ago(folder_object_store, key, days_ago=days_ago)
    assert retain_once() == RetentionReport()
    assert [stored.key for stored in folder_object_store.list(keys.PROBES)] == [keys.probe("new")]


def cache_entry(store: ObjectStore, key: str, *, days_ago: float) -> None:
    """An entry of one file that was used last so long ago."""
    cache_file(store, key, keys.CACHE_INDEX, days_ago=days_ago)


def cache_file(store: ObjectStore, key: str, name: str, *, days_ago: float) -> None:
    put_long_ago(store, keys.cache_file("teacher_outputs", key, name), days_ago=days_ago)


def put_long_ago(store: ObjectStore, object_key: str, *, days_ago: float) -> None:
    assert store.folder is not None
    store.put_bytes(object_key, b"{}")
    stamp = (datetime.now(UTC) - timedelta(days=days_ago)).timestamp()
    os.utime(store.folder / object_key, (stamp, stamp))


def cached(store: ObjectStore) -> set[str]:
    return {stored.key.split("/")[2] for stored in store.list(keys.CACHE_ROOT)}
