"""Find the Stillhouse server that a command talks to, or start one."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from app.client.api import Api, ClientError
from app.client.screen import step
from app.home_lock import is_held, running_address
from app.server import CannotStart, bind
from app.settings import Settings

START_SECONDS = 60.0
STOP_SECONDS = 30.0
# With a server of this machine that does not answer: then it is looked for.
HOME_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class StartedServer:
    """A `stillhouse up` of the command's own."""

    address: str
    log: Path
    process: "subprocess.Popen[bytes]"

    def serve_until_interrupted(self) -> None:
        """Keep it running until Ctrl-C (SIGINT reaches this process only: the server has a session of its own)."""
        with contextlib.suppress(KeyboardInterrupt):
            self.process.wait()


def connect(console: Console, stack: contextlib.ExitStack, settings: Settings, *, url: str | None) -> Api:
    """A client of the server at `url`, or of this home's, which is started where none runs, and found or started again
    where it goes away: another command that had started it may be done. What is started stops with the stack."""

    def find(console: Console) -> str:
        return find_or_start(console, stack, settings, url=url, passes_over=_why_not_this_one)[0]

    def find_again() -> str:
        console.print("  The server has gone; it is looked for, or started again.")
        # A bar may be on the screen, beside which no second one moves.
        return find(Console(quiet=True))

    if url is not None:
        return stack.enter_context(Api(find(console)))
    api = Api(find(console), patience_seconds=HOME_PATIENCE_SECONDS, find_again=find_again)
    return stack.enter_context(api)


def _why_not_this_one(address: str) -> str:
    return f"What answers at {address} is not of this home, so another is started; --url {address} would take it."


def find_or_start(
    console: Console,
    stack: contextlib.ExitStack,
    settings: Settings,
    *,
    url: str | None,
    port: int | None = None,
    passes_over: Callable[[str], str],
) -> tuple[str, StartedServer | None]:
    """The address of the server to talk to: the one that is named, or that of this home's `stillhouse up`, or what
    answers at the usual port; where none does one is started, and stopped with the stack.

    Of a server that nobody named and that is not this home's, such as a cluster's, `passes_over` says why it is not
    taken; an empty string takes it.
    """
    wanted_port = settings.port if port is None else port
    # An `up` of this home may serve another port: its address stands in its lock file.
    address = url or running_address(settings.home) or f"http://127.0.0.1:{wanted_port}"
    missing = what_is_missing(address)
    running = running_address(settings.home)
    if missing == "":
        if url is not None or port is not None or running is not None or not (reason := passes_over(address)):
            return address, None
        console.print(reason, soft_wrap=True)
    elif missing is not None and (url is not None or running is not None):
        raise ClientError(f"The server at {address} is not ready: {missing}")
    if url is not None:
        raise ClientError(f"No Stillhouse server answers at {url}. Start one with: stillhouse up")
    if port is None and not is_free(wanted_port):
        wanted_port = 0  # another program has it, and nobody asked for just this one
    with step(console, f"Starting the API and a worker; their data is in {settings.home}"):
        started = stack.enter_context(start(settings.home, wanted_port))
    return started.address, started


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
    """Run `stillhouse up` as a child, on any free port for 0; it stops at the end, and when this process dies.

    One that has come first to this home is taken in its place, once it serves; where that one is on its way out, `up`
    is run when it is gone.
    """
    log = home / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + START_SECONDS
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(_run_up(log, port))
        runs, was_held = 1, False
        # The address stands there once the API serves.
        while (address := running_address(home)) is None or not answers(address):
            if time.monotonic() > deadline:
                raise ClientError(f"`stillhouse up` is not ready after {START_SECONDS:.0f} s. Its log: {log}")
            if process.poll() is not None:
                if is_held(home):
                    was_held = True
                elif was_held or runs == 1:  # once anew in any case: the other may have gone just before it was seen
                    process = stack.enter_context(_run_up(log, port))
                    runs, was_held = runs + 1, False
                else:
                    last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                    raise ClientError(f"`stillhouse up` ended with status {process.returncode}:\n{last_lines}")
            time.sleep(0.2)
        yield StartedServer(address, log, process)


@contextlib.contextmanager
def _run_up(log: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("ab") as output:  # another's may be at it
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "app.cli", "up", "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "STILLHOUSE_UP_PARENT_PIPE": "1"},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()
