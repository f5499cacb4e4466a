import pytest
from sqlalchemy import update

from app.db.models import IdempotencyKey
from app.db.session import read_session, write_session
from app.db.types import db_now
from app.repositories import idempotency
from tests.fixtures.racing import race

pytestmark = pytest.mark.usefixtures("database")


def take(job_id: str, body_sha256: str = "a" * 64, key: str = "k") -> tuple[str, str]:
    with write_session() as session:
        row = idempotency.take(session, key=key, body_sha256=body_sha256, job_id=job_id, hours=24)
        return row.job_id, row.body_sha256


def make_old(hours: float) -> None:
    with write_session() as session:
        session.execute(update(IdempotencyKey).values(created_at=db_now(-hours * 3600)))


class TestTake:
    def test_gives_the_key_to_the_first(self) -> None:
        assert take("job_a") == ("job_a", "a" * 64)
        assert take("job_b", "b" * 64) == ("job_a", "a" * 64)
        assert take("job_b", "b" * 64, key="other") == ("job_b", "b" * 64)

    def test_gives_racing_requests_one_job(self) -> None:
        winners = race(8, lambda number: take(f"job_{number}"))
        assert len(set(winners)) == 1

    def test_frees_a_key_that_is_too_old(self) -> None:
        take("job_a")
        make_old(hours=24.1)
        assert take("job_b", "b" * 64) == ("job_b", "b" * 64)

    def test_keeps_a_key_as_long_as_promised(self) -> None:
        take("job_a")
        make_old(hours=23.9)
        assert take("job_b") == ("job_a", "a" * 64)


class TestFind:
    def test_finds_a_live_key_only(self) -> None:
        take("job_a")
        with read_session() as session:
            found = idempotency.find(session, "k", hours=24)
            assert found is not None
            assert found.job_id == "job_a"
            assert idempotency.find(session, "other", hours=24) is None
        make_old(hours=25)
        with read_session() as session:
            assert idempotency.find(session, "k", hours=24) is None


class TestDropOld:
    def test_drops_what_is_too_old(self) -> None:
        take("job_a")
        make_old(hours=25)
        take("job_b", key="new")
        with write_session() as session:
            assert idempotency.has_old(session, hours=24)
            assert idempotency.drop_old(session, hours=24) == 1
        with read_session() as session:
            assert not idempotency.has_old(session, hours=24)
            assert idempotency.find(session, "new", hours=24) is not None
