"""Embedded mode: the API in this process, one worker as its child, all data under one folder.

`up` migrates the database, seeds the demo, serves the API from a thread and looks after the worker from the
main thread, where signals arrive. Nothing here imports the worker: it is a command, so the API's own
installation needs no torch.
"""

import contextlib
import fcntl
import importlib.util
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from app import seeds
from app.db.migrate import upgrade
from app.logging import configure_logging
from app.main import create_app
from app.settings import Settings, get_settings

# -P: a folder named `worker` where the person stands is not ours.
WORKER_COMMAND = (sys.executable, "-P", "-m", "worker")
# What only the worker imports; looked for, never imported, here.
WORKER_PACKAGES = ("torch", "transformers", "safetensors", "pyarrow", "faiss", "umap", "psutil")

# The engine writes a checkpoint before it stops: a second on a laptop's model, longer for a big one.
WORKER_STOP_SECONDS = 20.0
API_STOP_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 30.0
# A worker that lived this long was healthy: its next death starts again from the shortest pause.
HEALTHY_SECONDS = 60.0
TICK_SECONDS = 0.1

Say = Callable[[str], None]


class CannotStart(Exception):
    """The embedded system cannot start; the message is a sentence for the person at the terminal."""


def up(*, host: str | None = None, port: int | None = None, say: Say | None = None) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, or until the parent's pipe closes; raise `CannotStart` otherwise."""
    say = say or _print
    settings = _prepare_settings()
    host = host or settings.host
    if not settings.embedded:
        raise CannotStart(
            "`stillhouse up` is the embedded mode, on SQLite, but STILLHOUSE_DATABASE_URL names another database. "
            "Unset it, or start the parts one by one: `stillhouse migrate`, "
            "`uvicorn --factory app.main:create_app` and `python -m worker`."
        )
    _check_worker_packages()
    _make_home(settings.home)
    stop = StopRequest()
    with (
        home_lock(settings.home) as lock,
        contextlib.closing(bind(host, settings.port if port is None else port)) as listener,
    ):
        say(f"data      {settings.home} (STILLHOUSE_HOME)")
        configure_logging(settings, service="api")
        # The lines below say what happens; a demo that polls would fill the terminal with its requests.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        upgrade(settings)
        for line in seeds.seed(settings):
            say(f"demo      {line}")
        api = ApiThread(settings, listener)
        worker = WorkerProcess(WORKER_COMMAND, say)
        try:
            api.start()
            worker.start()
            _wait_until_serving(api, stop)
            if not stop.requested:
                address = _address(listener)
                lock.publish(address)
                say(f"api       {address} ({_who_can_reach(listener)})")
                say(f"swagger   {address}/docs")
                say("Ready. Ctrl-C stops it.")
            while not stop.requested:
                time.sleep(TICK_SECONDS)
                worker.look_after()
                api.check()
            say("Stopping; a running job goes on from its checkpoint at the next start.")
        finally:
            worker.ask_to_stop()
            api.ask_to_stop()
            worker.wait_until_stopped(stop)
            api.wait_until_stopped()
    say("Stopped.")


