"""What real databases raise, and what is made of it."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.db.session import read_session, write_session
from app.outages import is_commit_unanswered, is_database_away, is_database_behind, is_transient
from app.repositories import jobs
from tests.app.routes.helpers import commit_answers_lost
from tests.fixtures.factories import add_job, read_job


def run(*statements: str) -> DBAPIError:
    """The error of the last of these statements, in one transaction."""
    try:
        with write_session() as session:
            for statement in statements:
                session.execute(text(statement))
    except DBAPIError as error:
        return error
    raise AssertionError(f"{statements} raised nothing")


def session_number() -> int:
    """Which of PostgreSQL's processes serves us."""
    with read_session() as session:
        return int(session.scalar(text("SELECT pg_backend_pid()")) or 0)


@pytest.mark.usefixtures("postgres_database")
class TestReadOnlyServer:
    def test_is_away_and_another_one_is_looked_for(self) -> None:
        """Harm: after a failover a worker ends its engine and fails the job, over a connection to the old primary."""
        job_id = add_job()
        before = session_number()
        error = run("SET TRANSACTION READ ONLY", "DELETE FROM jobs")
        assert "read-only transaction" in str(error.orig)
        assert (is_database_away(error), is_transient(error), is_commit_unanswered(error)) == (True, True, False)
        assert session_number() != before
        assert read_job(job_id).id == job_id


@pytest.mark.usefixtures("database")
class TestMissingTable:
    @pytest.mark.parametrize(
        "statement",
        ["SELECT * FROM nowhere", "SELECT colour FROM jobs", "INSERT INTO jobs (colour) VALUES (1)"],
    )
    def test_waits_for_the_migrations(self, statement: str) -> None:
        error = run(statement)
        assert (is_database_behind(error), is_database_away(error), is_transient(error)) == (True, False, True)

    def test_is_told_apart_from_what_a_statement_does_wrong(self) -> None:
        job_id = add_job()
        error = run(f"INSERT INTO jobs SELECT * FROM jobs WHERE id = '{job_id}'")
        assert (is_database_behind(error), is_database_away(error), is_transient(error)) == (False, False, False)


@pytest.mark.usefixtures("postgres_database")
class TestUnansweredCommit:
    def test_may_have_happened(self) -> None:
        job_id = add_job()
        with pytest.raises(DBAPIError) as failed, commit_answers_lost(), write_session() as session:
            jobs.request_cancel(session, job_id)
        assert (is_commit_unanswered(failed.value), is_database_away(failed.value)) == (True, True)
        assert read_job(job_id).status == "cancelled"
