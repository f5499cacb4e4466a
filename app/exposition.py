"""What Prometheus is shown of a process, and the port that shows it.

The API has `GET /metrics` as a route; a worker and the scheduler call `serve(settings)`. How much waits is asked of the
database by the one process that sweeps: the scheduler, or the API in embedded mode.
"""

import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.backlog import BacklogCollector
from app.prometheus import BUILD_INFO, Service, registry_of
from app.settings import Settings
from app.version import installed_version

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

# How long a client may say nothing, or take nothing in, before its connection is closed and its thread ends.
SILENCE_SECONDS = 30.0

log = structlog.get_logger(__name__)


class Exposition:
    """What one process shows: the metrics of its part, in the text format."""

    def __init__(self, settings: Settings, service: Service) -> None:
        services: list[Service] = [service]
        if service == "api" and settings.embedded:
            services.append("scheduler")  # a thread of the API sweeps
        BUILD_INFO.labels(installed_version(), service).set(1)
        self._registry = registry_of(services)
        if "scheduler" in services:
            self._registry.register(BacklogCollector(settings))

    def render(self) -> bytes:
        return generate_latest(self._registry)


def serve(settings: Settings, service: Service = "scheduler") -> ThreadingHTTPServer | None:
    """Answer GET /metrics and GET /healthz on `metrics_port` from a daemon thread; None where no port is set.

    A port that is taken is logged and no more: the work matters more than its numbers.
    """
    if settings.metrics_port is None:
        return None
    exposition = Exposition(settings, service)

    class Handler(BaseHTTPRequestHandler):
        timeout = SILENCE_SECONDS

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, CONTENT_TYPE, exposition.render())
            elif path == "/healthz":
                self._answer(200, "application/json", b'{"status":"ok"}')
            else:
                self._answer(404, "text/plain; charset=utf-8", b"There are /metrics and /healthz here.\n")

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """A line for every scrape says nothing."""

    try:
        server = _Server(settings, Handler)
    except OSError as error:
        log.error(
            "metrics_not_served",
            port=settings.metrics_port,
            error=str(error),
            advice="give each process of a machine its own STILLHOUSE_METRICS_PORT",
        )
        return None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    log.info("metrics_served", port=server.server_address[1])
    return server


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, settings: Settings, handler: type[BaseHTTPRequestHandler]) -> None:
        assert settings.metrics_port is not None
        if settings.embedded:
            # A laptop shows nothing to its network, as with the API.
            host, self.address_family = "127.0.0.1", socket.AF_INET
        elif socket.has_dualstack_ipv6():
            host, self.address_family = "::", socket.AF_INET6
        else:
            host, self.address_family = "", socket.AF_INET
        super().__init__((host, settings.metrics_port), handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            # Reached over IPv4 too.
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not HTTPServer's, which asks a name server for our name.
        socketserver.TCPServer.server_bind(self)
