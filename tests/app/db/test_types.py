from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import select

from app.db.models import Job
from app.db.session import read_session, write_session
from app.db.types import clean_json, db_now
from tests.fixtures.factories import add_job, read_job


@pytest.mark.usefixtures("database")
class TestDbNow:
    def test_is_the_time_in_utc(self) -> None:
        with read_session() as session:
            now = session.scalar(select(db_now()))
        assert now is not None
        assert now.utcoffset() == timedelta(0)
        assert abs(now - datetime.now(UTC)) < timedelta(seconds=5)

    @pytest.mark.parametrize("offset_seconds", [-90.5, 0.25, 86_400])
    def test_moves_by_seconds(self, offset_seconds: float) -> None:
        with read_session() as session:
            now, moved = session.execute(select(db_now(), db_now(offset_seconds))).one()
        # SQLite counts milliseconds.
        assert abs((moved - now).total_seconds() - offset_seconds) < 0.002

    def test_goes_on_inside_a_transaction(self) -> None:
        """A clock that stood still since the transaction began would hand out leases already half over."""
        with read_session() as session:
            first = session.scalar(select(db_now()))
            while session.scalar(select(db_now())) == first:
                pass


@pytest.mark.usefixtures("database")
class TestUtcDateTime:
    def test_keeps_the_moment_of_another_zone(self) -> None:
        moment = datetime(2026, 3, 1, 1, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5)))
        job_id = add_job()
        with write_session() as session:
            session.get_one(Job, job_id).finished_at = moment
        found = read_job(job_id).finished_at
        assert found == moment
        assert found is not None
        assert found.tzinfo == UTC

    def test_refuses_a_time_without_a_zone(self) -> None:
        job_id = add_job()
        with pytest.raises(Exception, match="without a zone"), write_session() as session:
            session.get_one(Job, job_id).finished_at = datetime(2026, 3, 1)


class TestCleanJson:
    @pytest.mark.usefixtures("database")
    def test_stores_what_postgresql_refuses(self) -> None:
        job_id = add_job(metadata={"a\x00b": "c\x00", "lone": "\ud800"})
        assert read_job(job_id).job_metadata == {"a\ufffdb": "c\ufffd", "lone": "?"}

    def test_turns_numbers_that_are_not_finite_into_null(self) -> None:
        value = {"loss": float("nan"), "rows": [1, float("inf"), 2.5], "pair": ("x", True, None)}
        assert clean_json(value) == {"loss": None, "rows": [1, None, 2.5], "pair": ["x", True, None]}
