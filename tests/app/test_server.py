"""`stillhouse api` as a process of its own, as a container runs it."""

import asyncio
import contextlib
import errno
import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from app import cli
from app.server import CannotStart, HeadTimeoutProtocol, bind, uvicorn_config
from tests.e2e.system import START_SECONDS, Process, is_ready, wait_for
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.servers import free_port

FORWARDED = {"X-Forwarded-For": "198.51.100.7"}
BOUNDARY = "a-boundary"
PART = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="train"; filename="train.csv"\r\n\r\n'.encode()


class Api(Process):
    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-P", "-m", "app.cli", "api", "--port", str(self.port)]
        super().__init__(command, os.environ, folder / "api.log")

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Its log lines of this event."""
        found = (json.loads(line) for line in self.log.read_text().splitlines())
        return [line for line in found if line["event"] == event]


@pytest.fixture
def api(sqlite_database: str, change_settings: ChangeSettings, tmp_path: Path) -> Iterator[Api]:  # noqa: ARG001
    change_settings(shutdown_seconds=30, trusted_proxies="192.0.2.1")
    process = Api(tmp_path)
    try:
        wait_for(lambda: is_ready(process.address), START_SECONDS, "readiness", process=process)
        yield process
    finally:
        process.end()


class TestServe:
    def test_logs_in_our_form_and_ends_in_order(self, api: Api) -> None:
        httpx.post(f"{api.address}/jobs", json={}, headers=FORWARDED)
        assert api.stop(signal.SIGTERM) == 0
        (line,) = api.lines("request")
        assert (line["service"], line["path"], line["status"]) == ("api", "/jobs", 422)
        assert "\\u001b" not in api.log.read_text(), "colours in a log for machines"
        assert line["client"] == "127.0.0.1", "anybody could write another address into the log"

    def test_finishes_what_it_is_answering(self, api: Api) -> None:
        """An upload whose first half has arrived when the process is told to stop."""
        rows = b"text,label\r\n" + b"".join(b"text %d,%d\r\n" % (number, number % 2) for number in range(8))
        body = PART + rows + f"\r\n--{BOUNDARY}--\r\n".encode()
        head = (
            "POST /datasets HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", api.port), timeout=START_SECONDS) as connection:
            connection.sendall(head.encode() + body[:100])
            wait_for(lambda: _in_flight(api) == 2, START_SECONDS, "request under way", process=api)
            api.popen.send_signal(signal.SIGTERM)
            wait_for(lambda: not _accepts(api), START_SECONDS, "closed door", process=api)
            connection.sendall(body[100:])
            answer = b""
            while received := connection.recv(65_536):
                answer += received
        assert answer.startswith(b"HTTP/1.1 202 ")
        assert api.popen.wait(START_SECONDS) == 0

    def test_believes_the_proxies_of_the_settings(
        self,
        sqlite_database: str,  # noqa: ARG002
        change_settings: ChangeSettings,
        tmp_path: Path,
    ) -> None:
        change_settings(trusted_proxies="10.0.0.0/8,127.0.0.0/8")
        api = Api(tmp_path)
        try:
            wait_for(lambda: is_ready(api.address), START_SECONDS, "readiness", process=api)
            httpx.post(f"{api.address}/jobs", json={}, headers=FORWARDED)
            assert api.stop(signal.SIGINT) == 0
        finally:
            api.end()
        assert [line["client"] for line in api.lines("request")] == ["198.51.100.7"]

    @pytest.mark.usefixtures("restore_signals")
    def test_says_that_its_port_is_taken(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert cli.main(["api", "--port", str(port)]) == 1
        assert f"Cannot listen on 127.0.0.1 port {port}" in (said := capsys.readouterr().err)
        assert said.endswith(f"Choose another with: --port {port + 1}\n")
        assert not (home / "stillhouse.db").exists()


HASTY_HEAD_SECONDS = 0.3
HASTY_KEEP_ALIVE_SECONDS = 2.0
# Longer than a head may take.
A_WHILE_SECONDS = 0.5


@pytest.fixture
def hasty(change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A small application behind our uvicorn, which waits less long for its clients. Gives its port."""
    monkeypatch.setattr(HeadTimeoutProtocol, "head_seconds", HASTY_HEAD_SECONDS)
    config = uvicorn_config(_small_app(), change_settings(), log_level="warning")
    monkeypatch.setattr(config, "timeout_keep_alive", HASTY_KEEP_ALIVE_SECONDS)
    running = uvicorn.Server(config)
    with bind("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_for(lambda: running.started, START_SECONDS, "server")
        try:
            yield listener.getsockname()[1]
        finally:
            running.should_exit = True
            thread.join(timeout=START_SECONDS)


def _small_app() -> FastAPI:
    app = FastAPI()

    @app.get("/quick")
    async def quick() -> str:
        return "done"

    @app.get("/slow")
    async def slow() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            for _ in range(3):
                await asyncio.sleep(A_WHILE_SECONDS)
                yield "a"

        return StreamingResponse(parts())

    @app.post("/upload")
    async def upload(request: Request) -> int:
        return len(await request.body())

    return app


class TestHeadTimeout:
    @pytest.mark.parametrize("sent", [b"", b"G", b"GET /quick HTTP/1.1\r\nHost: localhost\r\n"])
    def test_closes_a_connection_that_stops_before_the_end_of_a_head(self, hasty: int, sent: bytes) -> None:
        """Harm: each keeps a file descriptor for ever, until there is none left for anybody."""
        with socket.create_connection(("127.0.0.1", hasty), timeout=START_SECONDS) as connection:
            connection.sendall(sent)
            assert connection.recv(1) == b""

    def test_closes_one_whose_head_goes_on_and_on(self, hasty: int) -> None:
        with socket.create_connection(("127.0.0.1", hasty), timeout=HASTY_HEAD_SECONDS / 3) as connection:
            connection.sendall(b"GET /quick HTTP/1.1\r\n")
            deadline = time.monotonic() + HASTY_KEEP_ALIVE_SECONDS * 2
            while not _is_closed(connection):
                assert time.monotonic() < deadline
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"A: b\r\n")

    def test_closes_one_that_stops_in_its_second_request(self, hasty: int) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", hasty, timeout=START_SECONDS)) as client:
            assert _get(client, "/quick") == b'"done"'
            client.sock.sendall(b"GET /qu")
            assert client.sock.recv(1) == b""

    def test_closes_one_that_stops_in_a_body_which_was_answered_before_its_end(self, hasty: int) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", hasty, timeout=START_SECONDS)) as client:
            client.putrequest("POST", "/quick")
            client.putheader("Content-Length", "10")
            client.endheaders()
            response = client.getresponse()
            assert (response.status, response.read()) == (405, b'{"detail":"Method Not Allowed"}')
            client.sock.sendall(b"abc")
            assert client.sock.recv(1) == b""

    def test_leaves_an_idle_connection_open_for_its_next_request(self, hasty: int) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", hasty, timeout=START_SECONDS)) as client:
            client.connect()
            connection = client.sock
            for _ in range(3):
                time.sleep(A_WHILE_SECONDS)
                assert _get(client, "/quick") == b'"done"'
                assert client.sock is connection

    def test_leaves_a_slow_answer_and_a_slow_upload_alone(self, hasty: int) -> None:
        def pieces() -> Iterator[bytes]:
            for _ in range(3):
                time.sleep(A_WHILE_SECONDS)
                yield b"a"

        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", hasty, timeout=START_SECONDS)) as client:
            assert _get(client, "/slow") == b"aaa"
            client.request("POST", "/upload", body=pieces(), headers={"Content-Length": "3"})
            assert client.getresponse().read() == b"3"

    def test_serves_requests_that_came_at_once(self, hasty: int) -> None:
        """The second one's head ends while the first is answered, and the third one's never."""
        head = b"GET /quick HTTP/1.1\r\nHost: localhost\r\n"
        with socket.create_connection(("127.0.0.1", hasty), timeout=START_SECONDS) as connection:
            connection.sendall(head + b"\r\n" + head + b"\r\n" + head)
            answer = b""
            while received := connection.recv(65_536):
                answer += received
        assert answer.count(b"HTTP/1.1 200 OK") == 2


