"""Event streams of a real API process: hundreds at once, and through every kind of interruption."""

import asyncio
import json
import random
import signal
import socket
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psycopg
import pytest

from app.db import migrate
from app.db.session import dispose_engines, write_session
from app.domain.leases import Claim
from app.repositories import jobs
from app.settings import get_settings
from tests.app.routes.event_client import EventStream, Message, StreamBroken, follow, open_stream, sequences
from tests.app.routes.processes import STILLHOUSE, UVICORN, ApiProcess, RestartablePostgres, api_process, plain
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job, claimed
from tests.fixtures.servers import postgres_server

Result = TypeVar("Result")

QUICK = {"STILLHOUSE_EVENT_POLL_SECONDS": "0.1"}
NAME = "api-under-test"


@pytest.fixture
def api(postgres_database: str, tmp_path: Path) -> Iterator[ApiProcess]:
    """An API process whose database connections carry a name of their own."""
    url = f"{postgres_database}?application_name={NAME}"
    with api_process(tmp_path, STILLHOUSE_DATABASE_URL=url, **QUICK) as process:
        yield process


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(asyncio.wait_for(work, timeout=200))


def append(claim: Claim, count: int, **payload: Any) -> None:
    with write_session() as session:
        jobs.add_events(session, claim, [{"type": "round", "payload": payload}] * count)


def succeed(claim: Claim) -> None:
    with write_session() as session:
        jobs.finish_succeeded(session, claim, result={}, artifacts=[])


def work_through(claims: list[Claim], *, events: int, seed: int) -> None:
    """Add that many events to each job, a few at a time and in turns, and let it succeed."""
    random_source = random.Random(seed)
    left = dict.fromkeys(claims, events)
    while left:
        claim = random_source.choice(list(left))
        count = min(left[claim], random_source.randint(1, 10))
        append(claim, count)
        left[claim] -= count
        if not left[claim]:
            succeed(claim)
            del left[claim]


async def follow_through(address: str, job_id: str, random_source: random.Random) -> list[Message]:
    """All events of a job until its end, over as many connections as it takes; some are dropped at random."""
    seen: list[Message] = []
    while True:
        last = seen[-1].id if seen else None
        try:
            async with open_stream(address, job_id, last_event_id=last) as stream:
                if stream.status == 204:
                    return seen
                assert stream.status == 200, await stream.text()
                patience = random_source.randint(1, 120)
                async for message in stream:
                    if message.event == "end":
                        return seen
                    seen.append(message)
                    patience -= 1
                    if not patience:
                        stream.drop()
                        break
        except StreamBroken:
            await asyncio.sleep(0.02)


class TestHundredsOfListeners:
    def test_each_gets_each_event_once_over_few_database_connections(self, api: ApiProcess) -> None:
        job_ids = [add_job() for _ in range(12)]
        claims = [claimed() for _ in job_ids]
        connections: list[int] = []

        async def follow_all() -> list[list[Message]]:
            following = [asyncio.create_task(follow(api.address, job_ids[place % 12])) for place in range(300)]
            working = asyncio.create_task(asyncio.to_thread(work_through, claims, events=120, seed=1))
            counting = asyncio.create_task(_count_connections(connections))
            results = await asyncio.gather(*following)
            await working
            counting.cancel()
            return [messages for messages, _ in results]

        streams = run(follow_all())
        assert len(streams) == 300
        for messages in streams:
            # queued and running before, succeeded and the end of the stream after
            assert sequences(messages) == list(range(1, 124))
            assert messages[-1].event == "end"
        # The reader's. The requests themselves use none.
        assert 1 <= max(connections) <= 2, connections

    def test_go_on_where_they_were_cut_off(self, api: ApiProcess) -> None:
        """Dropped at random, and by an API that is stopped, killed and started again under them."""
        job_ids = [add_job() for _ in range(4)]
        claims = [claimed() for _ in job_ids]
        random_source = random.Random(2)

        async def follow_all() -> list[list[Message]]:
            following = [
                asyncio.create_task(follow_through(api.address, job_ids[place % 4], random.Random(place)))
                for place in range(40)
            ]
            for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
                seed = random_source.random()
                for claim in claims:
                    await asyncio.to_thread(append, claim, random.Random(seed).randint(20, 80))
                await asyncio.to_thread(api.stop, number)
                await asyncio.to_thread(append, claims[0], 7)
                await asyncio.to_thread(api.start)
            await asyncio.to_thread(work_through, claims, events=100, seed=3)
            return await asyncio.gather(*following)

        streams = run(follow_all())
        for place, messages in enumerate(streams):
            last = _last_sequence(job_ids[place % 4])
            assert last > 160
            assert sequences(messages) == list(range(1, last + 1))


