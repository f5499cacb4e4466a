from contextlib import suppress

import pytest
from sqlalchemy import text

from app.db.models import Job
from app.db.session import read_session, write_session
from app.repositories import events, jobs
from tests.fixtures.factories import add_job, read_job
from tests.fixtures.racing import race


@pytest.mark.usefixtures("database")
class TestWriteSession:
    def test_commits_when_the_block_ends(self) -> None:
        job_id = add_job()
        assert read_job(job_id).id == job_id

    def test_changes_nothing_when_the_block_raises(self) -> None:
        job_id = add_job()
        with suppress(RuntimeError), write_session() as session:
            jobs.request_cancel(session, job_id)
            raise RuntimeError
        assert read_job(job_id).status == "queued"

    def test_leaves_rows_readable_after_the_block(self) -> None:
        job_id = add_job()
        with write_session() as session:
            job = jobs.get(session, job_id)
        assert job is not None
        assert job.method == {"type": "sage"}

    def test_waits_for_its_turn(self) -> None:
        """Reading and then writing in one transaction loses no update, whoever else does the same."""
        job_id = add_job()

        def count_up(_number: int) -> None:
            for _ in range(5):
                with write_session() as session:
                    job = session.get(Job, job_id, with_for_update=True)
                    assert job is not None
                    job.round = (job.round or 0) + 1

        race(6, count_up)
        assert read_job(job_id).round == 30


@pytest.mark.usefixtures("database")
class TestReadSession:
    def test_keeps_nothing(self) -> None:
        job_id = add_job()
        with read_session() as session:
            jobs.request_cancel(session, job_id)
        assert read_job(job_id).status == "queued"

    def test_does_not_wait_for_a_writer(self) -> None:
        job_id = add_job()
        with write_session() as session:
            jobs.request_cancel(session, job_id)
            assert read_job(job_id).status == "queued"


@pytest.mark.usefixtures("sqlite_database")
class TestSqlite:
    def test_keeps_what_it_committed_through_a_power_cut(self) -> None:
        with read_session() as session:
            assert session.scalar(text("PRAGMA journal_mode")) == "wal"
            assert session.scalar(text("PRAGMA synchronous")) == 2  # FULL

    def test_enforces_foreign_keys(self) -> None:
        job_id = add_job()
        with write_session() as session:
            jobs.request_cancel(session, job_id)
            jobs.delete_terminal(session, job_id)
        with read_session() as session:
            assert events.list_after(session, job_id) == []
