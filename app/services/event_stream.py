"""A listener's events as server-sent events (WHATWG HTML, section 9.2): the text on the wire, and its pace."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Iterator

from app.schemas.events import StreamEnd
from app.services.event_feed import FeedEvent, Listener

# What a write takes at most, as long as no single event is longer.
CHUNK_BYTES = 32 * 1024
KEEP_ALIVE = b": keep-alive\n\n"
END = "end"


async def stream(listener: Listener, *, keep_alive_seconds: float) -> AsyncIterator[bytes]:
    """The body of the response, until the job is over or deleted, or the process stops."""
    # When the API starts again, its clients do not all come back in the same moment.
    yield b"retry: %d\n\n" % random.randint(1000, 3000)
    while True:
        try:
            async with asyncio.timeout(keep_alive_seconds):
                events = await listener.take()
        except TimeoutError:
            yield KEEP_ALIVE
            continue
        if not events:
            break
        for chunk in _chunks(map(write_event, events)):
            yield chunk
    if listener.end is not None and listener.end.reason != "closed":
        end = StreamEnd(reason=listener.end.reason, status=listener.end.status)
        # Without an id: a client that comes back all the same names the job's last event.
        yield _fields(event=END, data=end.model_dump_json())


def write_event(event: FeedEvent) -> bytes:
    return _fields(id=str(event.sequence), event=event.type, data=event.json)


def prefers_stream(accept: str) -> bool:
    """Whether an Accept header asks for a stream: it names one, and JSON with less quality or not at all.

    Clients that are generated from the description name all that a route can answer, of equal quality, and cannot read
    a stream.
    """
    stream_quality = json_quality = 0.0
    for part in accept.split(","):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = _quality(parameters)
        if media_range == "text/event-stream":
            stream_quality = max(stream_quality, quality)
        elif media_range == "application/json":
            json_quality = max(json_quality, quality)
    return stream_quality > json_quality


def _quality(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _fields(**fields: str) -> bytes:
    # No value holds a line break, which would end the field: JSON escapes it, types are names of ours.
    return "\n".join([*(f"{name}: {value}" for name, value in fields.items()), "", ""]).encode()


def _chunks(parts: Iterable[bytes]) -> Iterator[bytes]:
    gathered: list[bytes] = []
    size = 0
    for part in parts:
        if gathered and size + len(part) > CHUNK_BYTES:
            yield b"".join(gathered)
            gathered, size = [], 0
        gathered.append(part)
        size += len(part)
    if gathered:
        yield b"".join(gathered)
