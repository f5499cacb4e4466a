"""A job's events, by pages or as a stream."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Annotated

import structlog
from fastapi import APIRouter, FastAPI, Header, Query, Request, Response, status
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Message, Receive, Scope, Send

from app.dependencies import JobId, SettingsDep
from app.outages import is_database_away
from app.schemas.errors import error_responses
from app.schemas.events import EventPage, EventSequence, EventsQuery, read_event
from app.services import events
from app.services.event_feed import EventFeed, Listener
from app.services.event_stream import prefers_stream, stream
from app.settings import Settings

# How long a client may leave what was sent to it unread, once all buffers on the way are full.
STALLED_SECONDS = 60.0
STREAM_EXAMPLE = """\
retry: 2000

id: 3
event: round
data: {"sequence":3,"type":"round","created_at":"2026-01-05T12:00:09Z","payload":{"round":1}}

: keep-alive

id: 4
event: status
data: {"sequence":4,"type":"status","created_at":"2026-01-05T12:01:00Z","payload":{"status":"succeeded"}}

event: end
data: {"reason":"finished","status":"succeeded"}
"""

log = structlog.get_logger(__name__)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    feed = EventFeed(app.state.settings)
    app.state.event_feed = feed
    with _at_stop_signal(feed.close_soon):
        yield
    feed.close()


router = APIRouter(prefix="/jobs/{job_id}/events", tags=["jobs"], lifespan=_lifespan)


def close_streams(app: FastAPI) -> None:
    """End every stream of the app, from any thread. To be called before a server is told to stop: it waits for open
    responses before it ends the lifespan."""
    feed: EventFeed | None = getattr(app.state, "event_feed", None)
    if feed is not None:  # else it has not begun to serve
        feed.close_soon()


def get_event_feed(request: Request) -> EventFeed:
    feed: EventFeed = request.app.state.event_feed
    return feed


@router.get(
    "",
    summary="List or stream a job's events",
    response_model=EventPage,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}, "example": STREAM_EXAMPLE}}},
        204: {"description": "Of a stream: the job is over, and you have all its events"},
        **error_responses("GET /jobs/{job_id}/events", 404, 422),
    },
)
async def list_events(
    request: Request,
    job_id: JobId,
    query: Annotated[EventsQuery, Query()],
    settings: SettingsDep,
    last_event_id: Annotated[
        EventSequence | None,
        Header(alias="Last-Event-ID", description="As `after`, and before it: what an EventSource sends by itself."),
    ] = None,
) -> Response:
    """Oldest first.

    With `Accept: text/event-stream`, and JSON not accepted as gladly, the events are streamed as they happen, each
    under its type, with its sequence as the id. After a dropped connection, send the last id as `Last-Event-ID`:
    nothing is left out and nothing comes twice. When the job is over the stream says `event: end` and ends; a client
    that connects again then is answered with 204, on which an EventSource stops.

    Without it, a page: to follow a job, ask again with `after` set to the last sequence that you have.
    """
    after = query.after if last_event_id is None else last_event_id
    if prefers_stream(request.headers.get("accept", "")):
        feed = get_event_feed(request)
        return await _stream(feed, settings, job_id, after=after, has_been_here=last_event_id is not None)
    page = await run_in_threadpool(_page, settings, job_id, after, query.limit)
    return Response(page, media_type="application/json", headers={"Vary": "Accept"})


def _page(settings: Settings, job_id: str, after: int, limit: int) -> str:
    page = events.list_after(settings, job_id, after=after, limit=limit)
    data = [read_event(event) for event in page.events]
    next_page = str(data[-1].sequence) if page.has_more else None
    return EventPage(data=data, has_more=page.has_more, next=next_page).model_dump_json()


async def _stream(feed: EventFeed, settings: Settings, job_id: str, *, after: int, has_been_here: bool) -> Response:
    listener = feed.listen(job_id, after=after)
    try:
        await listener.start()
    except BaseException as error:
        # An EventSource that comes back takes any error for the last word, so it waits in the stream instead.
        if not (has_been_here and is_database_away(error)):
            listener.close()
            raise
    if listener.is_over:
        listener.close()
        return Response(status_code=status.HTTP_204_NO_CONTENT)
    return EventStreamResponse(listener, keep_alive_seconds=settings.event_keep_alive_seconds)


class EventStreamResponse(StreamingResponse):
    media_type = "text/event-stream"

    def __init__(self, listener: Listener, *, keep_alive_seconds: float) -> None:
        # The last is for nginx, which would gather the events until it has a bufferful.
        headers = {"Cache-Control": "no-cache", "Vary": "Accept", "X-Accel-Buffering": "no"}
        super().__init__(stream(listener, keep_alive_seconds=keep_alive_seconds), headers=headers)
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not in the generator: that is never begun when the client is gone already.
        try:
            await super().__call__(scope, receive, send)
        except TimeoutError:
            log.info("event_stream_stalled", job_id=self._listener.job_id, after=self._listener.after)
        finally:
            self._listener.close()

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(STALLED_SECONDS):
                await send(message)

        await super().stream_response(send_in_time)


@contextmanager
def _at_stop_signal(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` once the process is told to stop, and then whoever wanted to know of that."""
    if threading.current_thread() is not threading.main_thread():
        # Signals arrive elsewhere, and whoever handles them calls close_streams.
        yield
        return
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        act()
        pass_on = earlier[signal.Signals(number)]
        assert callable(pass_on)
        pass_on(number, frame)

    ours = [number for number, handler in earlier.items() if callable(handler)]
    for number in ours:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, earlier[number])
