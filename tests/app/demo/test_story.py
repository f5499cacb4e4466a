from pathlib import Path

import pytest

from app.demo import story
from tests.fixtures.servers import free_port


class TestRun:
    def test_says_that_no_server_answers_at_the_given_address(
        self,
        home: Path,  # noqa: ARG002
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        assert story.run(url=url, port=None, output=None) == 1
        assert f"No Stillhouse server answers at {url}" in capsys.readouterr().out

    # The whole of it, on a tiny model: tests/e2e/test_embedded.py.