def running_address(home: Path) -> str | None:
    """The address at which an embedded system serves this home folder now, if one does."""
    try:
        with (home / "up.lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                with contextlib.suppress(ValueError, KeyError):
                    return str(json.load(file)["address"])
    except FileNotFoundError:
        pass
    return None


def _print(line: str) -> None:
    print(line, flush=True)


def _prepare_settings() -> Settings:
    """The settings, with the demo teacher's folder among the allowed ones, for this process and the worker."""
    settings = get_settings()
    folder = seeds.demo_teacher_folder()
    if folder is not None and folder not in settings.teacher_dirs:
        # Through the environment, because the worker reads its settings from there.
        os.environ["STILLHOUSE_TEACHER_DIRS"] = os.pathsep.join(map(str, [*settings.teacher_dirs, folder]))
        get_settings.cache_clear()
    return get_settings()


def _make_home(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
        with (home / "up.lock").open("a"):
            pass
    except OSError as error:
        raise CannotStart(f"Cannot write to {home}: {error}. Set STILLHOUSE_HOME to a folder of yours.") from error


def _check_worker_packages() -> None:
    missing = [name for name in WORKER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise CannotStart(
            f"The worker needs packages that are not installed here: {', '.join(missing)}. "
            "Install them with: pip install 'stillhouse[worker]'"
        )


class StopRequest:
    """Set by a signal or by the parent's death; a second signal asks for haste.

    Plain numbers, no `threading.Event`: a handler that runs while the main thread holds the event's lock
    would wait for itself.
    """

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # `nohup stillhouse up` outlives its terminal.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._on_signal)
        if os.environ.get("STILLHOUSE_UP_PARENT_PIPE") == "1":
            threading.Thread(target=self._watch_parent, name="parent-pipe", daemon=True).start()

    @property
    def requested(self) -> bool:
        return self.count > 0

    @property
    def in_haste(self) -> bool:
        return self.count > 1

    def _on_signal(self, *_: object) -> None:
        self.count += 1

    def _watch_parent(self) -> None:
        while os.read(0, 4096):
            pass
        self.count = max(self.count, 1)


class HomeLock:
    def __init__(self, path: Path) -> None:
        self._path = path

    def publish(self, address: str) -> None:
        # Written in place: the lock belongs to this very file, so it must not be replaced by another.
        self._path.write_text(json.dumps({"pid": os.getpid(), "address": address}))


@contextlib.contextmanager
def home_lock(home: Path) -> Iterator[HomeLock]:
    path = home / "up.lock"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            address = running_address(home)
            raise CannotStart(
                f"Another `stillhouse up` already uses {home}"
                + (f" and serves it at {address}." if address else ".")
                + " Use that one, stop it, or set STILLHOUSE_HOME to another folder."
            ) from error
        path.write_text("")  # what one that was killed left there
        try:
            yield HomeLock(path)
        finally:
            path.write_text("")


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: connections are refused until the API is there."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise CannotStart(
            f"Cannot listen on {host} port {port}: {error}. Choose another with: stillhouse up --port {port + 1}"
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _who_can_reach(listener: socket.socket) -> str:
    host = listener.getsockname()[0]
    if host == "::1" or host.startswith("127."):
        return "loopback: only this machine reaches it"
    return f"on {host}: anyone who reaches this machine can use it, there are no API keys here"


def _wait_until_serving(api: "ApiThread", stop: StopRequest) -> None:
    while not (api.is_serving or stop.requested):
        api.check()
        time.sleep(TICK_SECONDS)


class ApiThread:
    """uvicorn in a thread, where it leaves signals alone."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        config = uvicorn.Config(
            create_app(settings),
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            timeout_graceful_shutdown=int(API_STOP_SECONDS),
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="api", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_serving(self) -> bool:
        return self._server.started

    def check(self) -> None:
        if not self._thread.is_alive():
            raise CannotStart("The API stopped by itself; the log above says why.")

    def ask_to_stop(self) -> None:
        self._server.should_exit = True

    def wait_until_stopped(self) -> None:
        if self._thread.ident is not None:
            self._thread.join(timeout=API_STOP_SECONDS + 2)


class WorkerProcess:
    """The worker process, started again after a growing pause whenever it ends by itself.

    It runs in a session of its own, so that Ctrl-C reaches it once, from here. It reads a pipe that this
    process holds open: when this process is killed, the pipe closes and the worker stops too.
    """

    def __init__(self, command: tuple[str, ...], say: Say) -> None:
        self._command = command
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_again_at = 0.0
        self.pause_seconds = 1.0

    @property
    def pid(self) -> int | None:
        """The running worker's process id, or None between two workers."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            env={**os.environ, "STILLHOUSE_WORKER_PARENT_PIPE": "1"},
            start_new_session=True,
        )

    def look_after(self) -> None:
        """Notice a worker that ended, and start the next one when its pause is over. Returns at once."""
        now = time.monotonic()
        if self._process is None:
            if now >= self._start_again_at:
                self.start()
            return
        code = self._process.poll()
        if code is None:
            return
        self._close_pipe()
        self._process = None
        if now - self._started_at >= HEALTHY_SECONDS:
            self.pause_seconds = 1.0
        self._start_again_at = now + self.pause_seconds
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        self._say(f"worker    ended ({how}); starting it again in {self.pause_seconds:g} s")
        self.pause_seconds = min(2 * self.pause_seconds, LONGEST_PAUSE_SECONDS)

    def ask_to_stop(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def wait_until_stopped(self, stop: StopRequest) -> None:
        """Wait for the worker's checkpoint and its goodbye; kill it when it takes too long or a person insists."""
        if self._process is None:
            return
        deadline = time.monotonic() + WORKER_STOP_SECONDS
        while self._process.poll() is None:
            if time.monotonic() > deadline or stop.in_haste:
                # Its engine has a group of its own and leaves by itself when the worker's pipe closes.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            time.sleep(TICK_SECONDS)
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
