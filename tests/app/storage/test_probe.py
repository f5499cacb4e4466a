"""Whether a store works, asked of one that lists what it has and does nothing else: an S3 server played over HTTP."""

import threading
import time
from collections.abc import Iterator

import pytest

from app.storage import keys, store
from app.storage.store import ObjectStore
from tests.app.storage.played_server import QuietHandler, played_server


class Bucket:
    """An S3 server that answers requests of these methods with 500, or not at all. POST is what deletes."""

    def __init__(self) -> None:
        self.refused = ""
        self.is_silent = False
        self.content = b""
        self.is_over = threading.Event()


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    bucket = Bucket()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            if "list-type" in self.path:
                empty = "<KeyCount>0</KeyCount><IsTruncated>false</IsTruncated>"
                self._answer(200, f"<ListBucketResult>{empty}</ListBucketResult>".encode())
            elif not self._refuse():
                self._answer(200, bucket.content)

        def do_PUT(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if not self._refuse():
                bucket.content = content
                self._answer(200, b"")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not self._refuse():
                key = f"prefix/{keys.probe('a')}"
                self._answer(200, f"<DeleteResult><Deleted><Key>{key}</Key></Deleted></DeleteResult>".encode())

        def _refuse(self) -> bool:
            if self.command != bucket.refused:
                return False
            if bucket.is_silent:
                bucket.is_over.wait(60)
                self.close_connection = True
            else:
                self._answer(500, b"")
            return True

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("ETag", '"e"')
            self.send_header("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with played_server(Handler, bucket.is_over):
        yield bucket


class TestWorks:
    """Harm: a store that is full, or may only be read, passes for one that refuses a single job: of every job that
    waits an engine runs for hours, and then it fails."""

    def test_where_nothing_is_refused(self, bucket: Bucket) -> None:
        assert ObjectStore("s3://bucket/prefix").works(keys.probe("a"))
        assert len(bucket.content) == store.PROBE_BYTES

    @pytest.mark.parametrize("refused", ["PUT", "GET", "POST"])
    @pytest.mark.parametrize("is_silent", [False, True])
    def test_not_where_it_only_lists(
        self, bucket: Bucket, refused: str, is_silent: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store, "PROBE_SECONDS", 0.5)
        bucket.refused, bucket.is_silent = refused, is_silent
        objects = ObjectStore("s3://bucket/prefix")
        began = time.monotonic()
        assert objects.answers()
        assert not objects.works(keys.probe("a"))
        assert time.monotonic() - began < 15
