"""Follow jobs as they go on: any number of listeners in a process, and one reader of the database for all.

A listener names a job and the sequence that it has. Once a tick the reader asks, in one statement, what is new
behind all these places, and hands it out; between two ticks nobody holds a connection. A listener that has not
taken yet what it was given is not read for: a client that is slow costs its own time, not our memory.

Everything but the reading itself happens in the event loop, so nothing here is locked.
"""

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

import structlog
from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from app.db.session import read_session
from app.domain.jobs import TERMINAL, JobStatus
from app.errors import InvalidRequest, JobNotFound, Unavailable
from app.prometheus import EVENT_LISTENERS
from app.repositories import events
from app.schemas.events import read_event
from app.schemas.jobs import JobStatusName
from app.settings import Settings

# Shared by all places asked for in one statement, so that a process holds no more than this for a moment.
EVENTS_PER_READ = 2000
MOST_EVENTS_PER_PLACE = 200
FEWEST_EVENTS_PER_PLACE = 10
# Between two reads: listeners that come at the same moment, after a restart, are answered by one.
GATHER_SECONDS = 0.02
# How long the database is left alone after it did not answer.
RETRY_SECONDS = 2.0

log = structlog.get_logger(__name__)


class TooManyListeners(Unavailable):
    default_code = "too_many_listeners"
    headers = MappingProxyType({"Retry-After": "10"})

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"This process already streams events to {limit} clients, its limit. Connect again later, or poll "
            "GET /jobs/{job_id}/events without Accept: text/event-stream."
        )


class FeedEvent(NamedTuple):
    sequence: int
    type: str
    # As in the JSON page.
    json: str


class FeedPage(NamedTuple):
    """What the reader found behind one place."""

    status: JobStatus
    # Of the job's newest event, which may be on a later page.
    last_sequence: int
    # This page and what lies before its place hold all events up to here.
    through: int
    events: Sequence[FeedEvent]


@dataclass(frozen=True)
class End:
    """Why nothing more will come."""

    # Closed: the job goes on, but this process does not.
    reason: Literal["finished", "deleted", "closed"]
    status: JobStatusName | None = None


