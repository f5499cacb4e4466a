"""The Celery worker: brings messages to worker.tasks, and its signals to the work loop.

Start it with `python -m worker`. The pool must be `threads` with concurrency 1: the engine is a process of
its own, and a prefork child would neither see the loop nor hear its signals.
"""

import logging
import os
import signal
import threading
import time
from typing import Any

import structlog
from celery import Celery, signals
from celery.worker.consumer import Consumer
from kombu import Connection
from kombu.common import ignore_errors

from app import exposition
from app.logging import configure_logging
from app.queue import celery_config
from app.settings import Settings, get_settings
from app.tracing import configure_tracing, stop_tracing
from worker.observation import show_worker
from worker.work_loop import WorkLoop

# Over a folder Celery takes up to 4 s to notice that it should stop, and over a broker that neither answers
# nor refuses it may take for ever. With the work handed back there is nothing left to wait for.
CELERY_STOP_SECONDS = 1.0
# Of the time that a stopping worker has: this share, and no longer than that, is for handing the work back when there
# is no time left to save any of it.
RELEASE_SHARE = 0.2
LONGEST_RELEASE_SECONDS = 5.0
# Until a broker that answered with an error is asked again; as long as from one look at the database to the next.
BROKER_PAUSE_SECONDS = 5.0
# Longer than any run: a message is acknowledged on receipt, so nothing is ever redelivered late.
VISIBILITY_SECONDS = 24 * 3600

log = structlog.get_logger(__name__)


class PatientConsumer(Consumer):
    """Celery's, made for a broker that answers with errors: by itself it asks six times a second, and each time that
    it is refused while it connects it leaves a connection open, until there are too many for worker or broker."""

    _newest: Connection | None = None

    def connection_for_read(self, heartbeat: float | None = None) -> Connection:
        self._newest = super().connection_for_read(heartbeat)
        return self._newest

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        super().on_connection_error_before_connected(exc)
        if self._newest is not None:
            ignore_errors(self._newest, self._newest.close)
        work_loop.shutdown.wait(BROKER_PAUSE_SECONDS)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        super().on_connection_error_after_connected(exc)
        # Not for one that went away: to reach it again has pauses of its own.
        if isinstance(exc, self.channel_errors):
            work_loop.shutdown.wait(BROKER_PAUSE_SECONDS)


def make_celery(settings: Settings) -> Celery:
    """The app of a worker process: what the client has, plus what only a consumer needs."""
    config = celery_config(settings)
    config |= {
        "imports": ("worker.tasks",),
        # A message is a hint: gone once received, so a killed worker blocks nobody, and no copy comes back.
        "task_acks_late": False,
        "worker_prefetch_multiplier": 1,
        "worker_pool": "threads",
        "worker_concurrency": 1,
        "worker_consumer": PatientConsumer,
        "worker_send_task_events": False,
        "broker_connection_retry_on_startup": True,
        # Never give up on the broker: the database brings the work meanwhile.
        "broker_connection_max_retries": None,
        # Nor on one that answers with errors, such as a Redis that was demoted (READONLY) or whose disk is full
        # (MISCONF): Celery would take them for the worker's own and stop it.
        "broker_channel_error_retry": True,
    }
    if settings.queue_dir is None:
        config["broker_transport_options"] = {
            **config["broker_transport_options"],
            "visibility_timeout": VISIBILITY_SECONDS,
            "socket_keepalive": True,
            "socket_connect_timeout": 5,
            # A Redis that went away without a word is noticed, and the connection made anew.
            "health_check_interval": 15,
            "retry_on_timeout": True,
        }
    app = Celery("stillhouse-worker")
    app.config_from_object(config)
    return app


settings = get_settings()
celery_app = make_celery(settings)
work_loop = WorkLoop(settings)
work_loop.shutdown.seconds -= min(LONGEST_RELEASE_SECONDS, RELEASE_SHARE * settings.shutdown_seconds)


@signals.setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    configure_logging(settings, service="worker")
    for name in ("kombu.connection", "celery.worker.strategy", "celery.app.trace"):
        # A line for every hint, and about how a queue in a folder is addressed, says nothing.
        logging.getLogger(name).setLevel(logging.ERROR)


@signals.worker_init.connect
def _begin(**_: Any) -> None:
    _set_up_logging()  # Celery does so later
    exposition.serve(settings, "worker")
    show_worker(settings)
    configure_tracing(settings, service="worker")
    # There may be work in hand before Celery listens to it, and this is in nobody's way when it does.
    signal.signal(signal.SIGTERM, lambda *_: _shut_down())
    # Before the broker is reached, which may take as long as it likes.
    work_loop.start_looking()


@signals.worker_shutting_down.connect
def _shut_down(**_: Any) -> None:
    """Called in the signal handler of SIGTERM and the like: says so and returns."""
    if not work_loop.shutdown.is_requested:
        work_loop.shutdown.request()
        threading.Thread(target=_see_to_the_end, name="exit", daemon=True).start()


@signals.worker_shutdown.connect
def _wait_for_the_work(**_: Any) -> None:
    # Celery knows only of its own threads, and would leave while the other one still stores a checkpoint.
    # Asked again, because with nobody left to read what it prints Celery never sends the signal above.
    _shut_down()
    if work_loop.wait_until_stopped(settings.shutdown_seconds):
        stop_tracing()


def _see_to_the_end() -> None:
    """Exit once the work is handed back, or its time is up; Celery gets a moment to do so by itself."""
    log.info("worker_stopping", seconds=settings.shutdown_seconds)
    is_done = work_loop.wait_until_stopped(settings.shutdown_seconds)
    if is_done:
        stop_tracing()
    else:
        log.error("worker_stop_timed_out")
    time.sleep(CELERY_STOP_SECONDS)
    # The engine's pipe closes with us; what was not handed back is found by its lease.
    os._exit(0 if is_done else 1)
