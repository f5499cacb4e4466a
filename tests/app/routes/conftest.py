"""The real application in this process, and a real server of it where the socket matters."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.logging import configure_logging
from app.main import create_app
from app.settings import Settings, get_settings
from app.storage.store import ObjectStore


@pytest.fixture(scope="session")
def application(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """One application for many tests: the first request of each costs more than most tests."""
    return create_app(Settings(home=tmp_path_factory.mktemp("application")))


@pytest.fixture
def client(application: FastAPI) -> TestClient:
    """A client of the application with the test's settings. The lifespan (the sweep) does not run.

    Ask for `database` (or one kind of it) before this.
    """
    application.state.settings = get_settings()
    application.state.store = ObjectStore.from_settings(get_settings())
    return TestClient(application, raise_server_exceptions=False)


@pytest.fixture(autouse=True)
def logging_of_the_service(home: Path) -> Iterator[None]:  # noqa: ARG001
    """Logs as in production, and afterwards the test run's own again."""
    root = logging.getLogger()
    handlers, level, structured = root.handlers[:], root.level, structlog.get_config()
    configure_logging(get_settings(), service="api")
    yield
    root.handlers[:], root.level = handlers, level
    structlog.configure(**structured)


@pytest.fixture
def server() -> Iterator[str]:
    """The application behind uvicorn on a free port. Gives its address."""
    # A connection that was answered in the middle of its request is closed only then.
    config = uvicorn.Config(create_app(get_settings()), log_config=None, lifespan="on", timeout_keep_alive=1)
    running = uvicorn.Server(config)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + 60
    while not running.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(timeout=20)
        listener.close()
