"""The queue: it says "there is work", nothing more. The jobs' state is in the database.

Call `wake()` after the commit. Messages may be lost, late or doubled; the sweep sends what is missing. So a
broker that is down costs seconds of delay and no request: `wake` logs it and returns False.

`celery_config(settings)` is what client and worker have in common.
"""

import os
import ssl
import threading
from pathlib import Path
from typing import Any

import structlog
from celery import Celery
from kombu import Connection
from kombu.exceptions import ChannelError

from app import folder_queue
from app.logging import first_line
from app.prometheus import WAKES
from app.settings import Settings, get_settings

QUEUE = "stillhouse"
WAKE_TASK = "stillhouse.wake"

# Nobody needs more hints than this to be waiting, however long no worker ran.
MAX_BACKLOG = 100
CLIENT_TIMEOUT_SECONDS = 1.0
# Connections of a process, at most.
SENDERS = 20

# Keyed by process too: a connection must not be shared with a forked child.
_clients: dict[tuple[int, str, Path | None], Celery] = {}
_lock = threading.Lock()

log = structlog.get_logger(__name__)


def celery_config(settings: Settings) -> dict[str, Any]:
    """Celery settings for the queue of these settings. Makes the folders of a folder queue."""
    config: dict[str, Any] = {
        "broker_url": settings.broker_url,
        "broker_transport_options": {},
        "task_default_queue": QUEUE,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        # Over a folder, every worker that ever ran would leave a mailbox behind.
        "worker_enable_remote_control": False,
        "worker_hijack_root_logger": False,
        "enable_utc": True,
    }
    if settings.broker_url.startswith("rediss://"):
        # kombu asks for no certificate unless it is told to. What the URL says of ssl_* goes before this.
        config["broker_use_ssl"] = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    folder = settings.queue_dir
    if folder is not None:
        config["broker_url"] = f"{folder_queue.SCHEME}://"
        config["broker_transport_options"] = _folder_options(folder)
    return config


def wake(settings: Settings | None = None, *, waiting: int | None = None) -> bool:
    """Tell the workers that there is work. Never raises; returns whether the broker was reached.

    Sends one hint, or with `waiting` as many as are missing to have that many in the queue.
    """
    settings = settings or get_settings()
    try:
        _send_hints(_client(settings), waiting)
    except Exception as error:
        # Whatever is wrong with the broker, the caller's work is committed and the sweep will send a hint.
        log.warning("wake_failed", error=first_line(error))
        WAKES.labels("failed").inc()
        return False
    WAKES.labels("sent").inc()
    return True


def check(settings: Settings | None = None) -> None:
    """Raise what is wrong, within seconds, when the broker cannot be reached."""
    with _client(settings or get_settings()).connection_for_write() as connection:
        _backlog(connection)


def _send_hints(app: Celery, waiting: int | None) -> None:
    # Connections stay open: making one costs more than all else that POST /jobs does.
    with app.pool.acquire(block=True, timeout=CLIENT_TIMEOUT_SECONDS) as connection:
        was_open = connection.connected
        try:
            _send_over(app, connection, waiting)
        except Exception:
            connection.collect()  # what is open of it: the next that asks connects anew
            if not was_open:
                raise
            # It died while nobody used it, with its broker perhaps, which may be back.
            _send_over(app, connection, waiting)


def _send_over(app: Celery, connection: Connection, waiting: int | None) -> None:
    backlog = _backlog(connection)
    missing = 1 if waiting is None else waiting - backlog
    for _ in range(max(0, min(missing, MAX_BACKLOG - backlog))):
        app.send_task(WAKE_TASK, queue=QUEUE, connection=connection, retry=False)


def _client(settings: Settings) -> Celery:
    """The sender of this process for the settings' broker, made at the first call."""
    key = (os.getpid(), settings.broker_url, settings.queue_dir)
    with _lock:
        if key not in _clients:
            _clients[key] = _make_client(settings)
        return _clients[key]


def _make_client(settings: Settings) -> Celery:
    config = celery_config(settings)
    if settings.queue_dir is None:
        # For the sender only: the worker waits on its socket, and longer than this.
        config["broker_transport_options"] = {
            "socket_connect_timeout": CLIENT_TIMEOUT_SECONDS,
            "socket_timeout": CLIENT_TIMEOUT_SECONDS,
            "retry_on_timeout": False,
            "max_retries": 0,
        }
    config["broker_connection_retry"] = False
    config["broker_pool_limit"] = SENDERS
    # set_as_current would make this the app of the worker's own tasks, were it ever called there.
    app = Celery("stillhouse-client", set_as_current=False)
    app.config_from_object(config)
    return app


def _folder_options(folder: Path) -> dict[str, Any]:
    messages, control = folder / "messages", folder / "control"
    for path in (messages, control):
        path.mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(messages),
        "data_folder_out": str(messages),
        "control_folder": str(control),
        # How often an idle worker looks into the folder.
        "polling_interval": 0.25,
    }


def _backlog(connection: Connection) -> int:
    try:
        return int(connection.default_channel.queue_declare(queue=QUEUE, passive=True).message_count)
    except ChannelError:
        return 0  # Redis: an empty queue is no queue