class Listener:
    """One client's place in one job's events. Made by `EventFeed.listen`; `close` it in the end."""

    def __init__(self, feed: "EventFeed", job_id: str, after: int) -> None:
        self.job_id = job_id
        # The sequence of the last event that was handed out.
        self.after = after
        # Set once nothing comes behind the events that wait to be taken.
        self.end: End | None = None
        self.is_known = False
        self._feed = feed
        self._waiting: Sequence[FeedEvent] = ()
        self._is_behind = False
        self._changed = asyncio.Event()
        self._error: Exception | None = None

    @property
    def is_over(self) -> bool:
        """Whether the job is over and all its events have been taken."""
        return not self._waiting and self.end is not None and self.end.reason == "finished"

    @property
    def is_hungry(self) -> bool:
        """Whether it has taken all that it was given, and more may come."""
        return not self._waiting and self.end is None

    async def start(self) -> None:
        """Wait until the database has answered about the job for the first time.

        Raises JobNotFound, InvalidRequest when the job has not got as far as `after`, or whatever kept the database
        from answering. Who takes no notice of the last and goes on will have the events when it answers again.
        """
        while not self.is_known and self.end is None and self._error is None:
            await self._change()
        if self._error is not None:
            raise self._error
        if self.end is not None and self.end.reason == "deleted":
            raise JobNotFound(self.job_id, param="job_id")

    async def take(self) -> Sequence[FeedEvent]:
        """Wait for events and take them; none when the end has come."""
        while not self._waiting and self.end is None:
            await self._change()
        taken, self._waiting = self._waiting, ()
        if self._is_behind:
            self._feed.read_soon(self)
        return taken

    def close(self) -> None:
        self._feed.forget(self)

    def give(self, page: FeedPage | None) -> None:
        """Hand out what the reader found behind this listener's place; None when the job is gone."""
        if page is None:
            self.give_end(End("deleted"))
            return
        if not self.is_known and self.after > page.last_sequence:
            self._error = _beyond(self.job_id, self.after, page.last_sequence)
            self.give_end(End("closed"))
            return
        self.is_known = True
        self._waiting = page.events
        self.after = max(self.after, page.through)
        self._is_behind = self.after < page.last_sequence
        if page.status in TERMINAL and not self._is_behind:
            self.end = End("finished", page.status.value)
        self._changed.set()

    def give_error(self, error: Exception) -> None:
        """The reader failed. Only a client that has no answer yet has to hear of it."""
        if not self.is_known:
            self._error = error
            self._changed.set()

    def give_end(self, end: End) -> None:
        self.end = self.end or end
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class EventFeed:
    """The listeners of this process and their reader, which runs while there are any. Made in the event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[str, set[Listener]] = defaultdict(set)
        self._count = 0
        self._urgent: set[Listener] = set()
        self._wake = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        # The reader does not queue for a thread behind the requests.
        self._thread = CapacityLimiter(1)
        self._is_failing = False
        self._is_closed = False

    def listen(self, job_id: str, *, after: int) -> Listener:
        """Follow a job from behind the sequence `after`. Raises TooManyListeners."""
        if self._count >= self._settings.max_event_listeners:
            raise TooManyListeners(self._settings.max_event_listeners)
        listener = Listener(self, job_id, after)
        self._listeners[job_id].add(listener)
        self._count += 1
        EVENT_LISTENERS.inc()
        if self._is_closed:
            listener.give_end(End("closed"))
        self.read_soon(listener)
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read_on(), name="event-feed")
        return listener

    def forget(self, listener: Listener) -> None:
        of_job = self._listeners.get(listener.job_id, set())
        if listener in of_job:
            of_job.remove(listener)
            self._count -= 1
            EVENT_LISTENERS.dec()
            if not of_job:
                del self._listeners[listener.job_id]
        self._urgent.discard(listener)
        if not self._count:
            self._wake.set()  # for the reader to end

    def read_soon(self, listener: Listener) -> None:
        """Read for this listener before the next tick: more is known to wait, or it is new."""
        self._urgent.add(listener)
        self._wake.set()

    def close(self) -> None:
        """End every stream, and those to come at once: this process stops, and another takes the clients."""
        self._is_closed = True
        for of_job in self._listeners.values():
            for listener in of_job:
                listener.give_end(End("closed"))

    def close_soon(self) -> None:
        """The same from any thread, or from the handler of a signal."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it every stream
            self._loop.call_soon_threadsafe(self.close)

    async def _read_on(self) -> None:
        loop = asyncio.get_running_loop()
        next_tick = loop.time()
        while self._count:
            now = loop.time()
            is_tick = now >= next_tick
            if is_tick:
                # Processes that were started together do not stay in step.
                next_tick = now + self._settings.event_poll_seconds * random.uniform(0.8, 1.2)
            asked = self._asked(everyone=is_tick)
            self._wake.clear()
            if asked and not await self._read(asked):
                next_tick = loop.time() + RETRY_SECONDS * random.uniform(0.5, 1.5)
            await asyncio.sleep(GATHER_SECONDS)
            try:
                async with asyncio.timeout_at(next_tick):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _asked(self, *, everyone: bool) -> dict[tuple[str, int], list[Listener]]:
        """The listeners to read for, by their places."""
        chosen = (listener for of_job in self._listeners.values() for listener in of_job) if everyone else self._urgent
        places: dict[tuple[str, int], list[Listener]] = defaultdict(list)
        for listener in chosen:
            if listener.is_hungry:
                places[listener.job_id, listener.after].append(listener)
        self._urgent.clear()
        return places

    async def _read(self, asked: dict[tuple[str, int], list[Listener]]) -> bool:
        try:
            pages = await run_sync(
                read_pages, self._settings, list(asked), limiter=self._thread, abandon_on_cancel=True
            )
        except Exception as error:
            # Whatever it is, the streams stay open: their clients could only come back and ask the same.
            if not self._is_failing:
                log.warning("event_feed_failed", error=str(error), error_type=type(error).__name__)
            self._is_failing = True
            for listeners in asked.values():
                for listener in listeners:
                    listener.give_error(error)
            return False
        if self._is_failing:
            log.info("event_feed_recovered")
        self._is_failing = False
        for place, listeners in asked.items():
            for listener in listeners:
                if listener.is_hungry and place == (listener.job_id, listener.after):
                    listener.give(pages.get(place))
        return True


def read_pages(settings: Settings, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], FeedPage]:
    """A page of events behind each (job id, sequence). Places whose job is gone are missing."""
    limit = min(MOST_EVENTS_PER_PLACE, max(FEWEST_EVENTS_PER_PLACE, EVENTS_PER_READ // len(places)))
    with read_session(settings) as session:
        found = events.list_news(session, places, limit=limit)
    return {
        (job_id, after): FeedPage(
            status=news.status,
            last_sequence=news.last_sequence,
            through=min(after + limit, news.last_sequence),
            events=[FeedEvent(row.sequence, row.type, read_event(row).model_dump_json()) for row in news.events],
        )
        for (job_id, after), news in found.items()
    }


def _beyond(job_id: str, after: int, last_sequence: int) -> InvalidRequest:
    return InvalidRequest(
        f"Job {job_id!r} has {last_sequence} events so far, so none can be the one numbered {after}. Send the "
        "sequence of an event that you have received, or none to begin at the first.",
        code="out_of_range",
        param="after",
    )
