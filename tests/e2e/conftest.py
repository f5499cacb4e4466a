from pathlib import Path

import pytest

from tests.e2e import tiny


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_teacher(tmp_path_factory.mktemp("teachers") / "tiny")
