"""`stillhouse api`: the HTTP API as its own process, under uvicorn, until it is told to stop."""

import contextlib
import signal
import socket

import uvicorn
from fastapi import FastAPI

from app.logging import configure_logging
from app.main import create_app
from app.settings import Settings

# Longer than load balancers keep an idle connection (60 s is common): one that we close first, just as the
# balancer sends a request on it, comes back to the client as an error.
KEEP_ALIVE_SECONDS = 75
# A client's host may vanish without a word, and its connection would stay for ever, with what it downloads, uploads or
# listens to. So who says nothing is asked, and who takes nothing in for a minute (the last, in milliseconds) is given
# up. Not every system has all of these.
_PROBES = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 60_000}


class CannotStart(Exception):
    """A process of Stillhouse cannot start; the message is a sentence for the person at the terminal."""


def serve(settings: Settings, *, host: str | None = None, port: int | None = None) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is being answered, for up to `shutdown_seconds`.

    Raises `CannotStart` where the address cannot be had.
    """
    configure_logging(settings, service="api")
    server = uvicorn.Server(uvicorn_config(create_app(settings), settings, log_level=settings.log_level.lower()))

    def stop(*_: object) -> None:
        server.should_exit = True

    # uvicorn puts handlers of its own over these and, when it has stopped, raises the signal again: without ours
    # an orderly end would look like a kill. They also count before uvicorn listens to any.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with contextlib.closing(bind(settings.host if host is None else host, settings.port if port is None else port)) as (
        listener
    ):
        server.run(sockets=[listener])


def uvicorn_config(app: FastAPI, settings: Settings, *, log_level: str) -> uvicorn.Config:
    """How uvicorn serves the API, as its own process and in the embedded mode."""
    return uvicorn.Config(
        app,
        log_config=None,
        log_level=log_level,
        # app.middleware logs requests.
        access_log=False,
        proxy_headers=True,
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.shutdown_seconds),
    )


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: connections are refused until the API is there."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Every connection that it accepts inherits these.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise CannotStart(
            f"Cannot listen on {host} port {port}: {error}. Choose another with: --port {port + 1}"
        ) from error
    return listener
