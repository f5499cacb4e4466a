import pytest
from sqlalchemy import update

from app.db.models import Job
from app.db.session import read_session, write_session
from app.db.types import db_now
from app.repositories import backlog, jobs
from app.repositories.backlog import Backlog
from tests.fixtures.factories import add_dataset, add_job, add_teacher, claimed, read_job

pytestmark = pytest.mark.usefixtures("database")


def read() -> Backlog:
    with read_session() as session:
        return backlog.read(session)


class TestRead:
    def test_names_every_kind_and_status_also_where_nothing_is(self) -> None:
        found = read()
        assert set(found.depth.values()) == {0}
        assert ("job", "paused") in found.depth
        assert ("dataset", "running") in found.depth
        assert found.oldest_seconds == {"job": 0.0, "dataset": 0.0, "teacher": 0.0}

    def test_tells_what_waits_from_what_is_in_hand(self) -> None:
        add_dataset()
        add_dataset()
        add_teacher()
        claimed()
        for _ in range(3):
            add_job()
        with write_session() as session:
            jobs.request_cancel(session, add_job())
        depth = {place: count for place, count in read().depth.items() if count}
        assert depth == {
            ("dataset", "queued"): 1,
            ("dataset", "running"): 1,
            ("teacher", "queued"): 1,
            ("job", "queued"): 3,
        }

    def test_counts_a_running_job_and_not_one_that_is_over(self) -> None:
        add_job()
        claim = claimed()
        assert read().depth["job", "running"] == 1
        with write_session() as session:
            jobs.finish_failed(session, claim, code="nan_loss", message="no")
        assert set(read().depth.values()) == {0}

    def test_measures_from_when_a_job_began_to_wait_and_not_from_its_making(self) -> None:
        """Harm: a job that ran for a day and was paused would look like one that nobody took for a day."""
        job_id = add_job()
        with write_session() as session:
            session.execute(update(Job).values(created_at=db_now(-9000), queued_at=db_now(-100)))
        assert read_job(job_id).status == "queued"
        assert 99 < read().oldest_seconds["job"] < 1000

    def test_measures_from_the_making_where_an_older_release_queued_it(self) -> None:
        add_job()
        with write_session() as session:
            session.execute(update(Job).values(created_at=db_now(-9000), queued_at=None))
        assert read().oldest_seconds["job"] > 8999
