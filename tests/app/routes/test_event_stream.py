import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import httpx
import pytest

from app.db.session import write_session
from app.domain.leases import Claim
from app.repositories import jobs
from app.services.event_stream import prefers_stream
from tests.app.routes.event_client import EventStream, Message, follow, open_stream, sequences
from tests.app.routes.helpers import check_error, failed_job, succeeded_job
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job, claimed

Result = TypeVar("Result")
STREAM = {"Accept": "text/event-stream"}

pytestmark = pytest.mark.usefixtures("database", "quick_feed")


@pytest.fixture
def quick_feed(database: str, change_settings: ChangeSettings) -> None:  # noqa: ARG001
    change_settings(event_poll_seconds=0.05)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(asyncio.wait_for(work, timeout=60))


def append(claim: Claim, count: int = 1, **payload: Any) -> None:
    with write_session() as session:
        jobs.add_events(session, claim, [{"type": "round", "payload": payload}] * count)


def succeed(claim: Claim) -> None:
    with write_session() as session:
        jobs.finish_succeeded(session, claim, result={}, artifacts=[])


async def take(stream: EventStream, count: int) -> list[Message]:
    messages = []
    async for message in stream:
        messages.append(message)
        if len(messages) == count:
            return messages
    raise AssertionError(f"the stream ended after {messages}")


class TestStream:
    def test_gives_each_event_as_the_page_has_it_and_says_when_the_job_is_over(self, server: str) -> None:
        job_id = succeeded_job()
        page = httpx.get(f"{server}/jobs/{job_id}/events").json()["data"]
        messages, stream = run(follow(server, job_id))
        *events, end = messages
        assert [event.json() for event in events] == page
        assert [(event.id, event.event) for event in events] == [("1", "status"), ("2", "status"), ("3", "status")]
        assert (end.id, end.event) == (None, "end")
        assert end.json() == {"reason": "finished", "status": "succeeded"}
        assert stream.retry is not None
        assert 1000 <= stream.retry <= 3000

    def test_tells_proxies_to_pass_it_on(self, server: str) -> None:
        _, stream = run(follow(server, succeeded_job()))
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-cache"
        assert stream.headers["x-accel-buffering"] == "no"
        assert stream.headers["vary"] == "accept"
        assert "content-length" not in stream.headers

    def test_keeps_text_as_it_is(self, server: str) -> None:
        job_id = add_job()
        claim = claimed()
        text = "two\nlines\r\n: no comment\u2028é\x85 \U0001f600"
        append(claim, text=text)
        succeed(claim)
        messages, _ = run(follow(server, job_id))
        assert messages[2].json()["payload"] == {"text": text}

    def test_brings_events_as_they_happen(self, server: str) -> None:
        job_id = add_job()

        async def watch() -> list[Message]:
            async with open_stream(server, job_id) as stream:
                seen = await take(stream, 1)
                claim = await asyncio.to_thread(claimed)
                seen += await take(stream, 1)
                await asyncio.to_thread(append, claim, 3)
                seen += await take(stream, 3)
                await asyncio.to_thread(succeed, claim)
                return seen + await take(stream, 2)

        messages = run(watch())
        assert sequences(messages) == [1, 2, 3, 4, 5, 6]
        assert messages[-1].event == "end"

    def test_sends_more_events_than_are_read_at_once(self, server: str) -> None:
        job_id = add_job()
        claim = claimed()
        append(claim, 1500)
        succeed(claim)
        messages, _ = run(follow(server, job_id))
        assert sequences(messages) == list(range(1, 1504))

    def test_goes_on_behind_a_retry_of_the_job(self, server: str) -> None:
        """An event that says `terminal` is not the last one of a job that was tried again."""
        job_id = failed_job()
        with write_session() as session:
            assert jobs.retry(session, job_id, from_start=False) is not None
        succeed(claimed())
        messages, _ = run(follow(server, job_id))
        assert [message.json()["payload"].get("status") for message in messages[:-1]] == [
            "queued",
            "running",
            "failed",
            "queued",
            "running",
            "succeeded",
        ]

    def test_ends_when_the_job_is_deleted(self, server: str) -> None:
        job_id = add_job()

        async def watch() -> Message:
            async with open_stream(server, job_id, last_event_id="1") as stream:
                await asyncio.to_thread(_vanish, job_id)
                return (await take(stream, 1))[0]

        end = run(watch())
        assert (end.event, end.json()) == ("end", {"reason": "deleted", "status": None})

    def test_comments_while_nothing_happens(
        self, change_settings: ChangeSettings, request: pytest.FixtureRequest
    ) -> None:
        change_settings(event_keep_alive_seconds=0.05)
        server: str = request.getfixturevalue("server")
        job_id = add_job()

        async def watch() -> list[str]:
            async with open_stream(server, job_id, last_event_id="1") as stream:
                following = asyncio.create_task(take(stream, 1))
                while len(stream.comments) < 3:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(claimed)
                assert sequences(await following) == [2]
                return stream.comments

        assert set(run(watch())) == {"keep-alive"}


