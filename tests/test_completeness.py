"""What becomes of tests that are skipped: nothing, unless all are asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.completeness import VARIABLE

ROOT = Path(__file__).parents[1]
MARKED = """
    @pytest.mark.skipif(True, reason={reason!r})
    def test_it():
        pass
"""
IN_A_FIXTURE = """
    @pytest.fixture
    def tool():
        pytest.skip({reason!r})

    def test_it(tool):
        pass
"""
EXPECTED = """
    @pytest.mark.xfail(reason={reason!r})
    def test_it():
        raise KeyError
"""


def run(folder: Path, body: str, *, reason: str, complete: str) -> "subprocess.CompletedProcess[str]":
    """A run of one test of that body."""
    lines = [line[4:] for line in body.format(reason=reason).splitlines()]
    (folder / "test_it.py").write_text("\n".join(["import pytest", *lines]))
    options = ["-p", "tests.fixtures.completeness", "-p", "no:cacheprovider", f"--rootdir={folder}"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(folder)],
        cwd=ROOT,
        # Of what is installed for other tests nothing is loaded, which takes longer than all else here.
        env={**os.environ, VARIABLE: complete, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("body", [MARKED, IN_A_FIXTURE])
class TestSkip:
    def test_for_want_of_a_program_is_a_failure_of_a_complete_run(self, body: str, tmp_path: Path) -> None:
        """Harm: a check that passes on a machine where half of what it should show was never tried."""
        ended = run(tmp_path, body, reason="needs a C compiler", complete="1")
        assert ended.returncode == 1
        assert "asks for all tests: needs a C compiler." in ended.stdout

    def test_for_want_of_a_gpu_is_none(self, body: str, tmp_path: Path) -> None:
        assert run(tmp_path, body, reason="needs a CUDA device", complete="1").returncode == 0

    def test_is_none_for_whoever_tries_the_tests_out(self, body: str, tmp_path: Path) -> None:
        assert run(tmp_path, body, reason="needs a C compiler", complete="").returncode == 0


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    assert run(tmp_path, EXPECTED, reason="known", complete="1").returncode == 0
