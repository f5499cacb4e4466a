"""The load: many connections, each sending its next request when it has read the answer to the last.

Written on asyncio's protocols, because a client that does more would take from the server, with which it shares
the machine. It checks each answer all the same: the status, the whole length, and a text that has to be in it.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial


@dataclass(frozen=True)
class Request:
    message: bytes
    status: int
    # What the answer has to hold.
    expected: bytes


# What gives the next request, and how many clients send what it gives.
Load = tuple[Callable[[], Request], int]


@dataclass
class Outcome:
    """What one load has measured."""

    seconds: float = 0.0
    # Of all answers, also of those that were on their way when the time was up.
    latencies: list[float] = field(default_factory=list)
    answers_in_time: int = 0
    # The first few of all that went wrong.
    errors: list[str] = field(default_factory=list)
    error_count: int = 0
    # Processor time of the client itself, to see that it was not what limited the rate, and of the server.
    client_cpu_seconds: float = 0.0
    server_cpu_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.answers_in_time / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """The latency in seconds that this share of the requests stayed below."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")

    def note_error(self, text: str) -> None:
        self.error_count += 1
        if len(self.errors) < 5:
            self.errors.append(text)


def get(path: str, *, expected: str) -> Request:
    return Request(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode(), 200, expected.encode())


def post(path: str, body: bytes, *, status: int, expected: str) -> Request:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return Request(head.encode() + body, status, expected.encode())


async def send_loads(port: int, loads: list[Load], *, seconds: float) -> list[Outcome]:
    """Have the clients of each load send what it gives them, all at the same time, for that long.

    Answers that are on their way at the end are awaited and checked, but do not count for the rate.
    """
    loop = asyncio.get_running_loop()
    outcomes = [Outcome() for _ in loads]
    connections: list[_Connection] = []
    for (requests, clients), outcome in zip(loads, outcomes, strict=True):
        for _ in range(clients):
            connect = partial(_Connection, requests, outcome)
            _, connection = await loop.create_connection(connect, "127.0.0.1", port)
            connections.append(connection)
    began, cpu_began = time.perf_counter(), time.process_time()
    for connection in connections:
        connection.send_next()
    await asyncio.sleep(seconds)
    for connection in connections:
        connection.is_last = True
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu_began
    for outcome in outcomes:
        outcome.seconds, outcome.client_cpu_seconds = elapsed, cpu
        outcome.answers_in_time = len(outcome.latencies)
    done = [connection.done for connection in connections]
    _, late = await asyncio.wait(done, timeout=60)
    for outcome in outcomes[:1]:
        for _ in late:
            outcome.note_error("no answer within a minute")
    for connection in connections:
        connection.close()
    return outcomes


class _Connection(asyncio.Protocol):
    def __init__(self, requests: Callable[[], Request], outcome: Outcome) -> None:
        self.is_last = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._outcome = outcome
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._request: Request | None = None
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send_next(self) -> None:
        assert self._transport is not None
        self._request = self._requests()
        self._sent_at = time.perf_counter()
        self._transport.write(self._request.message)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = _content_length(self._buffer, head_end)
        if len(self._buffer) < head_end + 4 + length:
            return
        self._outcome.latencies.append(time.perf_counter() - self._sent_at)
        assert self._request is not None
        status = int(self._buffer[9:12])
        if status != self._request.status or self._buffer.find(self._request.expected, head_end) < 0:
            self._outcome.note_error(self._buffer[:600].decode(errors="replace"))
        self._buffer.clear()
        self._request = None
        if self.is_last:
            self._finish()
        else:
            self.send_next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._outcome.note_error(f"the connection was closed: {exc!r}")
            self._finish()

    def close(self) -> None:
        self._finish()
        if self._transport is not None:
            self._transport.close()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


def _content_length(buffer: bytearray, head_end: int) -> int:
    place = buffer.find(b"content-length: ", 0, head_end + 2)
    if place < 0:
        place = buffer.lower().find(b"content-length: ", 0, head_end + 2)
    return int(buffer[place + 16 : buffer.find(b"\r\n", place)]) if place >= 0 else 0
