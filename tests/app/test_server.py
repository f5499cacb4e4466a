"""`stillhouse api` as a process of its own, as a container runs it."""

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app import cli
from app.server import bind, uvicorn_config
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
        assert f"Cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err
        assert not (home / "stillhouse.db").exists()


class TestBind:
    @pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no such limits")
    def test_has_clients_that_vanish_noticed(self) -> None:
        """Harm: what such a client downloads, uploads or listens to stays open until the process ends."""
        with bind("127.0.0.1", 0) as listener:
            listener.listen()
            with socket.create_connection(listener.getsockname()):
                accepted, _ = listener.accept()
                with accepted:
                    assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
                    assert [accepted.getsockopt(socket.IPPROTO_TCP, name) for name in names] == [60, 15, 4, 60_000]


class TestUvicornConfig:
    def test_follows_the_settings(self, change_settings: ChangeSettings) -> None:
        settings = change_settings(shutdown_seconds=42, trusted_proxies="10.0.0.0/8")
        config = uvicorn_config(FastAPI(), settings, log_level="info")
        assert (config.timeout_graceful_shutdown, config.forwarded_allow_ips) == (42, "10.0.0.0/8")


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


def _accepts(api: Api) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", api.port)) == 0
