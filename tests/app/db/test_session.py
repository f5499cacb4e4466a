import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from app.db import migrate, session
from app.db.models import Job
from app.db.session import after_commit, dispose_engines, get_engine, read_session, write_session
from app.domain.leases import Claim
from app.outages import is_commit_unanswered, is_database_away, is_transient
from app.repositories import events, jobs, leases
from app.repositories.fence import hold
from app.settings import Settings, get_settings
from tests.fixtures.factories import add_job, claimed, expire, read_job
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


@pytest.mark.usefixtures("sqlite_database")
class TestAfterCommit:
    def test_acts_once_the_row_is_there_for_others(self) -> None:
        seen: list[str] = []
        job_id = add_job()
        with write_session() as session:
            after_commit(session, lambda: seen.append(read_job(job_id).status))
            jobs.request_cancel(session, job_id)
            assert seen == []
        assert seen == ["cancelled"]

    def test_does_not_act_for_what_was_rolled_back(self) -> None:
        """Harm: a job that was refused or tried again would be counted as ended."""
        seen: list[str] = []
        with suppress(RuntimeError), write_session() as session:
            after_commit(session, lambda: seen.append("acted"))
            raise RuntimeError
        with write_session():
            pass
        assert seen == []


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


@pytest.mark.usefixtures("postgres_database")
class TestIdleConnections:
    def test_are_replaced_when_they_died(self) -> None:
        job_id = add_job()
        # Several at once, so that several lie in the pool.
        race(4, lambda _number: read_job(job_id))
        url = make_url(get_settings().database_url).set(drivername="postgresql")
        with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert race(4, lambda _number: read_job(job_id).id) == [job_id] * 4


@contextmanager
def frozen_between_lock_and_commit(claim: Claim) -> Iterator[None]:
    """Another session has locked the claim's row and says nothing more, until the block ends."""
    has_lock, is_over = threading.Event(), threading.Event()

    def freeze() -> None:
        with suppress(DBAPIError), write_session() as session:
            hold(session, claim)
            has_lock.set()
            is_over.wait(60)

    thread = threading.Thread(target=freeze)
    thread.start()
    try:
        assert has_lock.wait(30)
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.mark.usefixtures("postgres_database")
class TestWaits:
    def limits(self) -> list[str]:
        names = ("idle_in_transaction_session_timeout", "lock_timeout")
        with read_session() as session:
            return [str(session.scalar(text(f"SHOW {name}"))) for name in names]

    def test_end_before_a_lease_does(self) -> None:
        assert self.limits() == ["20s", "10s"]
        assert Settings().lease_seconds > session.IDLE_TRANSACTION_SECONDS

    def test_for_a_worker_that_froze_with_a_lock_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: the job stays with a worker that is no more, and nobody can cancel, pause or delete it."""
        monkeypatch.setattr(session, "IDLE_TRANSACTION_SECONDS", 4.0)
        monkeypatch.setattr(session, "LOCK_SECONDS", 0.5)
        dispose_engines()
        job_id = add_job()
        claim = claimed()
        expire(claim)
        with frozen_between_lock_and_commit(claim):
            with pytest.raises(DBAPIError, match="lock timeout") as failed, write_session() as waiting:
                jobs.request_cancel(waiting, job_id)
            assert is_database_away(failed.value)
            assert is_transient(failed.value)
            assert not is_commit_unanswered(failed.value)
            deadline = time.monotonic() + 20
            while read_job(job_id).status != "queued":
                assert time.monotonic() < deadline, "the row stayed locked"
                with write_session() as sweep:
                    leases.take_back_expired(sweep, max_attempts=5)
                time.sleep(0.1)
            with write_session() as free:
                jobs.request_cancel(free, job_id)
        assert read_job(job_id).status == "cancelled"

    def test_of_migrations_have_no_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: the second of two that start together fails because the first takes its time."""
        monkeypatch.setattr(session, "LOCK_SECONDS", 0.2)
        monkeypatch.setattr(session, "IDLE_TRANSACTION_SECONDS", 0.4)
        dispose_engines()
        with migrate._config(None) as config:
            first = config.attributes["connection"]
            second = threading.Thread(target=migrate.upgrade)
            second.start()
            second.join(1.0)
            assert second.is_alive(), "it waits for its turn"
            assert first.scalar(text("SELECT 1")) == 1
        second.join(30)
        assert not second.is_alive()
        assert self.limits() == ["400ms", "200ms"]


@pytest.mark.usefixtures("postgres_database")
class TestConnections:
    @pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="this system cannot say it of a socket")
    def test_notice_a_host_that_vanishes_while_it_works(self) -> None:
        """Harm: a worker waits for two hours for the answer of a database that has moved."""
        with get_engine().connect() as connection:
            driver = connection.connection.dbapi_connection
            assert isinstance(driver, psycopg.Connection)
            with socket.socket(fileno=os.dup(driver.fileno())) as wire:
                assert wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                assert [wire.getsockopt(socket.IPPROTO_TCP, name) for name in names] == [5, 3, 3]


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
