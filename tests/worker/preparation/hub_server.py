"""A small model hub on loopback, speaking as much of the public hub's HTTP API as a download needs."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HOLD_SECONDS = 10.0


@dataclass
class Hub:
    """What the server has and what it was asked for."""

    repos: dict[str, dict[str, bytes]]
    revisions: set[str] = field(default_factory=lambda: {"main", "v1", COMMIT})
    gated: set[str] = field(default_factory=set)
    # Answers of 503 still to give before anything else.
    troubles: int = 0
    # What the hub says a file has, where that is not the truth.
    sizes: dict[str, int] = field(default_factory=dict)
    # A file whose content is kept back until `released` is set.
    held: str | None = None
    released: threading.Event = field(default_factory=threading.Event)
    # Files of which the hub has no more than their hash in a store behind it, as of all weights today.
    stored_behind: set[str] = field(default_factory=set)
    store_requests: int = 0
    downloads: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    url: str = ""


@contextmanager
def hub_server(hub: Hub) -> Iterator[Hub]:
    """Serve the hub while the block lasts; `hub.url` is its endpoint."""

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.served
        hub.tokens.add(self.headers.get("Authorization"))
        if hub.troubles > 0:
            hub.troubles -= 1
            self._error(503, "", "the hub is being restarted")
            return
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "store-token":
            self._store_token()
            return
        if parts[0] == "store":
            hub.store_requests += 1
            self._error(404, "", "the store has lost it")
            return
        if parts[:2] == ["api", "models"]:
            repo, action, revision = "/".join(parts[2:4]), parts[4] if len(parts) > 4 else "", parts[5:6]
        else:
            repo, action, revision = "/".join(parts[:2]), "resolve", parts[3:4]
        if repo not in hub.repos:
            self._error(401, "RepoNotFound", "Repository not found")
        elif repo in hub.gated:
            self._error(403, "GatedRepo", "Access to this repository is restricted")
        elif revision and revision[0] not in hub.revisions:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision[0]}")
        elif action == "revision" or action == "":
            siblings: list[dict[str, Any]] = [{"rfilename": name} for name in hub.repos[repo]]
            if "blobs" in parse_qs(urlsplit(self.path).query):
                for sibling, (name, content) in zip(siblings, hub.repos[repo].items(), strict=True):
                    sibling["size"] = hub.sizes.get(name, len(content))
            self._json({"id": repo, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})
        elif action == "tree":
            self._json([self._entry(name, content) for name, content in hub.repos[repo].items()])
        else:
            self._file(repo, "/".join(parts[4:]))

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(content), "oid": sha1(content).hexdigest()}

    def _file(self, repo: str, name: str) -> None:
        content = self.served.repos[repo].get(name)
        if content is None:
            self._error(404, "EntryNotFound", "Entry not found")
            return
        if self.command == "GET":
            self.served.downloads.append(name)
            if name == self.served.held:
                self.served.released.wait(HOLD_SECONDS)
        headers = {"ETag": f'"{sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if name in self.served.stored_behind:
            headers |= {"X-Xet-Hash": "ab" * 32, "X-Xet-Refresh-Route": f"{self.served.url}/store-token"}
        self._send(200, content, headers)

    def _store_token(self) -> None:
        headers = {
            "X-Xet-Cas-Url": f"{self.served.url}/store",
            "X-Xet-Access-Token": "token",
            "X-Xet-Token-Expiration": "4102444800",
        }
        self._send(200, b"", headers)

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": message} if code else {})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the test says what went wrong."""
