"""Uploads over a slow line, and to a store that falls silent: an S3 server played over real HTTP."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import obstore.exceptions
import pytest

from app.storage import store
from app.storage.store import UPLOAD_CHUNK_BYTES, UPLOAD_CONCURRENCY, ObjectStore
from tests.app.storage.played_server import QuietHandler, played_server

SILENCE_SECONDS = 0.4
PIECES = 8


class Line:
    """An S3 server that takes in what is put as slowly as told."""

    def __init__(self) -> None:
        # The bodies by part; one that came whole is part 0.
        self.received: dict[int, bytes] = {}
        self.puts = 0
        self.pause_seconds = 0.0
        # How many puts get no answer.
        self.silent_puts = 0
        self.is_over = threading.Event()

    @property
    def content(self) -> bytes:
        return b"".join(self.received[part] for part in sorted(self.received))


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            result = f"{'Initiate' if 'uploads' in self.path else 'Complete'}MultipartUploadResult"
            fields = "<Bucket>b</Bucket><Key>a</Key><UploadId>u</UploadId><ETag>e</ETag>"
            self._answer(f"<{result}>{fields}</{result}>".encode())

        def do_PUT(self) -> None:
            line.puts += 1
            if line.puts <= line.silent_puts:
                line.is_over.wait(60)
                self.close_connection = True
                return
            length, content = int(self.headers["Content-Length"]), b""
            for piece in range(1, PIECES + 1):
                content += self.rfile.read(length * piece // PIECES - len(content))
                time.sleep(line.pause_seconds)
            part = parse_qs(urlsplit(self.path).query).get("partNumber", ["0"])
            line.received[int(part[0])] = content
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("ETag", '"e"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with played_server(Handler, line.is_over):
        yield line


@pytest.fixture
def allow_for_sending(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets how long a slow line may take for what is under way."""

    def allow(seconds: float) -> None:
        rate = UPLOAD_CONCURRENCY * UPLOAD_CHUNK_BYTES / seconds
        monkeypatch.setattr(store, "SLOWEST_UPLOAD_BYTES_PER_SECOND", rate)

    return allow


def open_store(*, retry_seconds: float = 2 * SILENCE_SECONDS) -> ObjectStore:
    return ObjectStore("s3://bucket/prefix", timeout_seconds=SILENCE_SECONDS, retries=2, retry_seconds=retry_seconds)


def put_file(objects: ObjectStore, content: bytes, folder: Path) -> None:
    (folder / "a").write_bytes(content)
    objects.put_file("a", folder / "a")


def put_bytes(objects: ObjectStore, content: bytes, _folder: Path) -> None:
    objects.put_bytes("a", content)


def stream(objects: ObjectStore, content: bytes, _folder: Path) -> None:
    async def upload() -> None:
        async with objects.open_writer_async("a") as writer:
            await writer.write(content)

    asyncio.run(upload())


class TestUpload:
    @pytest.mark.parametrize("upload", [put_file, put_bytes, stream])
    @pytest.mark.parametrize("size_bytes", [100_000, UPLOAD_CHUNK_BYTES * 5 // 2])
    def test_may_take_as_long_as_a_slow_line_does(
        self, line: Line, upload: Callable[[ObjectStore, bytes, Path], None], size_bytes: int, tmp_path: Path
    ) -> None:
        """Harm: over a line to the store of a few Mbit/s no checkpoint, artifact or dataset is ever stored."""
        content = os.urandom(size_bytes)
        line.pause_seconds = 3 * SILENCE_SECONDS / PIECES
        upload(open_store(), content, tmp_path)
        assert line.content == content
        assert line.puts == len(line.received), "nothing was sent again"

    def test_to_a_store_that_says_nothing_fails(
        self, line: Line, allow_for_sending: Callable[[float], None], tmp_path: Path
    ) -> None:
        allow_for_sending(SILENCE_SECONDS)
        line.silent_puts = 100
        began = time.monotonic()
        with pytest.raises(obstore.exceptions.BaseError):
            put_file(open_store(), b"x", tmp_path)
        assert time.monotonic() - began < 30 * SILENCE_SECONDS

    def test_that_was_not_answered_is_tried_again(
        self, line: Line, allow_for_sending: Callable[[float], None], tmp_path: Path
    ) -> None:
        """Also where a try takes longer than what reads have for all their tries."""
        allow_for_sending(3.0)
        line.silent_puts = 1
        put_file(open_store(retry_seconds=3.0), b"x", tmp_path)
        assert (line.content, line.puts) == (b"x", 2)
