"""Embedded mode: the API in this process, one worker as its child, all data under one folder.

`up` migrates the database, seeds the demo, serves the API from a thread and looks after the worker from the
main thread, where signals arrive. Nothing here imports the worker: it is a command, so the API's own
installation needs no torch.
"""

import contextlib
import logging
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from obstore.exceptions import BaseError
from sqlalchemy.exc import DatabaseError

from app import seeds
from app.db.migrate import NewerDatabase, upgrade
from app.home_lock import LOCK_FILE, HomeLock, HomeTaken, home_lock
from app.logging import configure_logging
from app.main import create_app
from app.routes.events import close_streams
from app.server import CannotStart, bind, uvicorn_config
from app.settings import Settings, get_settings
from app.worker_process import WORKER_COMMAND, WorkerProcess, describe_missing_packages

# Beyond `shutdown_seconds`, which the answers under way may take: for the sweep to end, and the last traces to be sent.
GOODBYE_SECONDS = 7.0
# Once somebody asked for haste.
HASTE_SECONDS = 2.0
TICK_SECONDS = 0.1

Say = Callable[[str], None]


def up(*, host: str | None = None, port: int | None = None, say: Say | None = None) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, or until the parent's pipe closes; raise `CannotStart` otherwise."""
    say = say or _print
    settings = _prepare_settings()
    host = host or settings.host
    if not settings.embedded:
        raise CannotStart(
            "`stillhouse up` is the embedded mode, on SQLite, but STILLHOUSE_DATABASE_URL names another database. "
            "Unset it, or start the parts one by one: `stillhouse migrate`, `stillhouse api`, "
            "`stillhouse scheduler` and `stillhouse worker`."
        )
    _check_worker_packages()
    _make_home(settings.home)
    stop = StopRequest()
    with (
        _hold(settings.home) as lock,
        contextlib.closing(bind(host, settings.port if port is None else port)) as listener,
    ):
        say(f"data      {settings.home} (STILLHOUSE_HOME)")
        configure_logging(settings, service="api")
        # The lines below say what happens; a demo that polls would fill the terminal with its requests.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        with _explained(settings, *_database_place(settings)):
            _migrate(settings)
        with _explained(settings, *_store_place(settings)):
            demo = seeds.seed(settings)
            api = ApiThread(settings, listener)
        for line in demo:
            say(f"demo      {line}")
        worker = WorkerProcess(WORKER_COMMAND, say, shutdown_seconds=settings.shutdown_seconds)
        try:
            api.start()
            worker.start()
            _wait_until_serving(api, stop)
            if not stop.requested:
                address = _address(listener)
                with _explained(settings, str(settings.home), "STILLHOUSE_HOME"):
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
            worker.wait_until_stopped(lambda: stop.in_haste)
            api.wait_until_stopped(lambda: stop.in_haste)
    say("Stopped.")


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
        with (home / LOCK_FILE).open("a"):
            pass
    except OSError as error:
        raise CannotStart(f"Cannot write to {home}: {error}. Set STILLHOUSE_HOME to a folder of yours.") from error


def _migrate(settings: Settings) -> None:
    try:
        upgrade(settings)
    except NewerDatabase as newer:
        raise CannotStart(f"Cannot use {settings.database_path}: {newer}") from newer


@contextlib.contextmanager
def _explained(settings: Settings, place: str, variable: str) -> Iterator[None]:
    """Make a sentence for the terminal of what a full disk refuses, or a database or an object store."""
    try:
        yield
    except DatabaseError as error:
        raise CannotStart(_explain_database(settings, error)) from error
    except (OSError, BaseError) as error:
        # obstore adds the whole of its own state below the first line.
        said = str(error).partition("\n")[0]
        raise CannotStart(f"Cannot use {place}: {said}. {_mend_or_name(variable)}") from error


def _explain_database(settings: Settings, error: DatabaseError) -> str:
    path, variable = _database_place(settings)
    if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
        return f"Cannot use {path}: it is no database of SQLite. Move it away, or name another place in {variable}."
    return f"Cannot use {path}: {error.orig}. {_mend_or_name(variable)}"


def _mend_or_name(variable: str) -> str:
    # What lacks space does not always say so: SQLite can also call it an I/O error.
    return f"Free some space or mend what else is wrong there, or name another place in {variable}."


def _database_place(settings: Settings) -> tuple[str, str]:
    """The database's file, and the variable that it hangs on."""
    path = Path(settings.database_path or settings.home)
    return str(path), "STILLHOUSE_HOME" if path.is_relative_to(settings.home) else "STILLHOUSE_DATABASE_URL"


def _store_place(settings: Settings) -> tuple[str, str]:
    if settings.object_store_url.startswith(f"{settings.home.as_uri()}/"):
        return str(settings.home), "STILLHOUSE_HOME"
    # Not the URL itself, which may hold a secret.
    return "the object store of STILLHOUSE_OBJECT_STORE_URL", "STILLHOUSE_OBJECT_STORE_URL"


def _check_worker_packages() -> None:
    if missing := describe_missing_packages():
        raise CannotStart(missing)


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


@contextlib.contextmanager
def _hold(home: Path) -> Iterator[HomeLock]:
    try:
        with home_lock(home) as lock:
            yield lock
    except HomeTaken as taken:
        raise CannotStart(
            f"Another `stillhouse up` already uses {home}"
            + (f" and serves it at {taken.address}." if taken.address else ".")
            + " Use that one, stop it, or set STILLHOUSE_HOME to another folder."
        ) from taken


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
        self._app = create_app(settings)
        self._server = uvicorn.Server(uvicorn_config(self._app, settings, log_level="warning"))
        self._stop_seconds = settings.shutdown_seconds + GOODBYE_SECONDS
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
        close_streams(self._app)
        self._server.should_exit = True

    def wait_until_stopped(self, in_haste: Callable[[], bool]) -> None:
        """Wait for the answers under way; leave them when that takes too long, or `in_haste`."""
        deadline = time.monotonic() + self._stop_seconds
        while self._thread.is_alive() and time.monotonic() < deadline:
            if in_haste() and not self._server.force_exit:
                self._server.force_exit = True
                deadline = time.monotonic() + HASTE_SECONDS
            self._thread.join(timeout=TICK_SECONDS)
