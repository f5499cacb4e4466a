"""Uploads that end before they should, over a real socket: the limit, a broken connection, a client that falls
silent."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.pool import QueuePool
from starlette.types import Message, Receive, Scope, Send

from app import middleware
from app.db.models import ObjectCleanup
from app.db.session import get_engine, read_session
from app.services import receiving
from app.settings import get_settings
from app.storage.store import ObjectStore
from app.sweep import sweep_once
from tests.app.routes.helpers import check_error, running_job, succeeded_job
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import make_cleanups_due
from tests.fixtures.servers import s3_client

LIMIT = 12_000_000  # more than one stored part
HEAD = b'--b\r\nContent-Disposition: form-data; name="train"; filename="a.csv"\r\n\r\n'


@pytest.fixture(autouse=True)
def limit(change_settings: ChangeSettings) -> None:
    change_settings(max_upload_bytes=LIMIT)


def chunks(size: int) -> Iterator[bytes]:
    yield HEAD
    for _ in range(size // 100_000):
        yield b"x" * 100_000
    yield b"\r\n--b--\r\n"


@pytest.fixture
def unfinished(object_store: ObjectStore, request: pytest.FixtureRequest) -> Callable[[], list[str]]:
    """Lists what is being written and not yet an object, or was given up without being removed."""
    if object_store.folder is not None:
        return lambda: list(object_store.unfinished("datasets"))
    client = s3_client(request.getfixturevalue("s3"))
    prefix = object_store.url.removeprefix("s3://stillhouse/")

    def list_uploads() -> list[str]:
        uploads = client.list_multipart_uploads(Bucket="stillhouse", Prefix=prefix).get("Uploads", [])
        return [upload["Key"] for upload in uploads]

    return list_uploads


@pytest.fixture
def assert_nothing_is_left(
    object_store: ObjectStore, unfinished: Callable[[], list[str]], server: str
) -> Callable[[], None]:
    def check() -> None:
        assert list(object_store.list("datasets")) == []
        assert unfinished() == []
        assert httpx.get(f"{server}/datasets").json()["data"] == []

    return check


def connect(address: str) -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), timeout=20)


@pytest.mark.usefixtures("sqlite_database", "object_store")
class TestTooLarge:
    def test_is_refused_before_it_is_sent_when_its_length_is_declared(
        self, server: str, assert_nothing_is_left: Callable[[], None]
    ) -> None:
        with connect(server) as connection:
            connection.sendall(
                b"POST /datasets HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 99000000\r\n\r\n"
            )
            assert connection.recv(4096).startswith(b"HTTP/1.1 413")
        assert_nothing_is_left()

    def test_is_refused_while_it_is_sent(self, server: str, assert_nothing_is_left: Callable[[], None]) -> None:
        response = httpx.post(
            f"{server}/datasets",
            content=chunks(LIMIT + 5_000_000),
            headers={"Content-Type": "multipart/form-data; boundary=b"},
            timeout=30,
        )
        check_error(
            response,
            status=413,
            code="upload_too_large",
            param="train",
            message=["12000000 bytes", "STILLHOUSE_MAX_UPLOAD_BYTES"],
        )
        assert_nothing_is_left()

    def test_counts_all_files_together(self, server: str, assert_nothing_is_left: Callable[[], None]) -> None:
        files = {"train": ("a.csv", b"x" * 7_000_000), "test": ("b.csv", b"x" * 5_500_000)}
        response = httpx.post(f"{server}/datasets", files=files, timeout=30)
        assert (response.status_code, response.json()["error"]["param"]) == (413, "test")
        assert_nothing_is_left()

    def test_takes_what_is_just_within_the_limit(self, server: str) -> None:
        response = httpx.post(f"{server}/datasets", files={"train": ("a.csv", b"x" * LIMIT)}, timeout=30)
        assert (response.status_code, response.json()["size_bytes"]) == (202, LIMIT)


@pytest.mark.usefixtures("sqlite_database")
class TestSilentClient:
    @pytest.fixture(autouse=True)
    def hurry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(middleware, "BODY_SILENCE_SECONDS", 0.5)
        monkeypatch.setattr(middleware, "DRAIN_SECONDS", 0.2)

    def check_timed_out(self, connection: socket.socket) -> None:
        answer = b""
        while received := connection.recv(65_536):  # until the server closes
            answer += received
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        error = json.loads(body)["error"]
        assert (error["type"], error["code"]) == ("invalid_request", "request_timeout")
        assert "nothing came for 0.5 seconds" in error["message"]

    @pytest.mark.usefixtures("object_store")
    def test_ends_its_upload_and_leaves_nothing(self, server: str, assert_nothing_is_left: Callable[[], None]) -> None:
        """Harm: whoever says no more keeps a connection, memory and an unfinished object for ever."""
        with connect(server) as connection:
            connection.sendall(
                b"POST /datasets HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                b"Content-Length: 11900000\r\n\r\n" + HEAD + b"x" * 9_000_000
            )
            self.check_timed_out(connection)
        assert_nothing_is_left()

    def test_ends_its_json(self, server: str) -> None:
        with connect(server) as connection:
            connection.sendall(
                b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b'Content-Length: 100\r\n\r\n{"teacher": '
            )
            self.check_timed_out(connection)

    def test_may_be_slow(self, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(middleware, "BODY_SILENCE_SECONDS", 2.0)  # less than it takes for all of the body
        with connect(server) as connection:
            body = b'{"teacher": "tch_a"}'
            connection.sendall(
                b"POST /jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body)
            )
            for place in range(0, len(body), 3):
                time.sleep(0.35)
                connection.sendall(body[place : place + 3])
            assert connection.recv(4096).startswith(b"HTTP/1.1 422 ")

    def test_may_wait_for_its_answer(self) -> None:
        """Harm: whoever has sent all is told to have sent nothing, because the service takes its time."""
        told = iter([{"type": "http.request", "body": b"{}", "more_body": False}, {"type": "http.disconnect"}])
        heard: list[str] = []

        async def receive() -> Message:
            if heard:
                await asyncio.sleep(1.0)
            return next(told)

        async def work(_scope: Scope, receive: Receive, _send: Send) -> None:
            for _ in range(2):
                heard.append((await receive())["type"])

        async def send(_message: Message) -> None:
            pass

        limited = middleware.BodyLimitMiddleware(work, upload_limit_bytes=LIMIT)
        scope = {"type": "http", "method": "POST", "path": "/jobs", "headers": [(b"content-length", b"2")]}
        asyncio.run(limited(scope, receive, send))
        assert heard == ["http.request", "http.disconnect"]

    @pytest.mark.parametrize("length", [b"", b"Content-Length: 10\r\n"])
    def test_may_listen(self, server: str, length: bytes) -> None:
        """Harm: a stream of events that breaks off every minute; here also of a client that promised a body."""
        with connect(server) as connection:
            connection.sendall(
                b"GET /jobs/%s/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n%s\r\n"
                % (running_job().encode(), length)
            )
            time.sleep(1.5)
            received = connection.recv(65_536)
            assert received.startswith(b"HTTP/1.1 200 ")
            connection.settimeout(0.5)
            with suppress(TimeoutError):
                while True:
                    assert connection.recv(65_536), "the stream has ended"


@pytest.mark.usefixtures("postgres_database", "folder_object_store")
class TestTransfer:
    """PostgreSQL: no sweep runs beside the API, so every session is one of a request."""

    def test_of_an_upload_holds_no_database_session(self, server: str) -> None:
        with connect(server) as connection:
            connection.sendall(
                b"POST /datasets HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                b"Content-Length: 11900000\r\n\r\n" + HEAD + b"x" * 4_000_000
            )
            # The rest never comes: the API has noted where leftovers would be, and waits in the middle of the body.
            deadline = time.monotonic() + 60
            while not (is_begun() and open_sessions() == 0):
                assert time.monotonic() < deadline, "it holds a session"
                time.sleep(0.02)
            connection.sendall(b"x" * 100_000)
            for _ in range(20):
                assert open_sessions() == 0
                time.sleep(0.01)

    def test_of_a_download_holds_no_database_session(self, server: str) -> None:
        job_id = succeeded_job({"model.safetensors": b"x" * 30_000_000})
        with httpx.stream("GET", f"{server}/jobs/{job_id}/artifacts/model.safetensors") as response:
            next(response.iter_raw(1000))
            assert open_sessions() == 0


def is_begun() -> bool:
    """Whether an upload has noted in the database where its objects will be."""
    with read_session() as session:
        return session.scalar(select(ObjectCleanup.object_prefix)) is not None


def open_sessions() -> int:
    pool = get_engine(get_settings()).pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()


@pytest.mark.usefixtures("sqlite_database", "object_store")
class TestBrokenConnection:
    def test_leaves_nothing(
        self,
        server: str,
        unfinished: Callable[[], list[str]],
        assert_nothing_is_left: Callable[[], None],
    ) -> None:
        with connect(server) as connection:
            connection.sendall(
                b"POST /datasets HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                b"Content-Length: 11900000\r\n\r\n" + HEAD + b"x" * 9_000_000
            )
            deadline = time.monotonic() + 60
            # Until the first part has left for the store: that is the state in which something could remain.
            while not unfinished() and time.monotonic() < deadline:
                time.sleep(0.02)
            assert unfinished()
        while unfinished() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert_nothing_is_left()

    def test_leaves_its_trace_to_the_sweep_when_the_process_dies_with_it(self, object_store: ObjectStore) -> None:
        receiving.expect_objects(get_settings(), "datasets/dts_lost")
        object_store.put_bytes("datasets/dts_lost/uploads/train.csv", b"x")
        sweep_once(get_settings())
        assert object_store.exists("datasets/dts_lost/uploads/train.csv")
        make_cleanups_due()
        sweep_once(get_settings())
        assert not object_store.exists("datasets/dts_lost/uploads/train.csv")
