from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import tiny
from tests.e2e.system import Client, Embedded, Up, environment


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_teacher(tmp_path_factory.mktemp("teachers") / "tiny")


@pytest.fixture(scope="package")
def embedded(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Iterator[Embedded]:
    """One for all tests of the group of that name: each seeds what the demo needs, which takes a while."""
    home = tmp_path_factory.mktemp("home")
    up = Up(home, environment(home, teacher_dirs=teacher_folder.parent))
    system = Embedded(up, Client(up.address))
    try:
        client = system.client
        system.dataset, system.teacher = client.upload_dataset(), client.register_teacher(teacher_folder)
        client.wait_until_ready("datasets", system.dataset, process=up)
        client.wait_until_ready("teachers", system.teacher, process=up)
        yield system
    finally:
        system.client.http.close()
        system.up.end()