NO_SUCH_HOST = "This machine has no address "


def refuse_binding(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(socket.socket, "bind", refuse)


@contextlib.contextmanager
def accepted() -> Iterator[socket.socket]:
    """A connection as a bound listener accepts it."""
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()):
            connection, _ = listener.accept()
            with connection:
                yield connection


class TestBind:
    @pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no such limits")
    def test_has_clients_that_vanish_noticed(self) -> None:
        """Harm: what such a client downloads, uploads or listens to stays open until the process ends."""
        with accepted() as connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
            assert [connection.getsockopt(socket.IPPROTO_TCP, name) for name in names] == [60, 15, 4, 60_000]

    def test_sends_a_body_without_waiting_for_word_of_its_head(self) -> None:
        """Harm: each answer on a connection that stays open takes 44 ms instead of one."""
        with accepted() as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1

    @pytest.mark.parametrize("host", ["192.0.2.1", pytest.param("ö" * 64, id="no-name")])
    def test_asks_for_another_host_where_this_one_is_not_here(self, host: str) -> None:
        """Harm: the person is sent from port to port, and none of them can help."""
        with pytest.raises(CannotStart, match=f"^Cannot listen on {host} port 0: .*{NO_SUCH_HOST}{host!r}") as refused:
            bind(host, 0)
        assert "--port" not in str(refused.value)

    def test_asks_for_another_host_where_this_name_leads_nowhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        refuse_binding(monkeypatch, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
        with pytest.raises(CannotStart, match=f"Name or service not known. {NO_SUCH_HOST}'nobody'") as refused:
            bind("nobody", 8000)
        assert "--port" not in str(refused.value)

    @pytest.mark.parametrize(
        ("code", "port", "way_out"),
        [
            (errno.EACCES, 80, "Ports below 1024 take rights that you do not have. Choose another with: --port 8000"),
            (errno.EACCES, 8000, "Choose another address with --host, or another port with --port."),
            (errno.ENOBUFS, 8000, "Choose another address with --host, or another port with --port."),
            (errno.EADDRINUSE, 8000, "Choose another with: --port 8001"),
            (errno.EADDRINUSE, 65535, "Choose another with: --port 65534"),
        ],
    )
    def test_offers_a_port_that_can_help(
        self, monkeypatch: pytest.MonkeyPatch, code: int, port: int, way_out: str
    ) -> None:
        """Harm: who may not take port 80 is sent to 81, and whose 65535 is taken to one that there is not."""
        refuse_binding(monkeypatch, OSError(code, os.strerror(code)))
        with pytest.raises(CannotStart) as refused:
            bind("127.0.0.1", port)
        assert str(refused.value) == (
            f"Cannot listen on 127.0.0.1 port {port}: [Errno {code}] {os.strerror(code)}. {way_out}"
        )

    def test_says_so_where_there_is_no_ipv6(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

        monkeypatch.setattr(socket, "socket", refuse)
        with pytest.raises(CannotStart, match=f"{NO_SUCH_HOST}'::1'"):
            bind("::1", 8000)


class TestUvicornConfig:
    def test_follows_the_settings(self, change_settings: ChangeSettings) -> None:
        settings = change_settings(shutdown_seconds=42, trusted_proxies="10.0.0.0/8")
        config = uvicorn_config(FastAPI(), settings, log_level="info")
        assert (config.timeout_graceful_shutdown, config.forwarded_allow_ips) == (42, "10.0.0.0/8")

    def test_waits_as_long_as_the_manual_says(self, change_settings: ChangeSettings) -> None:
        config = uvicorn_config(FastAPI(), change_settings(), log_level="info")
        config.load()
        assert config.http_protocol_class is HeadTimeoutProtocol
        assert (HeadTimeoutProtocol.head_seconds, config.timeout_keep_alive) == (60, 75)


@pytest.fixture
def restore_signals() -> Iterator[None]:
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in earlier.items():
        signal.signal(number, handler)


def _in_flight(api: Api) -> float:
    """Requests under way, the one that asks among them."""
    for line in httpx.get(f"{api.address}/metrics").text.splitlines():
        if line.startswith("stillhouse_http_requests_in_flight "):
            return float(line.split()[1])
    raise AssertionError("no such metric")


def _get(client: http.client.HTTPConnection, path: str) -> bytes:
    client.request("GET", path)
    return client.getresponse().read()


def _is_closed(connection: socket.socket) -> bool:
    """Whether the other end has closed it; waits for that as long as the socket's timeout."""
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def _accepts(api: Api) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", api.port)) == 0