class TestResume:
    @pytest.mark.parametrize(
        ("last_event_id", "query", "first"), [("2", "", 3), (None, "?after=3", 4), ("3", "?after=1", 4), ("0", "", 1)]
    )
    def test_goes_on_behind_the_last_event(
        self, server: str, last_event_id: str | None, query: str, first: int
    ) -> None:
        """An EventSource that connects again sends the URL of old, `after` and all, beside the newer header."""
        job_id = add_job()
        claim = claimed()
        append(claim, 2)
        succeed(claim)
        messages, _ = run(follow(server, job_id, last_event_id=last_event_id, query=query))
        assert sequences(messages) == list(range(first, 6))

    def test_answers_204_when_the_job_is_over_and_all_was_seen(self, server: str) -> None:
        """On 204 an EventSource stops; on anything else it would come back for ever."""
        job_id = succeeded_job()
        response = httpx.get(f"{server}/jobs/{job_id}/events", headers={**STREAM, "Last-Event-ID": "3"})
        assert (response.status_code, response.content) == (204, b"")

    @pytest.mark.parametrize("last_event_id", ["x", "-1", "1.5", "2147483648", "", "1 2"])
    def test_refuses_what_is_no_sequence(self, server: str, last_event_id: str) -> None:
        headers = {**STREAM, "Last-Event-ID": last_event_id}
        response = httpx.get(f"{server}/jobs/{add_job()}/events", headers=headers)
        code = "out_of_range" if last_event_id in ("-1", "2147483648") else "wrong_form"
        check_error(response, status=422, code=code, param="Last-Event-ID", message=[last_event_id])

    def test_refuses_a_sequence_that_the_job_has_not_reached(self, server: str) -> None:
        """To wait for it would leave out the events in between."""
        response = httpx.get(f"{server}/jobs/{add_job()}/events", headers={**STREAM, "Last-Event-ID": "7"})
        check_error(response, status=422, code="out_of_range", param="after", message=["numbered 7", "has 1 event"])

    def test_refuses_the_greatest_sequence_and_serves_the_others(self, server: str) -> None:
        """Harm: one such request, and every stream of the process gets an error in place of its events."""
        headers = {**STREAM, "Last-Event-ID": "2147483647"}
        response = httpx.get(f"{server}/jobs/{add_job()}/events", headers=headers)
        check_error(response, status=422, code="out_of_range", param="after", message=["numbered 2147483647"])

    def test_names_a_job_that_is_not_there(self, server: str) -> None:
        response = httpx.get(f"{server}/jobs/job_unknown/events", headers=STREAM)
        check_error(response, status=404, code="job_not_found", param="job_id", message=["'job_unknown'"])


class TestListeners:
    def test_are_limited(self, change_settings: ChangeSettings, request: pytest.FixtureRequest) -> None:
        change_settings(max_event_listeners=2)
        server: str = request.getfixturevalue("server")
        job_id = add_job()

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient() as client:
                return await client.get(f"{server}/jobs/{job_id}/events", headers=STREAM)

        async def fill_and_drain() -> httpx.Response:
            async with open_stream(server, job_id) as first, open_stream(server, job_id) as second:
                await take(first, 1)
                await take(second, 1)
                refused = await ask()
                first.drop()
                # The place of a client that went away is free again.
                while True:
                    async with open_stream(server, job_id) as third:
                        if third.status == 200:
                            await take(third, 1)
                            return refused

        refused = run(fill_and_drain())
        check_error(refused, status=503, code="too_many_listeners", param=None, message=["2 clients"])
        assert int(refused.headers["Retry-After"]) > 0

    def test_leave_their_place_when_they_are_refused(
        self, change_settings: ChangeSettings, request: pytest.FixtureRequest
    ) -> None:
        change_settings(max_event_listeners=1)
        server: str = request.getfixturevalue("server")
        finished = succeeded_job()
        for job_id, last_event_id, status in [
            ("job_unknown", "0", 404),
            (finished, "9", 422),
            (finished, "3", 204),
            (finished, "2", 200),
        ]:
            headers = {**STREAM, "Last-Event-ID": last_event_id}
            assert httpx.get(f"{server}/jobs/{job_id}/events", headers=headers).status_code == status


class TestPrefersStream:
    @pytest.mark.parametrize(
        ("accept", "expected"),
        [
            ("text/event-stream", True),
            ("Text/Event-Stream; charset=utf-8", True),
            ("text/event-stream, */*", True),
            ("application/json;q=0.5, text/event-stream;q=0.9", True),
            ("text/event-stream, application/json;q=0.5, */*;q=0.1", True),
            ("application/json, text/event-stream", False),
            ("text/event-stream, application/json", False),
            ("text/event-stream;q=0.5, application/json;q=0.5", False),
            ("application/json, text/event-stream;q=0.5", False),
            ("text/event-stream;q=0", False),
            ("text/event-stream;q=x", False),
            ("*/*", False),
            ("text/html,application/xhtml+xml", False),
            ("application/json", False),
            ("", False),
        ],
    )
    def test_reads_the_header(self, accept: str, expected: bool) -> None:
        assert prefers_stream(accept) is expected


class TestDocumentation:
    def test_shows_both_forms(self, server: str) -> None:
        operation = httpx.get(f"{server}/openapi.json").json()["paths"]["/jobs/{job_id}/events"]["get"]
        assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
        assert "204" in operation["responses"]
        assert "Last-Event-ID" in [parameter["name"] for parameter in operation["parameters"]]


def _vanish(job_id: str) -> None:
    """Delete a job while it is followed, as its owner could after it was cancelled."""
    with write_session() as session:
        jobs.request_cancel(session, job_id)
        jobs.delete_terminal(session, job_id)
