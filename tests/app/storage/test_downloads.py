"""Downloads over a line that is slow, stalls or breaks: an S3 server played over real HTTP, in fractions of seconds."""

import asyncio
import contextlib
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import obstore.exceptions
import pytest

from app.storage.store import STREAM_CHUNK_BYTES, ObjectStore
from tests.app.storage.played_server import QuietHandler, played_server

OBJECT = os.urandom(4 * STREAM_CHUNK_BYTES)
SILENCE_SECONDS = 0.4


class Line:
    """An S3 server with one object, which it sends as told."""

    def __init__(self) -> None:
        self.content = OBJECT
        self.e_tag = '"first"'
        self.ranges: list[str | None] = []
        self.is_over = threading.Event()
        # How much of it a body says that it holds.
        self.length: Callable[[bytes], int] = len
        # Takes what was asked for and a function that sends; returning early cuts the connection.
        self.send: Callable[[bytes, Callable[[bytes], None]], None] = lambda content, send: send(content)


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            line.ranges.append(asked)
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "bytes=0-")
            assert match is not None
            first, last = int(match[1]), int(match[2] or len(line.content) - 1)
            if self.headers.get("If-Match") not in (None, line.e_tag):
                self.send_error(412)
                return
            content = line.content[first : last + 1]
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(line.length(content)))
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(line.content)}")
            self.send_header("ETag", line.e_tag)
            self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
            self.end_headers()
            self.close_connection = True
            # The client may have had enough.
            with contextlib.suppress(OSError):
                line.send(content, self._send)

        def _send(self, content: bytes) -> None:
            self.wfile.write(content)
            self.wfile.flush()

    with played_server(Handler, line.is_over):
        yield line


def open_store(*, retries: int = 2, silence_seconds: float = SILENCE_SECONDS) -> ObjectStore:
    return ObjectStore(
        "s3://bucket/prefix", timeout_seconds=silence_seconds, retries=retries, retry_seconds=2 * SILENCE_SECONDS
    )


async def collect(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


class TestDownload:
    def test_may_take_as_long_as_something_comes(self, line: Line, tmp_path: Path) -> None:
        """Harm: a big teacher that takes a minute to fetch is fetched from its first byte again until the run fails."""

        silence_seconds = 1.5  # a machine with more to do may keep the sender for a while

        def trickle(content: bytes, send: Callable[[bytes], None]) -> None:
            for start in range(0, len(content), len(OBJECT) // 16):
                send(content[start : start + len(OBJECT) // 16])
                time.sleep(silence_seconds / 12)

        line.send = trickle
        began = time.monotonic()
        assert open_store(silence_seconds=silence_seconds).get_file("a", tmp_path / "a") == len(OBJECT)
        assert time.monotonic() - began > max(silence_seconds, 2 * SILENCE_SECONDS)
        assert (tmp_path / "a").read_bytes() == OBJECT
        assert line.ranges == [None], "it was not asked for again"

    @pytest.mark.parametrize("how", ["cut", "stalled"])
    @pytest.mark.parametrize(("start", "end"), [(0, None), (1000, None), (1000, len(OBJECT) - 1000)])
    def test_goes_on_where_it_broke_off(self, line: Line, how: str, start: int, end: int | None) -> None:
        """More often, and for longer, than one request may be tried again."""

        def send_some(content: bytes, send: Callable[[bytes], None]) -> None:
            send(content[: STREAM_CHUNK_BYTES * 5 // 4])
            if how == "stalled":
                line.is_over.wait(10 * SILENCE_SECONDS)

        line.send = send_some
        store = open_store(retries=1)
        assert b"".join(store.stream("a", start, end)) == OBJECT[start:end]
        assert asyncio.run(collect(store.stream_async("a", start, end))) == OBJECT[start:end]
        assert len(line.ranges) >= 6

    def test_waits_for_a_slow_reader(self, line: Line) -> None:
        """Harm: an artifact's download breaks because the client's line is slow, and not ours to the store."""
        line.content = os.urandom(64 * STREAM_CHUNK_BYTES)
        received = b""
        for chunk in open_store().stream("a"):
            received += chunk
            time.sleep(0.05)
        assert received == line.content

    def test_fails_when_nothing_comes_any_more(self, line: Line) -> None:
        """Harm: a worker that waits for ever for a store that has forgotten it."""

        def stall(content: bytes, send: Callable[[bytes], None]) -> None:
            if len(content) == len(OBJECT):
                send(content[:STREAM_CHUNK_BYTES])
            line.is_over.wait(10 * SILENCE_SECONDS)

        line.send = stall
        began = time.monotonic()
        with pytest.raises(obstore.exceptions.BaseError):
            list(open_store().stream("a"))
        assert time.monotonic() - began < 30 * SILENCE_SECONDS

    def test_goes_on_after_answers_that_were_short(self, line: Line) -> None:
        line.length = lambda content: min(len(content), STREAM_CHUNK_BYTES)
        line.send = lambda content, send: send(content[:STREAM_CHUNK_BYTES])
        assert b"".join(open_store().stream("a", start=1)) == OBJECT[1:]
        assert len(line.ranges) == 4

    def test_fails_when_answers_are_empty(self, line: Line) -> None:
        """Harm: the same request for ever, to a server or a proxy that ends every body at once."""
        line.length = lambda _: 0
        line.send = lambda _content, _send: None
        with pytest.raises(obstore.exceptions.BaseError, match=f"at byte 1 of {len(OBJECT)}"):
            list(open_store().stream("a", start=1))
        with pytest.raises(obstore.exceptions.BaseError, match=f"at byte 1 of {len(OBJECT)}"):
            asyncio.run(collect(open_store().stream_async("a", start=1)))

    def test_never_joins_two_objects(self, line: Line) -> None:
        def replace(content: bytes, send: Callable[[bytes], None]) -> None:
            send(content[: STREAM_CHUNK_BYTES * 5 // 4])
            line.content, line.e_tag = OBJECT[::-1], '"second"'

        line.send = replace
        with pytest.raises(obstore.exceptions.BaseError):
            list(open_store().stream("a"))
