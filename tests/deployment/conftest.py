from collections.abc import Callable, Iterator

import httpx
import pytest
from starlette.testclient import TestClient

from app import exposition
from app.main import create_app
from tests.deployment.files import COMPOSE_VARIABLES, Manifest, compose_services
from tests.fixtures.environment import ChangeSettings


@pytest.fixture(scope="session")
def services() -> dict[str, Manifest]:
    """The services of docker-compose.yml, with every default and anchor filled in."""
    return compose_services(COMPOSE_VARIABLES)


@pytest.fixture
def answers(sqlite_database: str, change_settings: ChangeSettings) -> Iterator[Callable[[str, str], bool]]:  # noqa: ARG001
    """Whether a probe finds its path: on the API's port (`http`), or on the one of workers and the scheduler."""
    settings = change_settings(metrics_port=0)
    api = TestClient(create_app(settings))
    server = exposition.serve(settings)
    assert server is not None
    address = f"http://127.0.0.1:{server.server_address[1]}"

    def ask(port: str, path: str) -> bool:
        response = api.get(path) if port == "http" else httpx.get(address + path)
        return bool(response.status_code == httpx.codes.OK)

    yield ask
    server.shutdown()
    server.server_close()
