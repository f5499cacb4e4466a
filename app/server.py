"""`stillhouse api`: the HTTP API as its own process, under uvicorn, until it is told to stop."""

import asyncio
import contextlib
import errno
import signal
import socket

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.logging import configure_logging
from app.main import create_app
from app.settings import Settings

# Longer than load balancers keep an idle connection (60 s is common): one that we close first, just as the
# balancer sends a request on it, comes back to the client as an error.
KEEP_ALIVE_SECONDS = 75
# From the first byte of a request to the end of its head.
HEAD_SECONDS = 60.0
# A client's host may vanish without a word, and its connection would stay for ever, with what it downloads, uploads or
# listens to. So who says nothing is asked, and who takes nothing in for a minute (the last, in milliseconds) is given
# up. Not every system has all of these.
_PROBES = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 60_000}

# Those below it are for who has the right to them.
FIRST_PORT_FOR_ALL = 1024
LAST_PORT = 65535


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
        http=HeadTimeoutProtocol,
        # There are none, and they would leave that protocol.
        ws="none",
        proxy_headers=True,
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.shutdown_seconds),
    )


class HeadTimeoutProtocol(H11Protocol):
    """Closes a connection on which no request begins, or none comes to the end of its head.

    uvicorn's own timer runs from an answer to the next byte that comes. Without this a connection that says nothing at
    first, or stops inside a head, would stay for as long as the client likes. What is being received or answered is
    not limited here.
    """

    head_seconds = HEAD_SECONDS
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_timers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._set_timers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._set_timers()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_head_timer()

    def _set_timers(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering or self.transport.is_closing():
            self._stop_head_timer()
        elif self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            # Not anew with each byte: a head could come for ever.
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(self.head_seconds, self.timeout_keep_alive_handler)
        else:
            self._stop_head_timer()
            # Not running at first, nor after the rest of a body that was answered before its end.
            if self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: connections are refused until the API is there."""
    try:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:  # no IPv6 here
        raise CannotStart(_explain(host, port, error)) from error
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Every connection that it accepts inherits these.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # An answer's head and its body are sent one after the other. On a connection that stays open the body would wait
    # for the client's word that the head has come, which takes it 40 ms; asyncio sees to that only with sockets that
    # it makes itself.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in _PROBES.items():
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError, TypeError) as error:  # a TypeError where it can be no name at all
        listener.close()
        raise CannotStart(_explain(host, port, error)) from error
    return listener


def _explain(host: str, port: int, error: Exception) -> str:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        way_out = f"Choose another with: --port {port + 1 if port < LAST_PORT else port - 1}"
    elif isinstance(error, socket.gaierror | TypeError) or code in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
        way_out = (
            f"This machine has no address {host!r}. Give one that it has with --host or STILLHOUSE_HOST: 127.0.0.1 for "
            "this machine only, 0.0.0.0 for every address that it has."
        )
    elif isinstance(error, PermissionError) and port < FIRST_PORT_FOR_ALL:
        way_out = f"Ports below {FIRST_PORT_FOR_ALL} take rights that you do not have. Choose another with: --port 8000"
    else:
        way_out = "Choose another address with --host, or another port with --port."
    return f"Cannot listen on {host} port {port}: {error}. {way_out}"
