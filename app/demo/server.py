"""Find the Stillhouse server that the demo talks to, or start one."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.demo.api import Api, DemoError
from app.home_lock import running_address
from app.server import CannotStart, bind

START_SECONDS = 60.0
STOP_SECONDS = 30.0


@dataclass(frozen=True)
class StartedServer:
    """A `stillhouse up` of the demo's own."""

    address: str
    log: Path
    process: "subprocess.Popen[bytes]"

    def serve_until_interrupted(self) -> None:
        """Keep it running until Ctrl-C (SIGINT reaches this process only: the server has a session of its own)."""
        with contextlib.suppress(KeyboardInterrupt):
            self.process.wait()


def answers(address: str) -> bool:
    """Whether a Stillhouse server answers at this address and is ready."""
    return what_is_missing(address) == ""


def what_is_missing(address: str) -> str | None:
    """What keeps the server at this address from its work, empty where it is ready; None where none answers."""
    with Api(address) as api:
        return api.what_is_missing()


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port."""
    try:
        bind("127.0.0.1", port).close()
    except CannotStart:
        return False
    return True


@contextlib.contextmanager
def start(home: Path, port: int) -> Iterator[StartedServer]:
    """Run `stillhouse up` as a child, on any free port for 0; it stops at the end, and when this process dies."""
    log = home / "demo" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "app.cli", "up", "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "STILLHOUSE_UP_PARENT_PIPE": "1"},
            start_new_session=True,
        )
    try:
        yield StartedServer(_wait_until_ready(process, home, log), log, process)
    finally:
        _stop(process)


def _wait_until_ready(process: "subprocess.Popen[bytes]", home: Path, log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while True:
        # The address stands there once the API serves.
        address = running_address(home)
        if address is not None and answers(address):
            return address
        if process.poll() is not None:
            last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise DemoError(f"`stillhouse up` ended with status {process.returncode}:\n{last_lines}")
        if time.monotonic() > deadline:
            raise DemoError(f"`stillhouse up` is not ready after {START_SECONDS:.0f} s. Its log: {log}")
        time.sleep(0.2)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()
