"""A client of event streams that needs little of the machine, so that a test can have hundreds of them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


class StreamBroken(ConnectionError):
    """The connection ended in the middle of the response."""


@dataclass
class Message:
    id: str | None = None
    event: str = "message"
    data: str = ""

    def json(self) -> Any:
        return json.loads(self.data)


@dataclass
class EventStream:
    """One response. Iterate over it for its messages; what else was on the wire is noted aside."""

    status: int
    headers: dict[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    comments: list[str] = field(default_factory=list)
    retry: int | None = None

    def __post_init__(self) -> None:
        # One for all loops over the stream: each goes on where the one before stopped.
        self._messages = self._read()

    def __aiter__(self) -> AsyncIterator[Message]:
        return self._messages

    async def _read(self) -> AsyncIterator[Message]:
        message = Message()
        rest = b""
        async for part in self._body():
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                if not line:
                    if message.data:
                        yield message
                    message = Message()
                    continue
                name, _, value = line.decode().partition(": ")
                if name == "":
                    self.comments.append(value)
                elif name == "retry":
                    self.retry = int(value)
                else:
                    setattr(message, name, value)

    async def text(self) -> str:
        return b"".join([part async for part in self._body()]).decode()

    def drop(self) -> None:
        """Cut the connection, whatever is on its way."""
        self.writer.transport.abort()

    async def _body(self) -> AsyncIterator[bytes]:
        try:
            if self.headers.get("transfer-encoding") != "chunked":
                yield await self.reader.readexactly(int(self.headers.get("content-length", 0)))
                return
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                yield await self.reader.readexactly(size)
                await self.reader.readexactly(2)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise StreamBroken from error


@asynccontextmanager
async def open_stream(
    address: str, job_id: str, *, last_event_id: str | None = None, query: str = "", accept: str = "text/event-stream"
) -> AsyncIterator[EventStream]:
    """Ask for a job's events. Raises ConnectionError when nobody answers."""
    url = urlsplit(address)
    try:
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
    except OSError as error:
        raise StreamBroken from error
    try:
        lines = [f"GET /jobs/{job_id}/events{query} HTTP/1.1", f"Host: {url.netloc}", f"Accept: {accept}"]
        if last_event_id is not None:
            lines.append(f"Last-Event-ID: {last_event_id}")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise StreamBroken from error
        status_line, *header_lines = head.split("\r\n")[:-2]
        headers = dict(line.lower().split(": ", 1) for line in header_lines)
        yield EventStream(int(status_line.split(" ")[1]), headers, reader, writer)
    finally:
        writer.close()


async def follow(
    address: str, job_id: str, *, last_event_id: str | None = None, query: str = ""
) -> tuple[list[Message], EventStream]:
    """All messages of one stream, until it ends."""
    async with open_stream(address, job_id, last_event_id=last_event_id, query=query) as stream:
        assert stream.status == 200, (stream.status, await stream.text())
        return [message async for message in stream], stream


def sequences(messages: list[Message]) -> list[int]:
    """The ids of the messages that have one."""
    return [int(message.id) for message in messages if message.id is not None]
