import pytest

from app.db.session import read_session, write_session
from app.repositories import events, jobs
from tests.fixtures.factories import add_job, claimed
from tests.fixtures.racing import race

pytestmark = pytest.mark.usefixtures("database")


class TestAddEvents:
    def test_numbers_events_in_the_order_given(self) -> None:
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            last = jobs.add_events(session, claim, [{"type": "phase", "payload": {"n": number}} for number in range(3)])
        with read_session() as session:
            rows = events.list_after(session, job_id, types=["phase"])
        assert last == 5  # after `queued` and `running`
        assert [(row.sequence, row.payload["n"]) for row in rows] == [(3, 0), (4, 1), (5, 2)]

    def test_leaves_no_gap_and_no_double_when_many_write(self) -> None:
        job_id = add_job()
        claim = claimed()

        def write(number: int) -> None:
            for _ in range(4):
                with write_session() as session:
                    jobs.add_events(session, claim, [{"type": "a", "payload": {"by": number}}] * 3)

        race(5, write)
        with read_session() as session:
            sequences = [row.sequence for row in events.list_after(session, job_id, limit=1000)]
        assert sequences == list(range(1, 2 + 5 * 4 * 3 + 1))

    def test_leaves_no_gap_after_a_write_that_failed(self) -> None:
        job_id = add_job()
        claim = claimed()

        def write_and_fail() -> None:
            with write_session() as session:
                jobs.add_events(session, claim, [{"type": "lost", "payload": {}}])
                raise RuntimeError

        with pytest.raises(RuntimeError):
            write_and_fail()
        with write_session() as session:
            jobs.add_events(session, claim, [{"type": "kept", "payload": {}}])
        with read_session() as session:
            rows = events.list_after(session, job_id)
        assert [(row.sequence, row.type) for row in rows] == [(1, "status"), (2, "status"), (3, "kept")]

    def test_adds_nothing_when_there_is_nothing(self) -> None:
        add_job()
        claim = claimed()
        with write_session() as session:
            assert jobs.add_events(session, claim, []) == 2


class TestListAfter:
    def test_goes_on_behind_a_sequence(self) -> None:
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            jobs.add_events(session, claim, [{"type": "a", "payload": {}}] * 5)
        with read_session() as session:
            assert [row.sequence for row in events.list_after(session, job_id, 2, 3)] == [3, 4, 5]
            assert events.list_after(session, job_id, 7) == []


class TestAppend:
    def test_adds_nothing_to_a_job_that_is_gone(self) -> None:
        with write_session() as session:
            assert events.append(session, "job_unknown", [{"type": "a", "payload": {}}]) == 0


class TestListNews:
    def test_gives_what_lies_behind_each_place(self) -> None:
        first, second = add_job(), add_job()
        claim = claimed()
        with write_session() as session:
            jobs.add_events(session, claim, [{"type": "a", "payload": {"text": "\u2028é"}}] * 5)
        last = 2**31 - 1
        places = [(first, 0), (first, 3), (first, 7), (first, 3), (first, last), (second, 0), ("job_unknown", 0)]
        with read_session() as session:
            found = events.list_news(session, places, limit=3)
        assert {place: [event.sequence for event in news.events] for place, news in found.items()} == {
            (first, 0): [1, 2, 3],
            (first, 3): [4, 5, 6],
            (first, 7): [],
            (first, last): [],
            (second, 0): [1],
        }
        assert {(news.status, news.last_sequence) for news in found.values()} == {("running", 7), ("queued", 1)}
        assert found[first, 3].events[0].payload == {"text": "\u2028é"}
        assert found[first, 3].events[0].created_at.tzinfo is not None
