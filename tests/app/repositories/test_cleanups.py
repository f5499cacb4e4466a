import pytest

from app.db.session import read_session, write_session
from app.repositories import cleanups
from tests.fixtures.factories import make_cleanups_due

pytestmark = pytest.mark.usefixtures("database")


def schedule(prefix: str, delay_seconds: float = 0) -> None:
    with write_session() as session:
        cleanups.schedule(session, prefix, delay_seconds=delay_seconds)


def due(settle_seconds: float = 0) -> list[str]:
    with read_session() as session:
        return [row.object_prefix for row in cleanups.due(session, settle_seconds=settle_seconds, limit=10)]


class TestSchedule:
    def test_waits_for_its_time(self) -> None:
        schedule("jobs/a", delay_seconds=60)
        assert due() == []
        make_cleanups_due()
        assert due() == ["jobs/a"]

    def test_waits_for_the_last_writes_of_a_worker_that_lost_its_lease(self) -> None:
        schedule("jobs/a")
        assert due(settle_seconds=60) == []
        assert due(settle_seconds=0) == ["jobs/a"]

    def test_replaces_the_time_of_a_prefix(self) -> None:
        schedule("jobs/a")
        schedule("jobs/a", delay_seconds=60)
        assert due() == []
        schedule("jobs/a")
        assert due() == ["jobs/a"]

    def test_is_undone_with_its_transaction(self) -> None:
        """Objects must outlive a commit that failed."""

        def schedule_and_fail() -> None:
            with write_session() as session:
                cleanups.schedule(session, "jobs/a", delay_seconds=0)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            schedule_and_fail()
        assert due() == []


class TestDone:
    def test_forgets_the_prefix(self) -> None:
        schedule("jobs/a")
        with write_session() as session:
            (cleanup,) = cleanups.due(session, settle_seconds=0, limit=10)
            cleanups.done(session, cleanup)
        assert due() == []

    def test_keeps_what_was_scheduled_anew_meanwhile(self) -> None:
        schedule("jobs/a", delay_seconds=-1)
        with read_session() as session:
            (cleanup,) = cleanups.due(session, settle_seconds=0, limit=10)
        schedule("jobs/a")
        with write_session() as session:
            cleanups.done(session, cleanup)
        assert due() == ["jobs/a"]
