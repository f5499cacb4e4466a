import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from app.client.api import ClientError
from app.client.server import answers, is_free, start
from app.home_lock import home_lock, running_address
from tests.fixtures.servers import free_port


class TestAnswers:
    def test_is_false_where_nobody_listens(self) -> None:
        assert not answers(f"http://127.0.0.1:{free_port()}")

    def test_is_false_for_another_kind_of_server(self) -> None:
        with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
            Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            assert not answers(f"http://127.0.0.1:{server.server_address[1]}")
            server.shutdown()


class TestIsFree:
    def test_is_false_for_a_taken_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            assert not is_free(taken.getsockname()[1])

    def test_is_true_for_a_free_port(self) -> None:
        assert is_free(free_port())


class TestStart:
    def test_serves_until_the_end_of_the_block(self, home: Path) -> None:
        with start(home, free_port()) as started:
            assert answers(started.address)
            assert running_address(home) == started.address
        assert not answers(started.address)
        assert started.log.read_text().endswith("Stopped.\n")

    def test_server_stops_when_its_command_is_killed(self, home: Path) -> None:
        code = (
            "import os, pathlib\n"
            "from app.client.server import start\n"
            f"kept = start(pathlib.Path({str(home)!r}), 0)\n"
            "kept.__enter__()\n"
            "os._exit(0)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        deadline = time.monotonic() + 60
        while running_address(home) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def test_waits_for_another_that_came_first_to_the_home(self, home: Path) -> None:
        """Harm: of two commands that start at once one ends with "another already uses" the home."""
        with ThreadPoolExecutor(2) as pool:
            contexts = [start(home, 0), start(home, 0)]
            first, second = pool.map(lambda context: context.__enter__(), contexts)
            assert first.address == second.address
            assert answers(first.address)
            list(pool.map(lambda context: context.__exit__(None, None, None), contexts))
        assert running_address(home) is None

    def test_comes_after_one_that_is_on_its_way_out(self, home: Path) -> None:
        """Harm: the command that had started the server is done, and the other ends with "already uses" the home."""
        home.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(1) as pool:
            with home_lock(home):  # it serves no more, and has not left yet
                context = start(home, 0)
                started = pool.submit(context.__enter__)
                deadline = time.monotonic() + 60
                while "already uses" not in (home / "up.log").read_text() if (home / "up.log").exists() else True:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            assert answers(started.result().address)
            context.__exit__(None, None, None)

    def test_shows_why_the_server_did_not_start(self, home: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ClientError, match=f"ended with status 1:\n.*port {port}"), start(home, port):
                pass
