import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from app.db.session import get_engine, write_session
from app.errors import JobNotFound
from app.repositories import jobs
from app.services.job_reader import JobReader
from app.settings import get_settings
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job, claimed
from tests.fixtures.servers import free_port

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(asyncio.wait_for(work, timeout=60))


@contextmanager
def counted_statements() -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FROM jobs" in statement:
            seen.append(statement)

    event.listen(get_engine(), "before_cursor_execute", note)
    yield seen
    event.remove(get_engine(), "before_cursor_execute", note)


@pytest.mark.usefixtures("database")
class TestGet:
    def test_answers_many_clients_with_few_statements(self) -> None:
        job_ids = [add_job() for _ in range(20)]

        async def ask() -> list[str]:
            reader = JobReader(get_settings())
            found = await asyncio.gather(*[reader.get(job_ids[place % 20]) for place in range(300)])
            return [job.id for job in found]

        with counted_statements() as statements:
            assert run(ask()) == [job_ids[place % 20] for place in range(300)]
        assert len(statements) <= 2

    def test_tells_only_who_asked_for_it_that_a_job_is_gone(self) -> None:
        job_id = add_job()

        async def ask() -> list[Any]:
            reader = JobReader(get_settings())
            return await asyncio.gather(
                reader.get(job_id), reader.get("job_unknown"), reader.get(job_id), return_exceptions=True
            )

        first, second, third = run(ask())
        assert (first.id, third.id) == (job_id, job_id)
        assert isinstance(second, JobNotFound)

    def test_goes_on_when_a_client_went_away(self) -> None:
        job_id = add_job()

        async def ask() -> str:
            reader = JobReader(get_settings())
            asking = [asyncio.create_task(reader.get(job_id)) for _ in range(5)]
            await asyncio.sleep(0)
            for task in asking[:4]:
                task.cancel()
            await asyncio.gather(*asking[:4], return_exceptions=True)
            assert (await asking[4]).id == job_id
            return str((await reader.get(job_id)).id)

        assert run(ask()) == job_id

    def test_never_tells_less_than_what_was_written_before(self) -> None:
        """Also when a read was under way, for others, while it was written."""
        job_id = add_job()
        claim = claimed()

        def write(number: int) -> None:
            with write_session() as session:
                jobs.update_progress(
                    session, claim, phase="training", round=number, rounds=99, progress=0.5, eta_seconds=None
                )

        async def ask() -> None:
            reader = JobReader(get_settings())

            async def poll() -> None:
                while True:
                    await reader.get(job_id)

            pollers = [asyncio.create_task(poll()) for _ in range(10)]
            for number in range(1, 40):
                await asyncio.to_thread(write, number)
                assert (await reader.get(job_id)).round == number
            for poller in pollers:
                poller.cancel()
            await asyncio.gather(*pollers, return_exceptions=True)

        run(ask())


class TestDatabaseAway:
    def test_tells_everybody_and_asks_anew_for_the_next(self, change_settings: ChangeSettings) -> None:
        change_settings(database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/nothing")

        async def ask() -> list[Any]:
            reader = JobReader(get_settings())
            first = await asyncio.gather(*[reader.get("job_a") for _ in range(5)], return_exceptions=True)
            return [*first, *await asyncio.gather(reader.get("job_a"), return_exceptions=True)]

        found = run(ask())
        assert len(found) == 6
        assert all(isinstance(error, OperationalError) for error in found)