class TestPostgresAway:
    def test_keeps_the_streams_open_and_goes_on(self, change_settings: ChangeSettings, tmp_path: Path) -> None:
        with postgres_server() as url:
            change_settings(database_url=url)
            migrate.upgrade(get_settings())
            postgres = RestartablePostgres(url)
            job_ids = [add_job() for _ in range(5)]
            claims = [claimed() for _ in job_ids]
            with api_process(tmp_path, **QUICK) as api:
                try:
                    streams = run(_follow_through_a_restart(api, postgres, job_ids, claims))
                finally:
                    dispose_engines()
        for messages in streams:
            assert sequences(messages) == list(range(1, 104))
            assert messages[-1].event == "end"


@pytest.mark.usefixtures("postgres_database")
class TestShutdown:
    @pytest.mark.parametrize("module", [UVICORN, STILLHOUSE], ids=["uvicorn", "stillhouse"])
    def test_ends_the_streams(self, module: Sequence[str], tmp_path: Path) -> None:
        """A server waits for open responses before it stops: it would wait until the job is over."""
        job_id = add_job()

        async def watch() -> list[list[Message]]:
            async with AsyncExitStack() as stack:
                streams = [await stack.enter_async_context(open_stream(api.address, job_id)) for _ in range(50)]
                first = [await anext(aiter(stream)) for stream in streams]
                await asyncio.to_thread(api.stop)
                return [[message, *await _read_out(stream)] for message, stream in zip(first, streams, strict=True)]

        # Longer than `stop` waits: the end has to come from the streams, and not from this.
        with api_process(tmp_path, module, STILLHOUSE_SHUTDOWN_SECONDS="600") as api:
            streams = run(watch())
        # Ended whole, not cut off (that would raise), and not said to be over: the clients come back.
        assert [sequences(messages) for messages in streams] == [[1]] * 50


class TestSlowClients:
    def test_do_not_fill_the_memory(self, api: ApiProcess) -> None:
        job_id = add_job()
        claim = claimed()
        for _ in range(20):
            append(claim, 500, text="x" * 1000)  # 12 MB of stream for each client
        succeed(claim)
        before = api.memory_bytes()
        sleepers = [_ask_and_never_read(api.address, job_id) for _ in range(40)]
        messages, _ = run(follow(api.address, job_id))
        grown = api.memory_bytes() - before
        for sleeper in sleepers:
            sleeper.close()
        assert sequences(messages) == list(range(1, 10_004))
        # Without a limit, 500 MB.
        assert grown < 150_000_000


async def _follow_through_a_restart(
    api: ApiProcess, postgres: RestartablePostgres, job_ids: list[str], claims: list[Claim]
) -> list[list[Message]]:
    # One thread that outlives the server: the kernel ends it with the thread that started it.
    loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1)
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(open_stream(api.address, job_ids[place % 5])) for place in range(50)]
        following = [asyncio.create_task(_read_out(stream)) for stream in streams]
        for claim in claims:
            await asyncio.to_thread(append, claim, 50)
        await loop.run_in_executor(thread, postgres.stop)
        while "event_feed_failed" not in api.log():
            await asyncio.sleep(0.05)
        async with open_stream(api.address, job_ids[0]) as refused:
            assert (refused.status, json.loads(await refused.text())["error"]["code"]) == (503, "database_unavailable")
        assert not any(task.done() for task in following)
        # An EventSource would take the 503 for the last word: one that comes back is let in and waits.
        back = await stack.enter_async_context(open_stream(api.address, job_ids[0], last_event_id="0"))
        assert back.status == 200
        following.append(asyncio.create_task(_read_out(back)))
        started = postgres.start()
        await loop.run_in_executor(thread, started.__enter__)
        stack.callback(lambda: thread.submit(started.__exit__, None, None, None).result())
        await asyncio.to_thread(work_through, claims, events=50, seed=4)
        return await asyncio.gather(*following)


async def _read_out(stream: EventStream) -> list[Message]:
    return [message async for message in stream]


async def _count_connections(counts: list[int]) -> None:
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    async with await psycopg.AsyncConnection.connect(plain(get_settings().database_url), autocommit=True) as connection:
        while True:
            row = await (await connection.execute(query, [NAME])).fetchone()
            assert row is not None
            counts.append(row[0])
            await asyncio.sleep(0.02)


def _last_sequence(job_id: str) -> int:
    with write_session() as session:
        job = jobs.get(session, job_id)
    assert job is not None
    return job.event_sequence


def _ask_and_never_read(address: str, job_id: str) -> socket.socket:
    url = urlsplit(address)
    connection = socket.create_connection((url.hostname or "", url.port or 0))
    request = f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: {url.netloc}\r\nAccept: text/event-stream\r\n\r\n"
    connection.sendall(request.encode())
    return connection
