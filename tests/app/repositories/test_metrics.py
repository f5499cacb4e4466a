import pytest

from app.db.session import read_session, write_session
from app.repositories import metrics
from tests.fixtures.factories import add_job, claimed
from tests.fixtures.racing import race

pytestmark = pytest.mark.usefixtures("database")


class TestUpsert:
    def test_keeps_one_value_per_series_and_step(self) -> None:
        """A resumed run measures again what the killed one had measured."""
        job_id = add_job()
        claim = claimed()
        for points in (
            [("loss", 1, 2.0), ("loss", 2, 1.5), ("accuracy", 2, 0.5)],
            [("loss", 2, 1.25), ("loss", 3, 1.0)],
        ):
            with write_session() as session:
                metrics.upsert(session, claim, points)
        with read_session() as session:
            assert metrics.list_points(session, job_id) == [
                ("accuracy", 2, 0.5),
                ("loss", 1, 2.0),
                ("loss", 2, 1.25),
                ("loss", 3, 1.0),
            ]
            assert metrics.list_points(session, job_id, series=["accuracy"]) == [("accuracy", 2, 0.5)]

    def test_takes_the_last_of_doubled_points(self) -> None:
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            metrics.upsert(session, claim, [("loss", 1, 2.0), ("loss", 1, 1.0)])
        with read_session() as session:
            assert metrics.list_points(session, job_id) == [("loss", 1, 1.0)]

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_stores_what_is_not_finite_as_null(self, value: float) -> None:
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            metrics.upsert(session, claim, [("loss", 1, value)])
        with read_session() as session:
            assert metrics.list_points(session, job_id) == [("loss", 1, None)]

    def test_takes_more_points_than_a_statement_holds(self) -> None:
        job_id = add_job()
        claim = claimed()
        points = [("loss", step, step / 3) for step in range(2 * metrics.ROWS_PER_STATEMENT + 1)]
        with write_session() as session:
            metrics.upsert(session, claim, points)
        with read_session() as session:
            assert metrics.list_points(session, job_id) == points

    def test_ends_with_one_value_when_many_write(self) -> None:
        job_id = add_job()
        claim = claimed()

        def write(number: int) -> None:
            with write_session() as session:
                metrics.upsert(session, claim, [("loss", step, float(number)) for step in range(5)])

        race(4, write)
        with read_session() as session:
            points = metrics.list_points(session, job_id)
        assert [step for _series, step, _value in points] == [0, 1, 2, 3, 4]
        assert len({value for _series, _step, value in points}) == 1

    def test_writes_nothing_when_there_is_nothing(self) -> None:
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            metrics.upsert(session, claim, [])
        with read_session() as session:
            assert metrics.list_points(session, job_id) == []
