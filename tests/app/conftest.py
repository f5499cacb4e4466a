"""The real API for the tests of its clients."""

import contextlib
import time
from collections.abc import Iterator

import pytest

from app.client.api import Api
from app.embedded import ApiThread, bind
from app.settings import get_settings


@pytest.fixture
def api(sqlite_database: str) -> Iterator[Api]:  # noqa: ARG001
    """A client of the real API over an empty database; no worker runs."""
    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        server = ApiThread(get_settings(), listener)
        server.start()
        while not server.is_serving:
            server.check()
            time.sleep(0.01)
        with Api(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            yield client
        server.ask_to_stop()
        server.wait_until_stopped(lambda: False)
